"""Seconds of a training step by part, from a model's work and what was measured of a machine.

Where kernels were measured (`fullbore doctor`), each that the step launches takes what its curve says (`kernels`).
Where only the brief probe of a run was made, each operation takes what its slowest resource needs (Williams, Waterman
and Patterson 2009, Roofline): its FLOPs at the measured rate of its dtype, or its bytes at the measured bandwidth, and
never less than it costs to start one.

A compiled step is predicted as if it were not: what compiling brings is measured (`calibration`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from fullbore.perf.model import kernels, update
from fullbore.perf.model.calibration import UNKNOWN, Calibration
from fullbore.perf.model.kernels import Device
from fullbore.spec.hardware import Ceilings
from fullbore.spec.plan import Plan, Prediction
from fullbore.spec.work import Launches, Operation, Work

_STEP_SECONDS = 60e-6
"""What surrounds forward, backward and the update: cutting the batch, drawing the seed, reading the clock."""
_LAUNCH_SECONDS = 20e-6
"""What an operation of eager PyTorch costs at least with what surrounds it, and its part of the backward pass twice
that; in bf16 the casts of what goes into a product cost as much again."""
_TILE = 32
"""Matrix products work in tiles; a side smaller than some tiles uses the units in part."""
_EFFICIENCY = {"matmul": 1.0, "convolution": 0.8, "attention": 0.5}
"""Share of a large product's (or convolution's) rate that other kernels of the kind reach at best."""
_WIDE = 4
"""Bytes of an element outside the products: autocast keeps them in fp32, or reads the one and writes the other."""
_FUSED = ("head", "cross-entropy")
"""Operations of a language model's head, whose gradients are computed in the forward pass (`models.head`)."""
_OPTIMIZER_PASSES = {"adamw": 5.0, "sgd": 3.0, "muon": 5.0}
"""Arrays of the parameters' size that clipping, updating and clearing read and write."""
_MUON_ITERATIONS = 5
"""Newton-Schulz iterations that make a matrix's update orthogonal: three products each, in bf16."""


@dataclass(frozen=True)
class Rates:
    """What one rank has while all ranks work."""

    flops: Mapping[str, float]
    """By kind of operation: "matmul" and "convolution"."""
    peak: float
    bandwidth: float
    narrow: bool
    """Products are computed in bf16."""


def rates(ceilings: Ceilings, plan: Plan) -> Rates:
    """Cores and bandwidth are shared by the ranks of a machine. Raises KeyError if the dtype was never measured."""
    ranks, threads = plan.world_size, plan.threads

    def shared(rate: Callable[[str, int], float]) -> float:
        return min(rate(plan.precision, threads), rate(plan.precision, threads * ranks) / ranks)

    return Rates(
        flops={kind: shared(partial(ceilings.rate, kind)) for kind in ("matmul", "convolution")},
        peak=shared(ceilings.peak),
        bandwidth=ceilings.memory_bandwidth / ranks,
        narrow=plan.precision == "bf16",
    )


def predict(
    work: Work,
    ceilings: Ceilings,
    plan: Plan,
    calibration: Callable[[float], Calibration] = lambda _: UNKNOWN,
    *,
    optimizer: str = "adamw",
) -> dict[str, Prediction]:
    """`step_seconds`, `train_seconds`, `rate` (units/s), `mfu` and `state.<ledger state>` in seconds of one step.

    `calibration`: what past runs of this kind say of a step that is predicted to take so many seconds; its ratio is
    applied and its error shown.
    """
    rate = rates(ceilings, plan)
    launches = work.launches.get(plan.precision + ("+recompute" if plan.recompute else ""))
    if ceilings.curves is not None and launches is not None:
        device = kernels.Device(ceilings.curves, plan.precision, plan.threads, plan.world_size)
        parts = _by_curves(work, launches, device, plan, optimizer)
    else:
        parts = _by_roofline(work, ceilings, plan, rate, optimizer)
    known = calibration(sum(parts.values()))
    parts = {state: seconds * known.ratio for state, seconds in parts.items()}
    step = sum(parts.values())
    flops = work.training_flops * plan.global_batch_size / plan.world_size
    error = known.error
    return {
        "step_seconds": Prediction(step, "s", error),
        "train_seconds": Prediction(step * plan.steps, "s", error),
        "rate": Prediction(plan.global_batch_size * work.units_per_sample / step, f"{work.units}/s", error),
        "mfu": Prediction(flops / step / rate.peak, "", error),
        **{f"state.{state}": Prediction(seconds, "s", error) for state, seconds in parts.items()},
    }


def _by_curves(work: Work, launches: Launches, device: Device, plan: Plan, optimizer: str) -> dict[str, float]:
    each = kernels.seconds(launches, device, plan.micro_batch_size)
    later = plan.accumulation - 1
    forward = each.forward + later * (each.forward - kernels.narrowing(launches, device))
    backward = plan.accumulation * each.backward
    if later:
        backward += later * device.kernel("map", "fp32", (), 12.0 * work.parameters)
    updating = update.seconds(work, device, optimizer) + _STEP_SECONDS
    return {"forward": forward, "backward": backward, "optimizer": updating}


def _by_roofline(work: Work, ceilings: Ceilings, plan: Plan, rate: Rates, optimizer: str) -> dict[str, float]:
    fused = any(operation.name == "cross-entropy" for operation in work.operations)
    forward = backward = 0.0
    for operation in work.operations:
        seconds = plan.accumulation * _seconds(operation, rate, plan.micro_batch_size)
        early = fused and operation.name in _FUSED
        forward += 3 * seconds if early else seconds
        backward += 0.0 if early else (3 if plan.recompute else 2) * seconds
    return {
        "forward": forward,
        "backward": backward,
        "optimizer": _update_seconds(work, ceilings, plan, rate, optimizer),
    }


def _update_seconds(work: Work, ceilings: Ceilings, plan: Plan, rate: Rates, optimizer: str) -> float:
    passes = _OPTIMIZER_PASSES[optimizer]
    seconds = max(passes * 4 * work.parameters / rate.bandwidth, _LAUNCH_SECONDS * passes)
    if optimizer != "muon":
        return seconds
    flops = ceilings.rate("matmul", "bf16" if "bf16" in ceilings.matmul_flops else plan.precision, plan.threads)
    for operation in work.operations:
        if operation.kind == "matmul" and len(operation.shape) == 3 and operation.name not in _FUSED:
            short, long = sorted(operation.shape[1:])
            products = ((short, short, long), (short, short, short), (short, long, short))
            each = sum(2.0 * m * n * k / (flops * _filled(m, n, k)) for m, n, k in products)
            seconds += operation.count * _MUON_ITERATIONS * max(each, 3 * _LAUNCH_SECONDS)
    return seconds


def bytes_moved(operation: Operation, samples: int, size: int) -> float:
    """Bytes that one call on `samples` samples reads and writes; weights are read once, whatever the batch."""
    if operation.kind == "matmul" and len(operation.shape) == 3:
        rows, columns, inner = operation.shape
        return float(size * (samples * rows * (inner + columns) + inner * columns))
    return size * samples * operation.elements


def training_bytes(work: Work, samples: int, size: int) -> float:
    """Bytes that forward and backward move for a micro-batch of `samples`: gradients move twice what forward moved."""
    return 3 * sum(bytes_moved(o, samples, size) * o.count for o in work.operations)


def compile_gain(work: Work, ceilings: Ceilings, plan: Plan) -> float:
    """Share of a step that compiling may save: half of what operations on elements take, which it fuses."""
    rate = rates(ceilings, plan)
    total = saved = 0.0
    for operation in work.operations:
        seconds = _seconds(operation, rate, plan.micro_batch_size)
        total += seconds
        if operation.kind in ("elementwise", "reduction"):
            saved += seconds / 2
    return saved / total if total else 0.0


def _seconds(operation: Operation, rate: Rates, samples: int) -> float:
    """Forward."""
    product = operation.kind in _EFFICIENCY
    efficiency = _EFFICIENCY.get(operation.kind, 1.0) * _shape_efficiency(operation, samples)
    flops = rate.flops["convolution" if operation.kind == "convolution" else "matmul"]
    computing = operation.flops * samples / (flops * efficiency)
    moving = bytes_moved(operation, samples, 2 if product and rate.narrow else _WIDE) / rate.bandwidth
    launch = _LAUNCH_SECONDS * (2 if product and rate.narrow else 1)
    return operation.count * max(computing, moving, launch)


def _shape_efficiency(operation: Operation, samples: int) -> float:
    """Share of the tiles' work that a product's sides fill, and how well a short side hides the traffic around it."""
    if operation.kind != "matmul" or len(operation.shape) != 3:
        return 1.0
    rows, columns, inner = operation.shape
    return _filled(rows * samples, columns, inner)


def _filled(rows: int, columns: int, inner: int) -> float:
    tiles: Callable[[int], float] = lambda side: side / (math.ceil(side / _TILE) * _TILE)  # noqa: E731
    return tiles(rows) * tiles(columns) * inner / (inner + _TILE)
