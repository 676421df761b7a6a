"""The guard: which variants may replace the trained model, and which does. Pure functions of what was measured."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fullbore.base.units import format_bytes, format_share

Target = Literal["latency", "throughput", "size"]
_RESAMPLES = 1000
_BLOCK = 1 << 20
_LEVEL = 0.95


@dataclass(frozen=True)
class Judgement:
    """How well a network does on the judging samples."""

    metric: str
    value: float
    higher_is_better: bool
    scores: NDArray[np.float64]
    """One per sample; their mean is the metric, or grows and falls with it."""


@dataclass(frozen=True)
class Ratio:
    """How many times faster than fp32 in the same round: the median over the rounds and its 95 % interval."""

    middle: float
    low: float
    high: float


@dataclass(frozen=True)
class Measured:
    """What was measured of one variant; `failure` says why there is nothing to measure."""

    variant: str
    judgement: Judgement | None = None
    samples_per_second: float = 0.0
    spread: tuple[float, float] | None = None
    """Samples/s of the slowest and of the fastest round."""
    latency_ms: float = 0.0
    threads: int = 0
    """With so many it was timed, because it was fastest so."""
    speedup: Mapping[str, Ratio] = field(default_factory=dict)
    """By target."""
    bytes: int = 0
    note: str = ""
    failure: str = ""


@dataclass(frozen=True)
class Row:
    """One line of the compression table."""

    variant: str
    value: float | None
    """The task's metric on the judging samples."""
    interval: tuple[float, float] | None
    """Of the drop: 95 %, bootstrap over the judging samples."""
    drop: float | None
    """How much worse than the trained model's the metric is, relative; negative where it is better."""
    samples_per_second: float
    spread: tuple[float, float] | None
    """Samples/s of the slowest and of the fastest round."""
    latency_ms: float
    threads: int
    bytes: int
    kept: bool
    reason: str


def drop(trained: float, value: float, higher_is_better: bool) -> float:
    """How much worse `value` is than `trained`, relative to it."""
    worse = trained - value if higher_is_better else value - trained
    return 0.0 if worse == 0 else worse / max(abs(trained), 1e-12)


def interval(trained: Judgement, found: Judgement, seed: int) -> tuple[float, float]:
    """95 % of the bootstrap distribution of the relative drop of the mean score (Efron 1979): the samples are drawn
    with replacement, each with both of its scores, so that what all variants find hard cancels out."""
    worse = trained.scores - found.scores if trained.higher_is_better else found.scores - trained.scores
    base = np.abs(trained.scores)
    generator = np.random.default_rng(seed)
    drops: list[NDArray[np.float64]] = []
    at_once = max(1, _BLOCK // max(1, len(worse)))
    for begin in range(0, _RESAMPLES, at_once):
        drawn = generator.integers(0, len(worse), (min(at_once, _RESAMPLES - begin), len(worse)))
        drops.append(worse[drawn].mean(1) / np.maximum(base[drawn].mean(1), 1e-12))
    low, high = np.quantile(np.concatenate(drops), ((1 - _LEVEL) / 2, (1 + _LEVEL) / 2))
    return float(low), float(high)


def judge(
    measured: Sequence[Measured], *, wanted: Collection[str], max_drop: float, target: Target, seed: int
) -> tuple[Row, ...]:
    """The table: which of the `wanted` variants may be kept.

    A variant may if it loses at most `max_drop` of the metric and gains over fp32 what `target` asks for: size, or
    speed by more than the rounds differ. fp32 is the trained model itself: it loses nothing, and where it is not
    wanted, nothing need be gained over it.
    """
    trained = next(one for one in measured if one.variant == "fp32")
    return tuple(_row(one, trained, wanted, max_drop, target, seed) for one in measured)


def choose(rows: Sequence[Row], target: Target) -> Row | None:
    """The best of the kept rows by `target`, the earlier one where they are equal; none if no row is kept."""
    kept = [row for row in rows if row.kept]
    if not kept:
        return None
    if target == "size":
        return min(kept, key=lambda row: row.bytes)
    if target == "latency":
        return min(kept, key=lambda row: row.latency_ms)
    return max(kept, key=lambda row: row.samples_per_second)


def _row(one: Measured, trained: Measured, wanted: Collection[str], max_drop: float, target: Target, seed: int) -> Row:
    replaces = trained.variant in wanted
    numbers: dict[str, Any] = {
        "variant": one.variant,
        "samples_per_second": one.samples_per_second,
        "spread": one.spread,
        "latency_ms": one.latency_ms,
        "threads": one.threads,
        "bytes": one.bytes,
    }
    if one.judgement is None or trained.judgement is None:
        return Row(**numbers, value=None, interval=None, drop=None, kept=False, reason=one.failure)
    found, base = one.judgement, trained.judgement
    if one is trained:
        reason = "the trained model" if replaces else "the trained model, not among compress.variants"
        return Row(**numbers, value=found.value, interval=(0.0, 0.0), drop=0.0, kept=replaces, reason=reason)
    if not math.isfinite(found.value) or not np.isfinite(found.scores).all():
        reason = f"its {found.metric} is not a number"
        return Row(**numbers, value=None, interval=None, drop=None, kept=False, reason=reason)
    lost, bounds = drop(base.value, found.value, base.higher_is_better), interval(base, found, seed)
    reasons = _too_bad(found.metric, lost, bounds, max_drop)
    if replaces:
        reasons += _no_gain(one, trained, target)
    reason = "; ".join(reasons) or _gain(one, trained, target, lost)
    if one.note:
        reason += f"; {one.note}"
    return Row(**numbers, value=found.value, interval=bounds, drop=lost, kept=not reasons, reason=reason)


def _too_bad(metric: str, lost: float, bounds: tuple[float, float], max_drop: float) -> list[str]:
    if lost <= max_drop:
        return []
    between = f"{format_share(bounds[0])} to {format_share(bounds[1])}"
    return [f"{metric} is {lost:.2%} worse ({between}), at most {max_drop:.2%} is allowed"]


def _no_gain(one: Measured, trained: Measured, target: Target) -> list[str]:
    if target == "size":
        return [] if one.bytes < trained.bytes else [f"not smaller than fp32 ({format_bytes(one.bytes)})"]
    gain = one.speedup[target]
    if gain.low > 1:
        return []
    noise = "" if gain.high < 1 else ", within the noise"
    return [f"not faster than fp32 here ({gain.middle:.2f}x; {gain.low:.2f} to {gain.high:.2f}{noise})"]


def _gain(one: Measured, trained: Measured, target: Target, lost: float) -> str:
    smaller = f"{trained.bytes / max(one.bytes, 1):.2f}x smaller"
    times = one.speedup["latency" if target == "latency" else "throughput"].middle
    faster = f"{times:.2f}x faster" if times >= 1 else f"{1 / times:.2f}x slower"
    return f"{faster}, {smaller}, {'no worse' if lost <= 0 else f'{lost:.2%} worse'}"
