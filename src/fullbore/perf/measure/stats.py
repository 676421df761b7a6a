"""Robust figures of noisy times: medians and their uncertainty, never a lone mean. Plain Python: samples are few."""

from __future__ import annotations

import math
from collections.abc import Sequence

_NORMAL_95 = 1.959964


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
