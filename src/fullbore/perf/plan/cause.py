"""What a candidate for a verdict is."""

from __future__ import annotations

from dataclasses import dataclass

from fullbore.perf.plan.advise import Advice
from fullbore.record.ledger import State

COMPUTE = (State.FORWARD, State.BACKWARD, State.OPTIMIZER)
"""The states in which the cores compute the model."""


@dataclass(frozen=True)
class Cause:
    limit: str
    """A short name: what a page shows."""
    seconds: float
    """Of the main thread's wall time that it cost."""
    because: str
    """The end of a sentence that begins with `... was limited by`."""
    evidence: tuple[str, ...] = ()
    advice: tuple[Advice, ...] = ()
