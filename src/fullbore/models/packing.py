"""Batches without their padding: the tokens of all samples in one row, each attending to its own sample alone.

What an encoder does to a token does not depend on its place in the batch, but for attention. So the samples of a padded
batch [B, T] are laid end to end, [1, N] with N the tokens that are not padding, and only attention is told where each
begins (as `cu_seq_lens_q`, the name that transformers' own kernels for accelerators go by). Outputs are laid out as
[B, T] again before anything reads them by sample.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_NAME = "fullbore_packed"
_POSITIONS = 16
_LENGTHS = (13, 9)
"""Two samples that together are longer than so many positions, to try a network's architecture on."""
_UNKNOWN = ("softcap", "sliding_window", "s_aux", "position_bias", "head_mask")
"""What an attention may ask for that is not known here."""
_UNSUITED = ("is_decoder", "is_encoder_decoder", "sliding_window", "local_attention")
"""Settings of architectures whose tokens attend to others than all of their sample."""


def _spans(starts: Tensor) -> Iterator[tuple[int, int]]:
    return pairwise(starts.tolist())


def _shares(queries: Tensor, keys: Tensor, scale: float) -> Tensor:
    return torch.softmax(torch.matmul(queries * scale, keys.transpose(-1, -2)), -1)


def _kept(shares: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
    """Dropout's factors: 0, or what makes up for the zeros."""
    kept = torch.empty_like(shares).bernoulli_(1 - dropout, generator=generator)
    return kept.div_(1 - dropout)


@torch.library.custom_op("fullbore::packed_attention", mutates_args=())
def packed_attention(
    queries: Tensor, keys: Tensor, values: Tensor, starts: Tensor, scale: float, dropout: float, seed: int
) -> Tensor:
    """Attention [N, H, W] of each token to those of its own sample, sample i at [starts[i], starts[i + 1]).

    Shares are computed again for the backward pass, so what is kept grows with N alone. `dropout` draws from `seed`.
    """
    mixed = torch.empty_like(queries, memory_format=torch.contiguous_format)
    generator = torch.Generator().manual_seed(seed)
    for begin, end in _spans(starts):
        q, k, v = (whole[begin:end].transpose(0, 1) for whole in (queries, keys, values))
        shares = _shares(q, k, scale)
        if dropout:
            shares *= _kept(shares, dropout, generator)
        mixed[begin:end] = torch.matmul(shares, v).transpose(0, 1)
    return mixed


@torch.library.custom_op("fullbore::packed_attention_backward", mutates_args=())
def _backward(
    gradient: Tensor, queries: Tensor, keys: Tensor, values: Tensor, starts: Tensor, scale: float, dropout: float,
    seed: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    like = torch.contiguous_format
    found = tuple(torch.empty_like(whole, memory_format=like) for whole in (queries, keys, values))
    generator = torch.Generator().manual_seed(seed)
    for begin, end in _spans(starts):
        q, k, v, g = (whole[begin:end].transpose(0, 1) for whole in (queries, keys, values, gradient))
        shares = _shares(q, k, scale)
        of_shares = torch.matmul(g, v.transpose(-1, -2))
        mixed = shares
        if dropout:
            kept = _kept(shares, dropout, generator)
            of_shares, mixed = of_shares * kept, shares * kept
        of_scores = torch.ops.aten._softmax_backward_data(of_shares, shares, -1, shares.dtype)
        parts = (
            torch.matmul(of_scores, k).mul_(scale),
            torch.matmul(of_scores.transpose(-1, -2), q).mul_(scale),
            torch.matmul(mixed.transpose(-1, -2), g),
        )
        for whole, part in zip(found, parts, strict=True):
            whole[begin:end] = part.transpose(0, 1)
    return found[0], found[1], found[2]


@packed_attention.register_fake
def _(queries: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(queries, memory_format=torch.contiguous_format)


@_backward.register_fake
def _(_: Tensor, queries: Tensor, keys: Tensor, values: Tensor, *__: Any) -> tuple[Tensor, Tensor, Tensor]:
    like = torch.contiguous_format
    of_queries, of_keys = torch.empty_like(queries, memory_format=like), torch.empty_like(keys, memory_format=like)
    return of_queries, of_keys, torch.empty_like(values, memory_format=like)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    ctx.save_for_backward(*inputs[:4])
    ctx.rest = inputs[4:]


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return (*_backward(gradient.contiguous(), *ctx.saved_tensors, *ctx.rest), None, None, None, None)


packed_attention.register_autograd(_differentiate, setup_context=_keep)


def _attend(
    module: nn.Module, queries: Tensor, keys: Tensor, values: Tensor, attention_mask: Tensor | None, **asked: Any
) -> tuple[Tensor, None]:
    """transformers' attention interface: [B, H, T, W] each, to [B, T, H, W]."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    starts = asked.pop("cu_seq_lens_q", None)
    if starts is None:
        return sdpa_attention_forward(module, queries, keys, values, attention_mask, **asked)
    odd = [name for name in _UNKNOWN if asked.get(name) is not None]
    if odd or attention_mask is not None or queries.shape != keys.shape or getattr(module, "is_causal", False):
        raise NotImplementedError(f"packed attention with {', '.join(odd) or 'a mask of its own'}")
    dropout = float(asked.get("dropout") or 0.0)
    seed = int(torch.randint(2**62, ()).item()) if dropout else 0
    scale = asked.get("scaling") or queries.shape[-1] ** -0.5
    rows = (whole.squeeze(0).transpose(0, 1) for whole in (queries, keys, values))
    return packed_attention(*rows, starts, scale, dropout, seed).unsqueeze(0), None


def _register() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(_NAME, _attend)
    AttentionMaskInterface.register(_NAME, sdpa_mask)


class Packing:
    """Calls a transformers network on padded batches without computing their padding."""

    def __init__(self, network: Any, shift: int) -> None:
        """`shift`: the number of a sample's first position."""
        self._network, self.shift = network, shift
        self._places: tuple[Tensor, int, int] | None = None
        _register()
        network.set_attn_implementation(_NAME)
        network.base_model.register_forward_hook(self._pad_outputs)
        for name, module in network.base_model.named_children():
            if name == "pooler":
                module.register_forward_pre_hook(self._pad_inputs)

    def __call__(self, tokens: Tensor, mask: Tensor) -> Any:
        """What `network(tokens, mask)` returns, up to rounding."""
        rows, width = mask.shape
        places = mask.flatten().nonzero().squeeze(1)
        starts = F.pad(mask.sum(1).cumsum(0), (1, 0))
        with self._packed(places, rows, width):
            return self._network(
                input_ids=tokens.flatten()[places].long().unsqueeze(0),
                position_ids=(places % width + self.shift).unsqueeze(0),
                cu_seq_lens_q=starts,
                return_dict=True,
            )

    @contextmanager
    def _packed(self, places: Tensor, rows: int, width: int) -> Iterator[None]:
        self._places = (places, rows, width)
        try:
            yield
        finally:
            self._places = None

    def _padded(self, hidden: Tensor) -> Tensor:
        """[1, N, D] as [B, T, D], zeros where the padding is."""
        if self._places is None or hidden.ndim != 3 or hidden.shape[:2] != (1, len(self._places[0])):
            return hidden
        places, rows, width = self._places
        whole = hidden.new_zeros(rows * width, hidden.shape[-1])
        return whole.index_copy(0, places, hidden.squeeze(0)).view(rows, width, -1)

    def _pad_inputs(self, _: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._padded(given[0]), *given[1:])

    def _pad_outputs(self, _: nn.Module, __: Any, outputs: Any) -> Any:
        outputs["last_hidden_state"] = self._padded(outputs.last_hidden_state)
        return outputs


def first_position(config: Any, build: Callable[[Any], Any]) -> int | None:
    """What packed samples call their first position, if a small network of the architecture of `config`, which `build`
    makes of it, answers the same packed as padded; none for those that do not (relative positions, windows, attention
    of their own)."""
    config = copy.deepcopy(config)
    if any(getattr(config, name, None) for name in _UNSUITED):
        return None
    config.update({"num_hidden_layers": 2, "max_position_embeddings": _POSITIONS})
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            return _shift(build(config).eval())
    except Exception:  # what does not know packed samples fails in a way of its own
        return None


def _shift(small: Any) -> int | None:
    """What the first position of a sample is called, if anything makes packed and padded samples the same."""
    first = 1 + (small.config.pad_token_id or 0)
    mask = torch.arange(max(_LENGTHS)) < torch.tensor(_LENGTHS).unsqueeze(1)
    tokens = torch.randint(first, small.config.vocab_size, mask.shape).masked_fill(~mask, first - 1)
    expected = small(input_ids=tokens, attention_mask=mask.long(), return_dict=True).logits
    tried = Packing(small, 0)
    for shift in (0, first):
        tried.shift = shift
        found = tried(tokens, mask).logits
        if found.shape == expected.shape and torch.allclose(_read(found, mask), _read(expected, mask), atol=1e-4):
            return shift
    return None


def _read(logits: Tensor, mask: Tensor) -> Tensor:
    """Logits [B, C], or those [B, T, V] of tokens that are not padding."""
    return logits if logits.ndim == 2 else logits[mask]
