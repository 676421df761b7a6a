"""The ledger: where a process's wall time went, as seconds of states that add up to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from fullbore.base.units import format_seconds


class State(StrEnum):
    """What a rank's main thread can be doing. It is in exactly one state at every instant."""

    START = "start"
    PROBE = "probe"
    READ = "read"
    TOKENISE = "tokenise"
    PACK = "pack"
    COMPILE = "compile"
    DATA_WAIT = "data wait"
    COPY = "copy"
    FORWARD = "forward"
    BACKWARD = "backward"
    COMMUNICATION = "exposed communication"
    BUBBLE = "pipeline bubble"
    STRAGGLER = "waiting for a straggler"
    OPTIMIZER = "optimizer"
    CHECKPOINT = "checkpoint"
    EVALUATE = "evaluate"
    COMPRESS = "compress"
    SERVE = "serve"
    REPORT = "report"
    OTHER = "other"


@dataclass(frozen=True)
class Ledger:
    """Seconds by state, from exec on; `busy` is work beside the main thread, never part of the sum."""

    seconds: Mapping[str, float]
    busy: Mapping[str, float] = field(default_factory=dict)

    @property
    def wall(self) -> float:
        return sum(self.seconds.values())

    def share(self, state: str) -> float:
        return self.seconds.get(state, 0.0) / self.wall if self.wall else 0.0

    def ranked(self) -> list[tuple[str, float]]:
        """States with time in them, longest first."""
        return sorted(((s, t) for s, t in self.seconds.items() if t > 0), key=lambda item: -item[1])

    def __add__(self, other: Ledger) -> Ledger:
        def total(one: Mapping[str, float], two: Mapping[str, float]) -> dict[str, float]:
            return {key: one.get(key, 0.0) + two.get(key, 0.0) for key in [*one, *(k for k in two if k not in one)]}

        return Ledger(total(self.seconds, other.seconds), total(self.busy, other.busy))

    def table(self) -> str:
        """The ledger as aligned text: state, time, share of the wall time; the shares sum to 100 %."""
        rows = [(state, format_seconds(t), f"{self.share(state):6.1%}") for state, t in self.ranked()]
        rows.append(("total", format_seconds(self.wall), f"{1:6.1%}"))
        width = max(len(name) for name, _, _ in rows)
        return "\n".join(f"{name:<{width}}  {time:>12}  {share}" for name, time, share in rows)

    def to_json(self) -> dict[str, dict[str, float]]:
        """State → {"seconds", "share"}, longest first."""
        return {state: {"seconds": t, "share": self.share(state)} for state, t in self.ranked()}

    @classmethod
    def from_json(cls, states: Mapping[str, Mapping[str, float]], busy: Mapping[str, float] | None = None) -> Ledger:
        return cls({state: item["seconds"] for state, item in states.items()}, dict(busy or {}))
