"""Seconds of a training step by part, from a model's work and a machine's measured ceilings.

Each operation takes what its slowest resource needs (Williams, Waterman and Patterson 2009, Roofline): its FLOPs at the
measured rate of its dtype, or its bytes at the measured bandwidth, and never less than it costs to start one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from fullbore.perf.model.calibration import UNKNOWN, Calibration
from fullbore.spec.hardware import Ceilings
from fullbore.spec.plan import Plan, Prediction
from fullbore.spec.work import Operation, Work

_LAUNCH_SECONDS = 8e-6
"""What an operation of eager PyTorch costs at least, and its part of the backward pass twice that."""
_TILE = 32
"""Matrix products work in tiles; a side smaller than some tiles uses the units in part."""
_EFFICIENCY = {"matmul": 1.0, "convolution": 0.6, "attention": 0.5}
"""Share of a large product's rate that other kernels of the kind reach at best."""
_OPTIMIZER_PASSES = {"adamw": 10.0, "sgd": 6.0}
"""Arrays of the parameters' size that clipping, updating and clearing read and write."""


@dataclass(frozen=True)
class Rates:
    """What one rank has while all ranks work."""

    flops: float
    bandwidth: float
    bytes_per_element: int


def rates(ceilings: Ceilings, plan: Plan) -> Rates:
    """Cores and bandwidth are shared by the ranks of a machine. Raises KeyError if the dtype was never measured."""
    together = ceilings.peak(plan.precision, plan.threads * plan.world_size) / plan.world_size
    alone = ceilings.peak(plan.precision, plan.threads)
    return Rates(
        min(alone, together), ceilings.memory_bandwidth / plan.world_size, 2 if plan.precision == "bf16" else 4
    )


def predict(
    work: Work,
    ceilings: Ceilings,
    plan: Plan,
    calibration: Calibration = UNKNOWN,
    *,
    optimizer: str = "adamw",
    feed_seconds: float = 0.0,
) -> dict[str, Prediction]:
    """`step_seconds`, `train_seconds`, `rate` (units/s), `mfu` and `state.<ledger state>` in seconds of one step.

    `calibration`: from past runs of this kind; its ratio is applied and its error shown. `feed_seconds`: of one core
    per sample; the feed works beside the steps on the same cores, so that X <= cores / (D_feed + D_step).
    """
    rate = rates(ceilings, plan)
    forward = sum(_seconds(o, rate, plan.micro_batch_size) for o in work.operations)
    backward = sum(_seconds(o, rate, plan.micro_batch_size, backward=True) for o in work.operations)
    forward, backward = forward * plan.accumulation, backward * plan.accumulation
    passes = _OPTIMIZER_PASSES.get(optimizer, 10.0)
    update = max(passes * 4 * work.parameters / rate.bandwidth, _LAUNCH_SECONDS * passes)
    parts = {"forward": forward, "backward": backward, "optimizer": update}
    parts = {state: seconds * calibration.ratio for state, seconds in parts.items()}
    compute = sum(parts.values())
    samples = plan.global_batch_size / plan.world_size
    parts["data wait"] = max(0.0, samples * feed_seconds - compute)
    step = sum(parts.values())
    flops = work.training_flops * samples
    error = calibration.error
    return {
        "step_seconds": Prediction(step, "s", error),
        "train_seconds": Prediction(step * plan.steps, "s", error),
        "rate": Prediction(plan.global_batch_size * work.units_per_sample / step, f"{work.units}/s", error),
        "mfu": Prediction(flops / step / rate.flops, "", error),
        **{f"state.{state}": Prediction(seconds, "s", error) for state, seconds in parts.items()},
    }


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


def _seconds(operation: Operation, rate: Rates, samples: int, backward: bool = False) -> float:
    times = 2 if backward else 1
    efficiency = _EFFICIENCY.get(operation.kind, 1.0) * _shape_efficiency(operation, samples)
    computing = operation.flops * samples / (rate.flops * efficiency)
    moving = bytes_moved(operation, samples, rate.bytes_per_element) / rate.bandwidth
    return times * operation.count * max(computing, moving, _LAUNCH_SECONDS)


def _shape_efficiency(operation: Operation, samples: int) -> float:
    """Share of the tiles' work that a product's sides fill, and how well a short side hides the traffic around it."""
    if operation.kind != "matmul" or len(operation.shape) != 3:
        return 1.0
    rows, columns, inner = operation.shape
    filled: Callable[[int], float] = lambda side: side / (math.ceil(side / _TILE) * _TILE)  # noqa: E731
    return filled(rows * samples) * filled(columns) * inner / (inner + _TILE)
