"""Robust figures of noisy times: medians and their uncertainty, never a lone mean. Plain Python: samples are few."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

_NORMAL_95 = 1.959964
_SCALE = 1.4826
"""MAD times this estimates the standard deviation of a normal distribution (Rousseeuw and Croux 1993)."""


def mad(values: Sequence[float]) -> float:
    """Median absolute deviation from the median. Raises ValueError if there are none."""
    centre = median(values)
    return median(abs(value - centre) for value in values)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie, linear between two. Raises ValueError if empty."""
    if not values:
        raise ValueError("a percentile of no values")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    below, above = ordered[low], ordered[high]
    return below if below == above else below + (above - below) * (place - low)


def steady(values: Sequence[float]) -> list[float]:
    """The values after the warm-up: leading ones are dropped while they lie above what the second half shows (its
    median plus three deviations), at most half of all."""
    values = list(values)
    if len(values) < 4:
        return values
    settled = values[len(values) // 2 :]
    bound = median(settled) + 3 * max(_SCALE * mad(settled), 0.01 * abs(median(settled)))
    start = 0
    while start < len(values) // 2 and values[start] > bound:
        start += 1
    return values[start:]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % confidence interval of the median from order statistics, whatever the distribution (David and Nagaraja,
    Order Statistics, 7.1); with fewer than six values it is their range. Raises ValueError if empty."""
    if not values:
        raise ValueError("an interval of no values")
    ordered, count = sorted(values), len(values)
    half = _NORMAL_95 * math.sqrt(count) / 2
    low = max(0, math.floor(count / 2 - half))
    high = min(count - 1, math.ceil(count / 2 + half))
    return ordered[low], ordered[high]


def differ(one: Sequence[float], two: Sequence[float]) -> bool:
    """Whether the medians lie further apart than the noise: their 95 % intervals do not meet. Three values at least."""
    if min(len(one), len(two)) < 3:
        return False
    (low_one, high_one), (low_two, high_two) = interval(one), interval(two)
    return high_one < low_two or high_two < low_one
