"""Seconds of preparing data by stage, from its bytes and the machine's measured rates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fullbore.perf.model.calibration import UNKNOWN, Calibration
from fullbore.spec.hardware import Ceilings
from fullbore.spec.plan import Prediction

_CLEANING = 12.0
"""Cleaning, hashing and splitting text goes so many times as fast as tokenising it, on one core."""
_LEARNING = 1.5
"""Learning a vocabulary goes so many times as fast as tokenising, on all cores together."""


@dataclass(frozen=True)
class Input:
    """What is prepared."""

    bytes: float
    """As they lie in the source."""
    text_bytes: float = 0.0
    """Of them, text to be tokenised; none for images and tables."""
    learnt_bytes: float = 0.0
    """Text that the vocabulary is learnt from; none if a tokenizer is given."""
    pixels: float = 0.0
    """Of all pictures that are decoded, at least: those of large files are counted as they are kept."""


def predict(
    given: Input, ceilings: Ceilings, cores: int, calibration: Callable[[str, float], Calibration] = lambda *_: UNKNOWN
) -> dict[str, Prediction]:
    """Seconds of `read` (with cleaning and decoding), `tokenise` (learning the vocabulary), `pack`; their `total`.

    `calibration`: what past runs on this machine say of a stage that is predicted to take so many seconds.
    """
    tokenise = ceilings.tokenise or 1e6
    decoding = given.pixels / ceilings.jpeg_decode if given.pixels and ceilings.jpeg_decode else 0.0
    plain = {
        "read": given.bytes / ceilings.disk_read + given.text_bytes / (_CLEANING * tokenise) + decoding / cores,
        "tokenise": given.learnt_bytes / (_LEARNING * tokenise),
        "pack": given.text_bytes / (tokenise * cores) + given.bytes / ceilings.disk_write,
    }
    found = {}
    for stage, seconds in plain.items():
        known = calibration(stage, seconds)
        found[stage] = Prediction(seconds * known.ratio, "s", known.error)
    errors = [item.error for item in found.values()]
    worst = None if None in errors else max(error for error in errors if error is not None)
    found["total"] = Prediction(sum(item.value for item in found.values()), "s", worst)
    return found
