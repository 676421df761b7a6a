"""Kernels whose time is measured, in families of like calls on grids of sizes, named as in `spec.work.Launch`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from fullbore.models import packing

aten = torch.ops.aten
DTYPES = {"f": torch.float32, "h": torch.bfloat16}
_KINDS = {"fp32": "f", "bf16": "h"}


@dataclass(frozen=True)
class Operand:
    shape: tuple[int, ...]
    kind: str = "f"
    """f: fp32, h: bf16."""
    below: int = 0
    """If set: integers below this, drawn at random."""


@dataclass(frozen=True)
class Family:
    name: str
    dtype: str
    axes: tuple[tuple[float, ...], ...]
    operands: Callable[..., tuple[Operand, ...]]
    """From the sizes of a point."""
    call: Callable[..., object]
    flops: Callable[..., float] = lambda *sizes: prod(sizes)


def families() -> Iterator[Family]:
    yield from _maps()
    yield from _rows()
    yield from _products()
    yield from _attentions()
    yield from _packed()
    yield from _convolutions()
    yield from _updates()


_BYTES = (2.0**13, 2.0**16, 2.0**19, 2.0**22, 2.0**25)


def _map(name: str, dtype: str, read: str, written: str, call: Callable[..., object], width: int = 256) -> Family:
    """Over arrays of rows of `width`. `read`, `written`: their kinds; a family's one size is their bytes."""
    each = sum(DTYPES[kind].itemsize for kind in read + written)

    def operands(size: int) -> tuple[Operand, ...]:
        return tuple(Operand((max(1, size // each // width), width), kind) for kind in read)

    return Family(name, dtype, (_BYTES,), operands, call, lambda _: 0.0)


def _maps() -> Iterator[Family]:
    for dtype, d in _KINDS.items():
        other = "h" if d == "f" else "f"
        yield _map("map", dtype, d + d, d, torch.add)
        yield _map("cast", dtype, d, other, partial(Tensor.to, dtype=DTYPES[other]))
        yield _map("transpose", dtype, d, d, _turned)
        yield _map("exp", dtype, d, d, torch.exp)
        yield _map("tanh", dtype, d, d, torch.tanh)
        yield _map("gelu", dtype, d, d, F.gelu)
        yield _map("gelu_backward", dtype, d + d, d, aten.gelu_backward)
        yield _map("silu", dtype, d, d, F.silu)
        yield _map("silu_backward", dtype, d + d, d, aten.silu_backward)
        yield _map("threshold_backward", dtype, d + d, d, partial(aten.threshold_backward, threshold=0))
        yield _map("turn", dtype, d, d, lambda x: x.view(-1, 64, 32).transpose(1, 2).contiguous(), 2048)
        yield _map("strided", dtype, d + d, d, lambda x, y: _strided(x, y))
        yield _map("bernoulli", dtype, d, d, partial(Tensor.bernoulli_, p=0.9))
        yield _map("_softmax", dtype, d, d, partial(torch.softmax, dim=-1), 128)
        backward = partial(aten._softmax_backward_data, dim=-1, input_dtype=DTYPES[d])
        yield _map("_softmax_backward_data", dtype, d + d, d, backward, 128)
        yield _map("_log_softmax", dtype, d, d, partial(torch.log_softmax, dim=-1), 2048)
        yield _map("reduce", dtype, d, "", partial(torch.sum, dim=-1))
        yield _map("amax", dtype, d, "", partial(torch.amax, dim=-1))
        yield _map("eq", dtype, d, d, lambda x: x == x[:, :1])
        yield _map("masked_fill", dtype, d, d, lambda x: x.masked_fill(_mask(x), 0))
    yield _map("map", "mixed", "hf", "f", torch.add)
    yield _map("linalg_vector_norm", "fp32", "f", "", partial(torch.linalg.vector_norm, dim=-1, keepdim=True))


def _turned(x: Tensor) -> Tensor:
    return x.view(-1, 8, 32).transpose(0, 1).contiguous()


def _strided(x: Tensor, y: Tensor) -> Tensor:
    """On one half of each 64 elements: twice, for all of them."""
    x, y = x.view(-1, 64), y.view(-1, 64)
    answer = torch.empty_like(x)
    torch.mul(x[:, :32], y[:, 32:], out=answer[:, :32])
    torch.mul(x[:, 32:], y[:, :32], out=answer[:, 32:])
    return answer


def _mask(x: Tensor) -> Tensor:
    return torch.zeros((), dtype=torch.bool).expand(x.shape)


def _rows() -> Iterator[Family]:
    """What depends on the length of rows, or takes rows from elsewhere."""
    width = 256
    for dtype, d in (("fp32", "f"), ("mixed", "h")):
        yield _normed("native_layer_norm", dtype, d, 1, lambda x, w: aten.native_layer_norm(x, [width], w, w, 1e-5))
        yield _normed("native_layer_norm_backward", dtype, d, 2, _layer_norm_backward)
        yield _normed("native_batch_norm", dtype, d, 1, _batch_norm)
        yield _normed("native_batch_norm_backward", dtype, d, 2, _batch_norm_backward)
    for dtype, d in _KINDS.items():
        each = 2 * DTYPES[d].itemsize * width
        table = Operand((8192, width), d)
        ids = lambda size, each=each: Operand((max(1, size // each),), below=8192)  # noqa: E731
        yield Family("embedding", dtype, (_BYTES,), lambda size, t=table, i=ids: (t, i(size)), _taken, lambda _: 0.0)
        yield Family("sum.columns", dtype, (_MANY, _FEW), lambda rows, columns, d=d: (Operand((rows, columns), d),),
                     partial(torch.sum, dim=0))  # fmt: skip
    yield Family(
        "embedding_dense_backward", "fp32", ((2.0**12, 2.0**16, 2.0**20), (2.0**14, 2.0**19, 2.0**24)),
        lambda taken, table: (
            Operand((taken // 128, 128)), Operand((taken // 128,), below=table // 128), Operand((table // 128, 1)),
        ),
        lambda gradient, ids, table: aten.embedding_dense_backward(gradient, ids, len(table), -1, False),
        lambda *_: 0.0,
    )  # fmt: skip


_MANY = (64.0, 1024.0, 16384.0)
_FEW = (32.0, 256.0, 2048.0)


def _taken(table: Tensor, ids: Tensor) -> Tensor:
    return F.embedding(ids, table)


def _normed(name: str, dtype: str, kind: str, arrays: int, call: Callable[..., object]) -> Family:
    """Over rows of 256 of `arrays` arrays, with fp32 weights."""
    each = (arrays + 1) * DTYPES[kind].itemsize * 256

    def operands(size: int) -> tuple[Operand, ...]:
        rows = -(-size // each // 64) * 64 or 64
        return (*(Operand((rows, 256), kind) for _ in range(arrays)), Operand((256,)))

    return Family(name, dtype, (_BYTES[1:],), operands, call, lambda _: 0.0)


def _layer_norm_backward(gradient: Tensor, x: Tensor, weight: Tensor) -> object:
    row = weight[:1].expand(len(x)).unsqueeze(1)
    return aten.native_layer_norm_backward(gradient, x, [256], row, row, weight, weight, [True] * 3)


def _pictures(x: Tensor) -> Tensor:
    """Rows as the channels, 64, of pictures of 8 x 8, channels last."""
    return x.view(-1, 8, 8, 64).permute(0, 3, 1, 2)


def _batch_norm(x: Tensor, weight: Tensor) -> object:
    each = weight[:64]
    return aten.native_batch_norm(_pictures(x), each, each, each, each, True, 0.0, 1e-5)


def _batch_norm_backward(gradient: Tensor, x: Tensor, weight: Tensor) -> object:
    each = weight[:64]
    return aten.native_batch_norm_backward(
        _pictures(gradient), _pictures(x), each, each, each, each, each, True, 1e-5, [True] * 3
    )


_SIDES = (16.0, 64.0, 256.0, 1024.0, 4096.0)
_SHORT = (32.0, 128.0, 512.0)
_LAYOUTS = ("NN", "NT", "TN")


def _products() -> Iterator[Family]:
    for (dtype, d), layout in product(_KINDS.items(), _LAYOUTS):
        flops = lambda m, n, k: 2 * m * n * k  # noqa: E731
        yield Family(
            f"product.{layout}", dtype, (_SIDES,) * 3, partial(_matrices, d, layout, ()), _times(layout), flops
        )
        many = lambda b, m, n, k: 2 * b * m * n * k  # noqa: E731
        operands = lambda b, m, n, k, d=d, layout=layout: _matrices(d, layout, (b,), m, n, k)  # noqa: E731
        yield Family(f"bmm.{layout}", dtype, ((8.0, 64.0), *(_SHORT,) * 3), operands, _times(layout), many)


def _matrices(kind: str, layout: str, batch: tuple[int, ...], m: int, n: int, k: int) -> tuple[Operand, ...]:
    first, second = (m, k) if layout[0] == "N" else (k, m), (k, n) if layout[1] == "N" else (n, k)
    return Operand((*batch, *first), kind), Operand((*batch, *second), kind)


def _times(layout: str) -> Callable[[Tensor, Tensor], Tensor]:
    def turned(matrix: Tensor, how: str) -> Tensor:
        return matrix if how == "N" else matrix.transpose(-1, -2)

    return lambda first, second: torch.matmul(turned(first, layout[0]), turned(second, layout[1]))


def _attentions() -> Iterator[Family]:
    """torch's flash kernel of CPUs, over (batch x heads, length, width of a head)."""
    axes = ((4.0, 32.0), (64.0, 256.0, 1024.0), (32.0, 96.0))
    forward = aten._scaled_dot_product_flash_attention_for_cpu
    for (dtype, d), causal in product(_KINDS.items(), (False, True)):
        kind = "attention.causal" if causal else "attention"

        def operands(count: int, length: int, width: int, d: str = d) -> tuple[Operand, ...]:
            return (Operand((count // 4, length, 4, width), d),) * 3

        def taken(q: Tensor, k: Tensor, v: Tensor, causal: bool = causal) -> object:
            return forward(*(x.transpose(1, 2) for x in (q, k, v)), 0.0, causal)

        def back(q: Tensor, k: Tensor, v: Tensor, causal: bool = causal) -> object:
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))
            sums = torch.zeros(q.shape[0], 4, q.shape[2]).transpose(1, 2).contiguous().transpose(1, 2)
            return aten._scaled_dot_product_flash_attention_for_cpu_backward(q, q, k, v, v, sums, 0.0, causal)

        flops = lambda count, length, width: 4 * count * length**2 * width  # noqa: E731
        yield Family(kind, dtype, axes, operands, taken, flops)
        yield Family(f"{kind}.backward", dtype, axes, operands, back, flops)


def _packed() -> Iterator[Family]:
    """`models.packing`, over (samples, heads, length, width of a head)."""
    axes = ((4.0, 32.0), (2.0, 8.0), (16.0, 64.0, 256.0), (32.0, 64.0))
    for (dtype, d), dropout in product(_KINDS.items(), (0.0, 0.1)):
        name = "packed_attention" + (".dropout" if dropout else "")

        def operands(samples: int, heads: int, length: int, width: int, d: str = d) -> tuple[Operand, ...]:
            return (*(Operand((samples * length, heads, width), d) for _ in range(4)), Operand((length,)))

        def taken(_: Tensor, q: Tensor, k: Tensor, v: Tensor, one: Tensor, dropout: float = dropout) -> object:
            return packing.packed_attention(q, k, v, _starts(q, one), 0.1, dropout, 0)

        def back(g: Tensor, q: Tensor, k: Tensor, v: Tensor, one: Tensor, dropout: float = dropout) -> object:
            return packing._backward(g, q, k, v, _starts(q, one), 0.1, dropout, 0)

        flops = lambda samples, heads, length, width: 4 * samples * heads * length**2 * width  # noqa: E731
        yield Family(name, dtype, axes, operands, taken, flops)
        yield Family(f"{name}.backward", dtype, axes, operands, back, flops)


def _starts(rows: Tensor, one: Tensor) -> Tensor:
    """Where samples as long as `one` begin."""
    return torch.arange(0, len(rows) + 1, len(one))


def _convolutions() -> Iterator[Family]:
    """Over (places of the output, channels out, channels in, size of the kernel): pictures of 16 x 16 with channels
    last, and texts of 128 tokens as embeddings are."""
    channels = (16.0, 32.0, 64.0, 128.0, 256.0)
    two = ((2048.0, 16384.0), channels, (3.0, *channels), (1.0, 9.0))
    one = ((2048.0, 16384.0), channels[1:], channels[1:], (2.0, 5.0))
    # kernels of convolutions reach their rate later than those of products: more of them are measured
    flops = lambda places, wider, inputs, area: 0.3 * 2 * places * wider * inputs * area  # noqa: E731
    for dtype, d in _KINDS.items():
        for dimensions, axes in ((1, one), (2, two)):

            def operands(
                places: int, wider: int, inputs: int, area: int, d: str = d, dimensions: int = dimensions
            ) -> tuple[Operand, ...]:
                if dimensions == 1:
                    texts = places // 128
                    return (
                        Operand((texts, 128, inputs), d), Operand((texts, wider, 128 + 1 - area % 2), d),
                        Operand((wider, inputs, area), d),
                    )  # fmt: skip
                side = round(area**0.5)
                pictures = (places // 256, 16, 16)
                return (
                    Operand((*pictures, inputs), d), Operand((*pictures, wider), d),
                    Operand((wider, side, side, inputs), d),
                )  # fmt: skip

            for part in ("", ".input", ".weight"):
                yield Family(f"convolution{dimensions}{part}", dtype, axes, operands, partial(_convolve, part), flops)


def _convolve(part: str, x: Tensor, answers: Tensor, weight: Tensor) -> object:
    x = x.movedim(-1, 1)
    if x.ndim == 4:
        answers, weight = answers.movedim(-1, 1), weight.movedim(-1, 1)
    padding, ones = [size // 2 for size in weight.shape[2:]], [1] * (x.ndim - 2)
    if not part:
        return aten.convolution(x, weight, None, ones, padding, ones, False, [0], 1)
    mask = [part == ".input", part == ".weight", False]
    return aten.convolution_backward(answers, x, weight, None, ones, padding, ones, False, [0], 1, mask)


def _updates() -> Iterator[Family]:
    """Norm of all gradients and an optimizer's step, over (tensors, elements of each)."""
    axes = ((1.0, 16.0), (256.0, 16384.0, 262144.0, 1048576.0))
    work = lambda tensors, elements: 64 * tensors * elements  # noqa: E731
    yield Family("adamw", "fp32", axes, partial(_states, 4), _adamw, work)
    yield Family("sgd", "fp32", axes, partial(_states, 3), _sgd, work)


def _states(arrays: int, tensors: int, elements: int) -> tuple[Operand, ...]:
    return (Operand((elements,)),) * (arrays * tensors)


def _adamw(*arrays: Tensor) -> None:
    weights, gradients, first, second = (list(arrays[i::4]) for i in range(4))
    torch.nn.utils.get_total_norm(gradients)
    steps = list(torch.ones(len(weights)).unbind())
    adamw(
        weights, gradients, first, second, [], steps, fused=True, grad_scale=torch.tensor(1.0), amsgrad=False,
        beta1=0.9, beta2=0.95, lr=0.0, weight_decay=0.01, eps=1e-8, maximize=False,
    )  # fmt: skip


def _sgd(*arrays: Tensor) -> None:
    weights, gradients, momenta = (list(arrays[i::3]) for i in range(3))
    torch.nn.utils.get_total_norm(gradients)
    sgd(
        weights, gradients, list[Any](momenta), fused=True, grad_scale=torch.tensor(1.0), weight_decay=0.0,
        momentum=0.9, lr=0.0, dampening=0.0, nesterov=False, maximize=False,
    )  # fmt: skip
