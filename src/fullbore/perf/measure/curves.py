"""What kernels take on this machine, by what they work on: measured once, as `perf.model.kernels` reads it.

Operands come from a ring that is larger than the caches, and results stay alive for a turn of it: in training, too, a
kernel finds its weights and what was kept long unused, and writes to memory that others used last.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor

from fullbore.perf.measure import proc
from fullbore.perf.measure.families import DTYPES, Family, Operand, families
from fullbore.spec.curves import Curve

_deterministic: Any = torch.utils.deterministic
_ARENA_BYTES = 48 * 2**20
_COPIES = 48
_SECONDS = 1e-3
"""A point is measured for so long, though at least `_CALLS` times, in each of `_PASSES` over all points."""
_CALLS = 2
_PASSES = 4
_CALM = 2
"""Passes without neighbours after which a family is known."""
_DISTURBED = 0.1
"""Share of the cores used by others from which on a pass counts as disturbed."""
_FLOPS = 6e8
"""Points with more are not measured: they have the rate of those below them."""


class _Arena:
    """Memory that operands are cut from, so that none need be made."""

    def __init__(self) -> None:
        self._numbers = {
            kind: torch.full((_ARENA_BYTES // dtype.itemsize,), 0.5, dtype=dtype) for kind, dtype in DTYPES.items()
        }
        self._places = dict.fromkeys(DTYPES, 0)

    def ring(self, operands: tuple[Operand, ...]) -> list[tuple[Tensor, ...]]:
        """Copies of the operands, one behind the other while the arena lasts."""
        self._places = dict.fromkeys(DTYPES, 0)
        size = sum(prod(operand.shape) * DTYPES[operand.kind].itemsize for operand in operands)
        count = max(1, min(_COPIES, _ARENA_BYTES // max(1, size)))
        return [tuple(self._cut(operand) for operand in operands) for _ in range(count)]

    def _cut(self, operand: Operand) -> Tensor:
        elements, numbers = prod(operand.shape), self._numbers[operand.kind]
        if operand.below:
            return torch.randint(operand.below, operand.shape)
        if elements > len(numbers):
            return numbers[:1].expand(operand.shape).contiguous()
        place = self._places[operand.kind]
        place = 0 if place + elements > len(numbers) else place
        self._places[operand.kind] = place + -(-elements // 64) * 64
        return numbers[place : place + elements].view(operand.shape)


def _seconds(family: Family, sizes: tuple[float, ...], arena: _Arena) -> float:
    """Of one call: the median of many, after one that is not counted."""
    ring = arena.ring(family.operands(*map(int, sizes)))
    results: list[object] = [None] * len(ring)
    call, taken, now, began = family.call, list[float](), 0.0, time.perf_counter()
    while len(taken) <= _CALLS or now - began < _SECONDS:
        place = len(taken) % len(ring)
        clock = time.perf_counter()
        results[place] = call(*ring[place])
        now = time.perf_counter()
        taken.append(now - clock)
    return statistics.median(taken[1:])


@contextmanager
def exact() -> Iterator[None]:
    """Kernels as training asks for them inside: reproducible, and nothing filled that is written anyway."""
    strict, filled = torch.get_deterministic_debug_mode(), _deterministic.fill_uninitialized_memory
    torch.set_deterministic_debug_mode("error")
    _deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        _deterministic.fill_uninitialized_memory = filled
        torch.set_deterministic_debug_mode(strict)


@torch.no_grad()
def measure(cores: int) -> dict[str, Curve]:
    """Curves by `<name>/<dtype>/<threads>`, for one thread and for all cores. Changes torch's number of threads."""
    known, arena = list(families()), _Arena()
    tables: dict[tuple[int, int], dict[tuple[float, ...], float]] = {}
    wanted = {(index, threads): _CALM for threads in sorted({1, cores}) for index in range(len(known))}
    for _ in range(_PASSES):
        for (index, threads), missing in wanted.items():
            if missing:
                torch.set_num_threads(threads)
                table, neighbours = tables.setdefault((index, threads), {}), proc.Neighbours()
                for sizes in _affordable(known[index]):
                    table[sizes] = min(_seconds(known[index], sizes, arena), table.get(sizes, float("inf")))
                wanted[index, threads] -= neighbours.cores() <= _DISTURBED * cores
    return {
        f"{known[index].name}/{known[index].dtype}/{threads}": Curve(known[index].axes, _filled(known[index], table))
        for (index, threads), table in tables.items()
    }


def _affordable(family: Family) -> Iterator[tuple[float, ...]]:
    return (sizes for sizes in product(*family.axes) if family.flops(*sizes) <= _FLOPS)


def _filled(family: Family, table: dict[tuple[float, ...], float]) -> tuple[float, ...]:
    """Seconds of every point; those that cost too much have the rate of the one before them on their longest axis."""

    def seconds(sizes: tuple[float, ...]) -> float:
        if sizes in table:
            return table[sizes]
        places = [axis.index(size) for axis, size in zip(family.axes, sizes, strict=True)]
        turn = max(range(len(sizes)), key=lambda i: places[i] / len(family.axes[i]))
        less = (*sizes[:turn], family.axes[turn][places[turn] - 1], *sizes[turn + 1 :])
        return seconds(less) * family.flops(*sizes) / family.flops(*less)

    return tuple(float(f"{seconds(sizes):.4g}") for sizes in product(*family.axes))
