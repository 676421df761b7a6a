"""Seconds of an optimizer's step: the norm of all gradients, and the update of each parameter."""

from __future__ import annotations

from math import prod

from fullbore.perf.model.kernels import Device
from fullbore.spec.work import Work

_MANY = 16.0
"""Tensors of a list whose update was measured."""
_ITERATIONS = 5
"""Newton-Schulz iterations of Muon that make a matrix's update orthogonal: three products each, in bf16."""


def seconds(work: Work, device: Device, optimizer: str) -> float:
    """Of `adamw`, `sgd` or `muon`, which updates matrices that are no embeddings by itself, and the rest by AdamW."""
    turned = work.matrices if optimizer == "muon" else ()
    rest = list(work.weights)
    for shape in turned:
        rest.remove(shape)
    name = "sgd" if optimizer == "sgd" else "adamw"
    sizes = [prod(shape) for shape in rest]
    each = [device.kernel(name, "fp32", (_MANY, float(size)), 0.0) / _MANY for size in sizes]
    starting = device.kernel(name, "fp32", (1.0, 256.0), 0.0)
    return starting + sum(each) + sum(_turning(shape, device) for shape in turned)


def _turning(shape: tuple[int, ...], device: Device) -> float:
    """Muon's update of a matrix (Jordan 2024), as torch.optim computes it."""
    elements = float(prod(shape))
    short, long = (float(side) for side in sorted(shape))
    narrow, wide = (device.kernel("map", dtype, (), 3 * size * elements) for dtype, size in (("bf16", 2), ("fp32", 4)))
    products = (("NT", (short, short, long)), ("NN", (short, short, short)), ("NN", (short, long, short)))
    iteration = sum(device.kernel(f"product.{layout}", "bf16", sides, 0.0) for layout, sides in products)
    return _ITERATIONS * iteration + 3 * narrow + 5 * wide + (16 + 6 * _ITERATIONS) * device.launching(False)
