"""Robust figures of noisy times: medians and their uncertainty, never a lone mean. Plain Python: samples are few."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations_with_replacement
from statistics import median

_NORMAL_95 = 1.959964
_NORMAL_80 = 0.841621
_EXACT = 60
"""Pairs up to which the signed-rank distribution is counted; above, its normal approximation is as good."""
FEWEST_PAIRS = 6
"""Below, no outcome of the signed-rank test is rarer than 1 in 20."""


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


@dataclass(frozen=True)
class Ratio:
    """How many times as large the first of each pair is as the second."""

    value: float
    interval: tuple[float, float] | None
    """95 % confidence interval; none from fewer than `FEWEST_PAIRS`."""
    pairs: int

    @property
    def differs(self) -> bool:
        """Whether the interval excludes that both are the same."""
        return self.interval is not None and not self.interval[0] <= 1 <= self.interval[1]


def ratio(first: Sequence[float], second: Sequence[float]) -> Ratio:
    """Of values above zero measured in pairs: the Hodges-Lehmann estimate on their logarithms, with the interval that
    inverts Wilcoxon's exact signed-rank test (Hollander, Wolfe, Chicken, Nonparametric Statistical Methods, 3.2-3.3).

    Pairs share what was slow at their time, so it cancels; members in random order are exchangeable if nothing
    differs, which is all that the test asks for. Raises ValueError if there are no pairs.
    """
    logs = [math.log(one / two) for one, two in zip(first, second, strict=True)]
    if not logs:
        raise ValueError("a ratio of no pairs")
    means = sorted((one + two) / 2 for one, two in combinations_with_replacement(logs, 2))
    outer = _outside(len(logs))
    ends = (math.exp(means[outer - 1]), math.exp(means[-outer])) if outer else None
    return Ratio(math.exp(median(means)), ends, len(logs))


@cache
def _outside(pairs: int) -> int:
    """The rank, from either end, of the mean of two that ends the interval; 0 if there are too few pairs.

    It is the number of sums of signed ranks that are together at most 2.5 % likely.
    """
    if pairs > _EXACT:
        spread = math.sqrt(pairs * (pairs + 1) * (2 * pairs + 1) / 24)
        return math.floor(pairs * (pairs + 1) / 4 - _NORMAL_95 * spread)
    ways = [1]
    for rank in range(1, pairs + 1):
        ways = [a + b for a, b in zip(ways + [0] * rank, [0] * rank + ways, strict=True)]
    likely, rare = 0, 0
    while (likely := likely + ways[rare]) <= 0.025 * 2**pairs:
        rare += 1
    return rare


def tellable(found: Ratio) -> float | None:
    """The relative difference (0.02: 2 %) that as many pairs with as much noise tell from none, four times in five.

    None without an interval.
    """
    if found.interval is None:
        return None
    half = math.log(found.interval[1] / found.interval[0]) / 2
    return math.expm1(half * (1 + _NORMAL_80 / _NORMAL_95))


def pairs_to_tell(found: Ratio, difference: float) -> int | None:
    """Pairs, those of `found` included, that would tell a relative `difference` with its noise, four times in five.

    None without an interval.
    """
    least = tellable(found)
    if least is None:
        return None
    return max(FEWEST_PAIRS, math.ceil(found.pairs * (math.log1p(least) / math.log1p(difference)) ** 2))
