"""The kernels that training on one micro-batch launches, and what it keeps: seen by running it on abstract tensors.

The micro-batch has a prime number of samples, so that a size that it divides grows with the samples, and others do not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from fullbore.models import execution, head
from fullbore.models.abstract import Execution
from fullbore.models.build import Sizes
from fullbore.models.hub import Hub
from fullbore.models.packing import Packing, first_position
from fullbore.models.supervised import Classification, Regression
from fullbore.spec.model import TaskSection
from fullbore.spec.work import Amount, Launch, Launches

aten = torch.ops.aten
_SAMPLES = 100_003
_PRECISIONS = ("fp32", "bf16")
_CPU = torch.device("cpu")
_VIEWS = (
    "detach", "alias", "empty", "empty_like", "new_empty", "empty_strided", "lift_fresh", "scalar_tensor", "expand",
    "_unsafe_view", "new_empty_strided",
)  # fmt: skip
_TAKEN = ("embedding", "index", "index_select", "gather")
"""Operators that read of their first input only what they write."""
_PRODUCTS = (aten.mm, aten.addmm, aten.bmm, aten.baddbmm)


def _amount(size: float) -> Amount:
    whole = size and size % _SAMPLES == 0
    return Amount(0.0, size / _SAMPLES) if whole else Amount(float(size), 0.0)


def _sum(amounts: Sequence[Amount]) -> Amount:
    return Amount(sum(a.fixed for a in amounts), sum(a.each for a in amounts))


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)


class _Seen:
    """Launches by kind, and the largest amounts of bytes that lived at once."""

    def __init__(self) -> None:
        self.launches = Counter[Launch]()
        self.backward = False
        self.live = Amount(0.0, 0.0)
        self.peaks: list[Amount] = []

    def hold(self, size: int, begins: bool) -> None:
        amount, sign = _amount(size), 1 if begins else -1
        self.live = Amount(self.live.fixed + sign * amount.fixed, self.live.each + sign * amount.each)
        if begins and not any(p.fixed >= self.live.fixed and p.each >= self.live.each for p in self.peaks):
            kept = [p for p in self.peaks if p.fixed > self.live.fixed or p.each > self.live.each]
            self.peaks = [*kept, self.live]

    def launched(self, func: Any, arguments: Sequence[Any], result: Any) -> None:
        name = func.overloadpacket.__name__
        inputs, outputs = list(_tensors(arguments)), list(_tensors(result))
        returned = func._schema.returns
        view = bool(returned) and returned[0].alias_info is not None and not returned[0].alias_info.is_write
        if view or name in _VIEWS or not outputs:
            self._add("view", "fp32", (), Amount(0.0, 0.0))
            return
        unique = {(t.data_ptr(), t.storage_offset(), id(t.untyped_storage()), tuple(t.shape)): t for t in inputs}
        moved = (*unique.values(), *outputs)
        if name in _TAKEN:
            moved = (outputs[0], outputs[0])
        bytes_ = _sum([_amount(_distinct(t) * t.element_size()) for t in moved])
        dtype = _dtype(inputs, outputs)
        for told, sizes in _kinds(func.overloadpacket, arguments, inputs, outputs):
            self._add(told, dtype, tuple(_amount(size) for size in sizes), bytes_)

    def _add(self, name: str, dtype: str, sizes: tuple[Amount, ...], bytes_: Amount) -> None:
        self.launches[Launch(name, dtype, self.backward, sizes, bytes_)] += 1

    def start(self) -> None:
        """Forget what was before; what lives now does not count."""
        self.launches.clear()
        self.live, self.peaks = Amount(0.0, 0.0), []

    def listed(self) -> tuple[Launch, ...]:
        return _listed(self.launches)


def _distinct(tensor: Tensor) -> int:
    """Elements of a tensor that lie at places of their own: an expanded one is read from few."""
    return prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)


def _dtype(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> str:
    """Of what is read; of what is written if nothing is. Numbers without dimensions do not count."""
    read = {t.dtype for t in inputs if t.is_floating_point() and t.ndim}
    read = read or {t.dtype for t in outputs if t.is_floating_point()}
    names = {"bf16" if dtype is torch.bfloat16 else "fp32" for dtype in read}
    return "mixed" if len(names) == 2 else next(iter(names), "fp32")


Kind = tuple[str, tuple[float, ...]]


def _kinds(packet: Any, arguments: Sequence[Any], inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> list[Kind]:
    """Name and sizes of what a call does, by which its time is known; no sizes: its bytes are enough."""
    name, first, answer = packet.__name__, inputs[0] if inputs else outputs[0], outputs[0]
    if packet in _PRODUCTS:
        return [_product(*inputs[-2:])]
    if packet is aten.convolution:
        return [_convolution("", first, inputs[1], answer)]
    if packet is aten.convolution_backward:
        wanted = zip((".input", ".weight"), arguments[-1], strict=False)
        return [_convolution(part, inputs[1], inputs[2], first) for part, asked in wanted if asked]
    if name.startswith("_scaled_dot_product"):
        return [
            _attention(
                "backward" in name, any(a is True for a in arguments), *inputs[1 if "backward" in name else 0 :][:2]
            )
        ]
    if name.startswith("packed_attention"):
        return [_packed(name, inputs, arguments)]
    if packet in (aten._to_copy, aten.clone, aten.copy_):
        source = inputs[-1]
        one, two = _order(source), _order(answer)
        if source.shape == answer.shape and one != two:
            return [("turn" if one[-1:] != two[-1:] else "transpose", ())]
        return [("cast" if source.dtype is not answer.dtype else "copy", ())]
    if packet is aten.embedding_dense_backward:
        return [(name, (first.numel(), answer.numel()))]
    if packet is aten.sum and first.ndim > 1 and answer.numel() > 1 and answer.shape[-1] == first.shape[-1]:
        return [("sum.columns", (first.numel() / first.shape[-1], first.shape[-1]))]
    if name not in _TAKEN and any(t.is_floating_point() and not _dense(t) for t in (*inputs, answer)):
        return [("strided", ())]
    return [(name.removesuffix("_"), ())]


def _dense(tensor: Tensor) -> bool:
    """Whether its elements, repeated ones aside, lie side by side."""
    return tensor.numel() < 2 or _distinct(tensor) >= 1 + sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )


def _order(tensor: Tensor) -> list[int]:
    """Its dimensions, the one with the longest strides first."""
    return sorted((i for i, size in enumerate(tensor.shape) if size > 1), key=lambda i: -tensor.stride()[i])


def _product(first: Tensor, second: Tensor) -> Kind:
    layout = "".join("N" if t.stride(-1) == 1 or t.shape[-1] == 1 else "T" for t in (first, second))
    sizes = (first.shape[-2], second.shape[-1], first.shape[-1])
    return (f"product.{layout}", sizes) if first.ndim == 2 else (f"bmm.{layout}", (first.shape[0], *sizes))


def _convolution(part: str, pictures: Tensor, weight: Tensor, answers: Tensor) -> Kind:
    places = pictures.shape[0] * prod(answers.shape[2:])
    return f"convolution{pictures.ndim - 2}{part}", (places, *weight.shape[:2], prod(weight.shape[2:]))


def _attention(backward: bool, causal: bool, queries: Tensor, keys: Tensor) -> Kind:
    name = "attention" + (".causal" if causal else "") + (".backward" if backward else "")
    length = math.sqrt(queries.shape[-2] * keys.shape[-2])
    return name, (prod(queries.shape[:-2]), length, queries.shape[-1])


def _packed(name: str, inputs: Sequence[Tensor], arguments: Sequence[Any]) -> Kind:
    """Of `models.packing`: its last arguments are what dropout drops, and its seed."""
    queries, samples = inputs[-4], inputs[-1].numel() - 1
    told = "packed_attention" + (".dropout" if arguments[-2] else "") + (".backward" if "backward" in name else "")
    return told, (samples, queries.shape[1], queries.shape[0] / samples, queries.shape[2])


@dataclass(frozen=True)
class Traced:
    launches: dict[str, Launches]
    """By precision, and by `<precision>+recompute`."""
    weights: tuple[tuple[int, ...], ...]
    """Shapes of the trained parameters."""
    matrices: tuple[tuple[int, ...], ...]
    """Those of them that are matrices and no embeddings."""


def trace(build: Callable[[], nn.Module], task: TaskSection, sizes: Sizes) -> Traced:
    """What training the network of `build` for `task` launches; building it costs no memory."""
    with Execution(lambda *_: None, lambda *_: None, _CPU):
        module = build().train()
    if isinstance(module, Hub) and module.kind != "causal_lm":
        first = first_position(module.network.config, type(module.network))
        module._packing = None if first is None else Packing(module.network, first)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    embeddings = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    shapes = [(tuple(p.shape), p.ndim == 2 and id(p) not in embeddings) for p in trained]
    found = {precision: _launches(module, task, sizes, precision) for precision in _PRECISIONS}
    if execution.recompute(module):
        again = {f"{precision}+recompute": _launches(module, task, sizes, precision) for precision in _PRECISIONS}
        found |= again
    return Traced(
        found,
        tuple(shape for shape, _ in shapes),
        tuple(shape for shape, matrix in shapes if matrix),
    )


def _launches(module: Any, task: TaskSection, sizes: Sizes, precision: str) -> Launches:
    for parameter in module.parameters():
        parameter.grad = None
    seen = _Seen()
    with Execution(seen.launched, seen.hold, _CPU):
        seen.start()
        batch = _batch(module, task, sizes)
        if not task.kind.endswith("_lm"):
            judge = Regression() if task.kind == "regression" else Classification()
            with _autocast(precision):
                loss = judge.loss(module, batch)
            _backward(loss, None, seen)
            return Launches(seen.listed(), peaks=tuple(seen.peaks))
        hidden, rows = _hidden(module, task, batch, precision)
        held = seen.live
        _backward(hidden, torch.empty_like(hidden), seen)
    split = getattr(module, "splits", True)
    weight, bias = (module.head_weight, module.head_bias) if split else (None, None)
    one, two = (_head(hidden, weight, bias, chunks, precision) for chunks in (1, 2))
    chunk = {launch: two.launches[launch] - count for launch, count in one.launches.items()}
    chunk = {launch: count for launch, count in chunk.items() if count > 0}
    return Launches(
        body=seen.listed(),
        head=_listed({launch: count - chunk.get(launch, 0) for launch, count in one.launches.items()}),
        chunk=_listed(chunk),
        chunk_rows=head.CHUNK,
        rows=float(rows),
        peaks=tuple(seen.peaks),
        held=Amount(held.fixed, held.each + rows * hidden.shape[-1] * hidden.element_size()),
        head_peaks=tuple(one.peaks),
    )


def _listed(launches: Mapping[Launch, int]) -> tuple[Launch, ...]:
    return tuple(replace(launch, count=count) for launch, count in launches.items() if count)


def _autocast(precision: str) -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16")


def _backward(result: Tensor, gradient: Tensor | None, seen: _Seen) -> None:
    seen.backward = True
    result.backward(gradient)  # type: ignore[no-untyped-call]
    seen.backward = False


def _batch(module: nn.Module, task: TaskSection, sizes: Sizes) -> dict[str, Tensor]:
    count, length = _SAMPLES, sizes.sequence_length or 1
    kind = getattr(module, "inputs", "tokens")
    if kind == "pixels":
        batch = {"pixels": torch.empty(count, *(sizes.image or (1, 1, 1)), dtype=torch.uint8)}
    elif kind == "features":
        batch = {"features": torch.empty(count, sizes.features or 1)}
    else:
        batch = {"tokens": torch.empty(count, length + (task.kind == "causal_lm"), dtype=torch.int32)}
        if task.kind != "causal_lm":
            batch["attention_mask"] = torch.empty(count, length, dtype=torch.bool)
    if task.kind == "classification":
        batch["label"] = torch.empty(count, dtype=torch.int64)
    if task.kind == "regression":
        batch["target"] = torch.empty(count)
    return batch


def _hidden(module: Any, task: TaskSection, batch: dict[str, Tensor], precision: str) -> tuple[Tensor, int]:
    """What the head reads [N, D], and rows of it for each sample."""
    causal = task.kind == "causal_lm"
    tokens = batch["tokens"][:, :-1] if causal else batch["tokens"]
    asked = (tokens,) if causal else (tokens, batch["attention_mask"])
    with _autocast(precision):
        hidden = (module.hidden(*asked) if getattr(module, "splits", True) else module(*asked)).flatten(0, 1)
        if causal:
            return hidden, tokens.shape[1]
        rows = max(1, round(tokens.shape[1] * task.mask_share))
        return hidden[torch.empty(_SAMPLES * rows, dtype=torch.int64)], rows


def _head(hidden: Tensor, weight: Tensor | None, bias: Tensor | None, chunks: int, precision: str) -> _Seen:
    """The loss of `chunks` chunks of _SAMPLES rows, forward and backward."""
    seen = _Seen()
    execution = Execution(seen.launched, seen.hold, _CPU)

    def leaf(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return execution.tensor(torch.empty(shape, dtype=dtype, device="meta")).requires_grad_(True)

    rows = leaf((chunks * _SAMPLES, hidden.shape[-1]), hidden.dtype)
    weight, bias = (None if given is None else leaf(given.shape, given.dtype) for given in (weight, bias))
    with execution:
        targets = torch.empty(chunks * _SAMPLES, dtype=torch.int64)
        seen.start()
        with _autocast(precision):
            loss = head.head_loss(rows, weight, bias, targets, chunk=_SAMPLES)
        _backward(loss, None, seen)
    return seen
