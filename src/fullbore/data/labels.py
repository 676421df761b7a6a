"""Whether labels are classes."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fullbore.base.errors import InputError

_MANY = 20
_SEEN = 5


def require_classes(counts: Mapping[str, int], *, whole: bool) -> None:
    """`counts`: samples by class. Raises InputError for a single class, and for numbers that measure something.

    More than 20 different numbers with gaps between them measure something if they have decimals, or if a number is
    seen fewer than 5 times on average. `whole`: these are all samples there are; a few of the first tell only decimals.
    """
    if len(counts) == 1 and whole:
        raise InputError(
            f"data.label: found one class, {next(iter(counts))!r}, expected at least two",
            hint="check data.label, or that images lie in one folder for each class",
        )
    values = [_number(name) for name in counts]
    if len(values) <= _MANY or not all(map(math.isfinite, values)):
        return
    decimals = any(not value.is_integer() for value in values)
    gaps = max(values) - min(values) >= len(values)
    seldom = sum(counts.values()) < _SEEN * len(values)
    if decimals or (whole and gaps and seldom):
        shown = ", ".join(sorted(counts, key=_number)[:3])
        raise InputError(
            f"data.label: found {len(values)} distinct values in {sum(counts.values()):,} samples ({shown}, …), "
            "expected classes",
            hint='task.kind = "regression" predicts numbers; numbers that name classes must be written as words',
        )


def _number(name: str) -> float:
    try:
        return float(name)
    except ValueError:
        return math.nan
