"""The chunked head: equal to F.cross_entropy, without the logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fullbore.models.head import head_loss, head_rows


def _inputs(rows: int = 37, width: int = 16, vocabulary: int = 53) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    source = torch.Generator().manual_seed(1)
    hidden = torch.randn(rows, width, generator=source).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=source).requires_grad_()
    bias = torch.randn(vocabulary, generator=source).requires_grad_()
    targets = torch.randint(0, vocabulary, (rows,), generator=source, dtype=torch.int32)
    targets[::5] = -100
    return hidden, weight, bias, targets


@pytest.mark.parametrize("chunk", [1, 8, 37, 1024])
@pytest.mark.parametrize("biased", [True, False])
def test_loss_and_gradients_equal_cross_entropy(chunk: int, biased: bool) -> None:
    hidden, weight, bias, targets = _inputs()
    offset = bias if biased else None
    leaves = [hidden, weight, bias] if biased else [hidden, weight]
    ours = head_loss(hidden, weight, offset, targets, chunk=chunk)
    theirs = F.cross_entropy(F.linear(hidden, weight, offset), targets.long(), reduction="sum")
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for mine, other in zip(
        torch.autograd.grad(ours * 0.5, leaves), torch.autograd.grad(theirs * 0.5, leaves), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


def test_logits_themselves_can_be_given() -> None:
    hidden, weight, _, targets = _inputs()
    logits = F.linear(hidden, weight).detach().requires_grad_()
    ours = head_loss(logits, None, None, targets, chunk=8)
    theirs = F.cross_entropy(logits, targets.long(), reduction="sum")
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits))


def test_without_gradients_the_loss_is_the_same() -> None:
    hidden, weight, bias, targets = _inputs()
    with torch.no_grad():
        quiet = head_loss(hidden, weight, bias, targets, chunk=8)
    torch.testing.assert_close(quiet, head_loss(hidden, weight, bias, targets, chunk=8).detach())


def test_rows_say_their_loss_and_whether_they_are_right() -> None:
    hidden, weight, bias, targets = _inputs()
    losses, hits = head_rows(hidden, weight, bias, targets, chunk=8)
    logits = F.linear(hidden, weight, bias)
    torch.testing.assert_close(losses, F.cross_entropy(logits, targets.long(), reduction="none").detach())
    assert hits.tolist() == (logits.argmax(1) == targets).tolist()
    assert not hits[::5].any() and not losses[::5].any()


def test_a_row_without_any_target_gives_no_loss_and_no_gradient() -> None:
    hidden, weight, bias, targets = _inputs()
    loss = head_loss(hidden, weight, bias, torch.full_like(targets, -100))
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, hidden)[0].any()


class _Watch(TorchDispatchMode):
    """Notes the dtypes of products and the largest tensor of each dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.products: set[torch.dtype] = set()
        self.largest: dict[torch.dtype, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.largest[result.dtype] = max(self.largest.get(result.dtype, 0), result.numel())
            if func.overloadpacket.__name__ in ("mm", "addmm"):
                self.products.add(result.dtype)
        return result


def test_under_autocast_products_run_in_bf16_and_only_a_chunk_of_logits_exists() -> None:
    hidden, weight, _, targets = _inputs(rows=512, width=8, vocabulary=300)
    with _Watch() as watch, torch.autocast("cpu", torch.bfloat16):
        loss = head_loss(hidden, weight, None, targets, chunk=32)
        loss.backward()
    assert watch.products == {torch.bfloat16}
    assert watch.largest[torch.float32] <= 32 * 300
    assert watch.largest[torch.bfloat16] <= 32 * 300
    assert loss.dtype == torch.float32
    exact = F.cross_entropy(F.linear(hidden, weight), targets.long(), reduction="sum")
    torch.testing.assert_close(loss, exact, rtol=0.01, atol=0.5)
    assert hidden.grad is not None and weight.grad is not None
