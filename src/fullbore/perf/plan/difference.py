"""Whether two things differ, in words: what pairs of measurements tell, and how many more would tell it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from fullbore.base.units import plural
from fullbore.perf.measure import stats

WORTH = 0.02
"""The relative difference that is worth telling: how many pairs it takes is said where they were too few."""

_TIMES = ("seconds", "_ms", "latency")
"""Ends of the names of times: who takes less is faster. Of what ends in `per_second`, who has more is."""


@dataclass(frozen=True)
class Difference:
    sentence: str
    ratio: stats.Ratio
    """First over second, as measured."""
    differs: bool
    faster: str | None = None
    """Which of the two, where the metric is a time or a rate and they differ."""
    tells: float | None = None
    """The relative difference that so many pairs tell, four times in five."""
    more_pairs: int | None = None
    """That would be needed to tell `WORTH`; 0: none."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def difference(metric: str, first: Sequence[float], second: Sequence[float], *, same: bool = False) -> Difference:
    """What pairs of A (`first`) and B (`second`) tell. `same`: both are one thing, so that they show the noise.

    Raises ValueError if there are no pairs.
    """
    found = stats.ratio(first, second)
    least, needed = stats.tellable(found), stats.pairs_to_tell(found, WORTH)
    more = None if needed is None else max(0, needed - found.pairs)
    if same:
        sentence, faster = _noise(found, first, second, least, more), None
    elif found.differs:
        sentence, faster = _told(metric, found)
    else:
        sentence, faster = _untold(found, more), None
    return Difference(sentence, found, found.differs and not same, faster, least, more)


def _told(metric: str, found: stats.Ratio) -> tuple[str, str | None]:
    name = metric.rpartition(".")[2]
    is_time = name.endswith(_TIMES) and name != "cpu_seconds"
    power = -1 if is_time else 1
    first = found.value**power > 1
    one, two = ("A", "B") if first else ("B", "A")
    power = power if first else -power
    low, high = sorted(end**power for end in found.interval or ())
    value, low_text, high_text = _rounded(found.value**power, low, high)
    interval = f"(95 % interval {low_text}–{high_text})"
    if is_time or name.endswith("per_second"):
        return f"{one} is {value}x as fast as {two} {interval}", one
    return f"{metric} of {one} is {value}x that of {two} {interval}", None


def _untold(found: stats.Ratio, more: int | None) -> str:
    if found.interval is None:
        told = f"from {plural(found.pairs, 'pair')}: at least {stats.FEWEST_PAIRS} are needed"
        return f"no difference can be told {told}"
    low, high = found.interval
    if low == high:
        return f"no difference: the same in {plural(found.pairs, 'pair')}"
    value, low_text, high_text = _rounded(found.value, low, high)
    told = f"no difference can be told: A is {value}x B (95 % interval {low_text}–{high_text})"
    if more:
        return f"{told}; {plural(more, 'more pair')} would be needed to tell {_percent(WORTH)}"
    return f"{told}, so that any is below {_percent(math.expm1(max(-math.log(low), math.log(high))))}"


def _noise(
    found: stats.Ratio, first: Sequence[float], second: Sequence[float], least: float | None, more: int | None
) -> str:
    apart = median(abs(math.log(one / two)) for one, two in zip(first, second, strict=True))
    told = f"noise: two runs of the same differ by {_percent(math.expm1(apart))}"
    if least is None:
        return f"{told}; at least {stats.FEWEST_PAIRS} pairs are needed to say what can be told here"
    told += f"; {plural(found.pairs, 'pair')} tell differences from {_percent(least)} on"
    return f"{told}; {plural(more, 'more pair')} would tell {_percent(WORTH)}" if more else told


def _percent(share: float) -> str:
    return f"{share * 100:.2g} %" if share < 0.995 else f"{share * 100:.0f} %"


def _rounded(value: float, low: float, high: float) -> tuple[str, str, str]:
    """All three with as many decimals as the interval's width deserves, at least two and at most four."""
    width = high - low
    decimals = min(4, max(2, 1 - math.floor(math.log10(width)))) if width > 0 else 2
    return f"{value:.{decimals}f}", f"{low:.{decimals}f}", f"{high:.{decimals}f}"
