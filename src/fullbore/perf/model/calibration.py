"""What past predictions say of the next one: a correction and its error. Pure; `measure/history.py` keeps them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Past:
    """One prediction and what was then measured."""

    fingerprint: str
    """Of the machine."""
    quantity: str
    """`step_seconds`, `train_seconds`, `memory_bytes`, `prepare.tokenise` and so on."""
    kind: str
    """What was predicted for: the model's kind, or the data's."""
    precision: str
    predicted: float
    """Before any correction."""
    measured: float


@dataclass(frozen=True)
class Calibration:
    """`ratio`: measured over predicted, by which predictions are multiplied. `error`: relative, of past predictions
    corrected by the ratio of the others (leave one out); none until there are two."""

    ratio: float = 1.0
    error: float | None = None
    count: int = 0


UNKNOWN = Calibration()
_ALIKE = 4.0
_LATEST = 9


def alike(one: float, two: float) -> bool:
    """Whether two predictions differ less than fourfold."""
    return 0 < one < _ALIKE * two and two < _ALIKE * one


def calibrate(
    history: Iterable[Past], fingerprint: str, quantity: str, kind: str, precision: str = "", *, predicted: float
) -> Calibration:
    """From the latest predictions of the same quantity for the same kind and precision on the same machine, of about
    the size of what is `predicted` now: what a small job takes is mostly its fixed costs."""
    key = (fingerprint, quantity, kind, precision)
    ratios = [
        past.measured / past.predicted
        for past in history
        if (past.fingerprint, past.quantity, past.kind, past.precision) == key
        and alike(past.predicted, predicted)
        and past.measured > 0
    ][-_LATEST:]
    if not ratios:
        return UNKNOWN
    return Calibration(median(ratios), _leave_one_out(ratios), len(ratios))


def _leave_one_out(ratios: Sequence[float]) -> float | None:
    if len(ratios) < 2:
        return None
    errors = [abs(median([*ratios[:i], *ratios[i + 1 :]]) / ratio - 1) for i, ratio in enumerate(ratios)]
    return median(errors)
