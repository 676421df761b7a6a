"""A run's operations under the roofs that were measured of its machine (Williams, Waterman, Patterson, 2009).

A roof is min(peak, bandwidth * intensity); intensity is FLOP a byte. FLOPs and bytes are those of the model's
operations, forward and backward. What each class of them took is measured together only, as forward and backward: it is
divided among them by the measured curves of their kernels; without curves as the roofs would, so that each stands below
its roof by as much as all of them do. The update is measured by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from fullbore.perf.model import kernels
from fullbore.perf.plan.facts import Facts
from fullbore.record.ledger import State
from fullbore.spec.hardware import Ceilings
from fullbore.spec.plan import Plan
from fullbore.spec.work import Operation, Work

_CLASSES: Mapping[str, str] = {
    "matmul": "products", "attention": "attention", "convolution": "convolutions", "elementwise": "elementwise",
    "reduction": "elementwise", "gather": "elementwise",
}  # fmt: skip
_LAUNCH_SECONDS = 10e-6
"""What a call costs at least."""
_WIDE = 4.0
"""Bytes of an element outside the products."""
_ELEMENT_FLOP = 0.25
"""FLOP of each element that an operation on elements reads or writes: one of about four passes computes."""
_UPDATES = {"adamw": (12.0, 28.0), "sgd": (4.0, 20.0)}
"""FLOP and bytes of a parameter in one update: weight, gradient and moments are read, all but the gradient written."""
_MUON_ITERATIONS, _MUON_BYTES = 5, 50.0
"""Newton-Schulz iterations that turn a matrix, three products each; bytes of each of its elements with them."""


@dataclass(frozen=True)
class Point:
    """A class of operations. `flops` and `bytes` are of the whole run so far."""

    name: str
    flops: float
    bytes: float
    seconds: float
    share: float
    """Of forward, backward and optimizer."""
    roof: float
    """FLOP/s that its intensity allows."""
    measured: bool
    """Its seconds were measured by themselves."""

    @property
    def intensity(self) -> float:
        return self.flops / self.bytes

    @property
    def rate(self) -> float:
        return self.flops / self.seconds

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "intensity": self.intensity, "rate": self.rate}


def of_run(facts: Facts) -> dict[str, Any] | None:
    """The roofs (`peaks`: FLOP/s by name, `bandwidth`: bytes/s) and the points of a run; none if it did not train, or
    its work or ceilings are not known."""
    plan, ceilings, work = facts.plan, facts.ceilings, facts.work
    computing = facts.seconds(State.FORWARD, State.BACKWARD)
    if plan is None or ceilings is None or work is None or not facts.samples or not computing:
        return None
    groups: dict[str, list[Operation]] = {}
    for operation in work.operations:
        groups.setdefault(_CLASSES[operation.kind], []).append(operation)
    calls = facts.samples / plan.micro_batch_size
    plain = {name: _sums(operations, ceilings, plan) for name, operations in groups.items()}
    known = _by_curves(work, ceilings, plan)
    plain = {name: (flops, moved, known.get(name, seconds)) for name, (flops, moved, seconds) in plain.items()}
    whole = sum(seconds for _, _, seconds in plain.values())
    updating = facts.seconds(State.OPTIMIZER)
    points = [
        _point(name, 3 * calls * flops, 3 * calls * moved, computing * seconds / whole, ceilings, plan)
        for name, (flops, moved, seconds) in plain.items()
        if flops and moved and seconds
    ]
    if updating:
        flops, moved = _update(work, facts.optimizer)
        times = facts.steps * plan.world_size
        dtype = "bf16" if facts.optimizer == "muon" and "bf16" in ceilings.matmul_flops else "fp32"
        points.append(_point("optimizer", times * flops, times * moved, updating, ceilings, plan, dtype=dtype))
    everything = computing + updating
    told = [replace(point, share=point.seconds / everything) for point in points]
    threads = plan.threads * plan.world_size
    return {
        "peaks": {dtype: ceilings.peak(dtype, threads) for dtype in ("fp32", "bf16") if dtype in ceilings.matmul_flops},
        "used": plan.precision,
        "bandwidth": ceilings.memory_bandwidth,
        "threads": threads,
        "points": [point.to_json() for point in sorted(told, key=lambda point: -point.seconds)],
    }


def _by_curves(work: Work, ceilings: Ceilings, plan: Plan) -> dict[str, float]:
    """Seconds of forward and backward of one micro-batch by class, where kernels were measured; else nothing."""
    launches = work.launches.get(plan.precision)
    if ceilings.curves is None or launches is None:
        return {}
    device = kernels.Device(ceilings.curves, plan.precision, plan.threads, plan.world_size)
    found = {}
    for name in set(_CLASSES.values()):
        body, head, chunk = (
            tuple(launch for launch in part if _class(launch.name) == name)
            for part in (launches.body, launches.head, launches.chunk)
        )
        own = replace(launches, body=body, head=head, chunk=chunk)
        each = kernels.seconds(own, device, plan.micro_batch_size)
        found[name] = each.forward + each.backward
    return found


def _class(kernel: str) -> str:
    """Of a kernel by its name; what is none of the products works on elements."""
    kinds = {"product": "products", "bmm": "products", "attention": "attention", "convolution": "convolutions"}
    return next((kind for start, kind in kinds.items() if kernel.startswith(start)), "elementwise")


def _update(work: Work, optimizer: str) -> tuple[float, float]:
    """FLOP and bytes of one update on one rank."""
    each = _UPDATES["sgd" if optimizer == "sgd" else "adamw"]
    turned = flops = 0.0
    for operation in work.operations:
        if (
            optimizer == "muon"
            and operation.kind == "matmul"
            and len(operation.shape) == 3
            and operation.name != "head"
        ):
            short, long = sorted(operation.shape[1:])
            turned += operation.count * short * long
            flops += operation.count * _MUON_ITERATIONS * 2.0 * (2 * short**2 * long + short**3)
    rest = max(0.0, work.parameters - turned)
    return flops + each[0] * rest, _MUON_BYTES * turned + each[1] * rest


def _sums(operations: list[Operation], ceilings: Ceilings, plan: Plan) -> tuple[float, float, float]:
    """FLOP, bytes and seconds under the roofs of the forward pass of one micro-batch."""
    flops = moved = seconds = 0.0
    threads = plan.threads * plan.world_size
    for operation in operations:
        product = operation.kind in ("matmul", "attention", "convolution")
        size = 2.0 if product and plan.precision == "bf16" else _WIDE
        work = operation.flops if product else _ELEMENT_FLOP * operation.elements
        one, passed = work * plan.micro_batch_size, _bytes(operation, plan.micro_batch_size, size)
        peak = ceilings.rate(operation.kind, plan.precision, threads) if product else ceilings.peak("fp32", threads)
        flops += operation.count * one
        moved += operation.count * passed
        seconds += operation.count * max(one / peak, passed / ceilings.memory_bandwidth, _LAUNCH_SECONDS)
    return flops, moved, seconds


def _bytes(operation: Operation, samples: int, size: float) -> float:
    """Weights are read once, whatever the batch."""
    if operation.kind == "matmul" and len(operation.shape) == 3:
        rows, columns, inner = operation.shape
        return size * (samples * rows * (inner + columns) + inner * columns)
    return size * samples * operation.elements


def _point(
    name: str, flops: float, moved: float, seconds: float, ceilings: Ceilings, plan: Plan, dtype: str | None = None
) -> Point:
    used = dtype or ("fp32" if name == "elementwise" else plan.precision)
    roof = min(ceilings.peak(used, plan.threads * plan.world_size), ceilings.memory_bandwidth * flops / moved)
    return Point(name, flops, moved, seconds, 0.0, roof, measured=name == "optimizer")
