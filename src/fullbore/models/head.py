"""Cross-entropy of a large head without its logits: they exist one chunk of rows at a time, forward and backward.

The gradients are computed in the forward pass, chunk by chunk, and scaled in the backward pass, so that no logits are
kept; in fp32 there is never more than a chunk of them. Under autocast the products run in its dtype.
After Hsu et al. (2024), Liger Kernel, section 3.2 (fused linear cross-entropy).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 1024
IGNORED = -100


def _compute_dtype(hidden: Tensor) -> torch.dtype:
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def _log_probabilities(hidden: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    logits = hidden if weight is None else F.linear(hidden, weight, bias)
    return torch.log_softmax(logits, dim=-1, dtype=torch.float32)


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        targets: Tensor,
        dtype: torch.dtype,
        chunk: int,
    ) -> Tensor:
        narrow = None if weight is None else weight.to(dtype)
        offset = None if bias is None else bias.to(dtype)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        hidden_gradient = torch.empty_like(hidden)
        weight_gradient = None if weight is None else torch.zeros_like(weight, dtype=torch.float32)
        bias_gradient = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), chunk):
                rows = hidden[start : start + chunk].to(dtype)
                wanted = targets[start : start + chunk].long()
                judged = wanted != IGNORED
                index = wanted.clamp_min(0).unsqueeze(1)
                scores = _log_probabilities(rows, narrow, offset)
                total -= (scores.gather(1, index).squeeze(1) * judged).sum()
                slope = scores.exp_()
                slope.scatter_add_(1, index, torch.full_like(index, -1, dtype=torch.float32))
                slope.mul_(judged.unsqueeze(1))
                if bias_gradient is not None:
                    bias_gradient += slope.sum(0)
                slope = slope.to(dtype)
                if narrow is None or weight_gradient is None:
                    hidden_gradient[start : start + chunk] = slope
                else:
                    hidden_gradient[start : start + chunk] = slope @ narrow
                    weight_gradient += slope.t() @ rows
        ctx.save_for_backward(hidden_gradient, weight_gradient, bias_gradient)
        ctx.dtypes = (None if weight is None else weight.dtype, None if bias is None else bias.dtype)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        return (
            hidden * outer[0].to(hidden.dtype),
            None if weight is None else (weight * outer[0]).to(weight_dtype),
            None if bias is None else (bias * outer[0]).to(bias_dtype),
            None,
            None,
            None,
        )


def head_loss(
    hidden: Tensor, weight: Tensor | None, bias: Tensor | None, targets: Tensor, *, chunk: int = CHUNK
) -> Tensor:
    """Sum over the rows of the cross-entropy of `hidden @ weight.T + bias`, in nats, fp32 scalar.

    hidden [N, D] (or, with no weight, the logits [N, V] themselves), weight [V, D], bias [V], targets [N] of any
    integer dtype, -100 where a row is not judged. Equals `F.cross_entropy(..., reduction="sum")`.
    """
    if torch.is_grad_enabled():
        loss: Tensor = _HeadLoss.apply(hidden, weight, bias, targets, _compute_dtype(hidden), chunk)  # type: ignore[no-untyped-call]
        return loss
    return head_rows(hidden, weight, bias, targets, chunk=chunk)[0].sum()


@torch.no_grad()
def head_rows(
    hidden: Tensor, weight: Tensor | None, bias: Tensor | None, targets: Tensor, *, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """Each row's cross-entropy (fp32 [N], 0 where not judged) and whether its likeliest class is right (bool [N])."""
    dtype = _compute_dtype(hidden)
    narrow = None if weight is None else weight.to(dtype)
    offset = None if bias is None else bias.to(dtype)
    losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
    hits = torch.empty(len(hidden), dtype=torch.bool, device=hidden.device)
    with torch.autocast(hidden.device.type, enabled=False):
        for start in range(0, len(hidden), chunk):
            wanted = targets[start : start + chunk].long()
            scores = _log_probabilities(hidden[start : start + chunk].to(dtype), narrow, offset)
            likeliest = scores.argmax(1)
            found = scores.gather(1, wanted.clamp_min(0).unsqueeze(1)).squeeze(1)
            judged = wanted != IGNORED
            losses[start : start + chunk] = -found * judged
            hits[start : start + chunk] = (likeliest == wanted) & judged
    return losses, hits
