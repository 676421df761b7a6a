"""The steps of a run: what warmed up, what the others took, how much that varied, and where slow ones lost it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from fullbore.perf.plan.course import STEPS

_DEVIATIONS = 5.0
"""A step that takes so many median absolute deviations longer than the median is slow."""
_LEAST = 0.05
"""But not before it takes so much longer, relative: clocks and schedulers differ by less."""
_NORMAL = 1.4826
"""Median absolute deviations of a normal distribution are to be multiplied by, to be its standard deviation."""
RULE = f"the first steps of a session until one takes no longer than the median and {_DEVIATIONS:g} deviations"


@dataclass(frozen=True)
class Steady:
    """Seconds, over all sessions of a run."""

    steps: int
    """After warming up."""
    warm_up: int
    warm_up_seconds: float
    """What the first steps took beyond as many steady ones."""
    median: float
    p95: float
    p99: float
    slow: int
    """Steps that took longer than the median and 5 (robust) standard deviations, and 5 % more than the median."""
    slow_seconds: float
    """What those took beyond the median."""
    share: float
    """Of the time of steady steps, that slow ones lost."""
    lost_in: Mapping[str, float]
    """Where, as far as ledger intervals tell: seconds by state that intervals with slow steps have beyond their mean
    share."""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "rule": RULE, "jitter": self.p99 / self.median - 1 if self.median else 0.0}


def steady(events: Iterable[Mapping[str, Any]]) -> Steady | None:
    """From the `session`, `step` and `ledger` events of rank 0; none if no step was taken. Steps that were taken again
    after a resume count again: their time was spent."""
    sessions: list[list[tuple[float, float]]] = [[]]
    intervals: list[tuple[float, float, Mapping[str, float]]] = []
    for event in events:
        match event["kind"]:
            case "session":
                sessions.append([])
            case "step" if _numbers(event, "t", "seconds"):
                sessions[-1].append((float(event["t"]), float(event["seconds"])))
            case "ledger" if _numbers(event, "begin", "end"):
                intervals.append((float(event["begin"]), float(event["end"]), event.get("seconds") or {}))
    everything = [seconds for session in sessions for _, seconds in session]
    if not everything:
        return None
    limit = _limit(everything)
    firsts = [_warm(session, limit) for session in sessions]
    kept = [step for session, first in zip(sessions, firsts, strict=True) for step in session[first:]]
    warm = [seconds for session, first in zip(sessions, firsts, strict=True) for _, seconds in session[:first]]
    ordered = sorted(seconds for _, seconds in kept)
    middle, limit = median(ordered), _limit(ordered)
    slow = [(at, seconds) for at, seconds in kept if seconds > limit]
    lost = sum(seconds - middle for _, seconds in slow)
    return Steady(
        steps=len(kept),
        warm_up=len(warm),
        warm_up_seconds=max(0.0, sum(warm) - len(warm) * middle),
        median=middle,
        p95=_quantile(ordered, 0.95),
        p99=_quantile(ordered, 0.99),
        slow=len(slow),
        slow_seconds=lost,
        share=lost / sum(ordered),
        lost_in=_lost_in(slow, intervals) if slow else {},
    )


def _numbers(event: Mapping[str, Any], *names: str) -> bool:
    return all(isinstance(event.get(name), int | float) for name in names)


def _limit(values: Sequence[float]) -> float:
    middle = median(values)
    spread = _NORMAL * median(abs(value - middle) for value in values)
    return middle + max(_DEVIATIONS * spread, _LEAST * middle)


def _warm(session: Sequence[tuple[float, float]], limit: float) -> int:
    """How many of a session's first steps were slow; none if all were, for then nothing is known of steady ones."""
    first = next((at for at, (_, seconds) in enumerate(session) if seconds <= limit), 0)
    return first if first < len(session) else 0


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _lost_in(
    slow: Sequence[tuple[float, float]], intervals: Sequence[tuple[float, float, Mapping[str, float]]]
) -> dict[str, float]:
    """Steps end at their event's time; a step's intervals are those that it overlaps. Seconds of each state beyond its
    share in the intervals of training without slow steps."""
    hit, calm = dict[str, float](), dict[str, float]()
    for begin, end, seconds in intervals:
        if not {"forward", "backward"} & set(seconds):
            continue
        touched = any(at - took < end and at > begin for at, took in slow)
        for state, spent in ((state, seconds[state]) for state in STEPS if state in seconds):
            kind = hit if touched else calm
            kind[state] = kind.get(state, 0.0) + float(spent)
    whole, usual = sum(hit.values()), sum(calm.values())
    if not whole or not usual:
        return {}
    beyond = {state: spent - whole * calm.get(state, 0.0) / usual for state, spent in hit.items()}
    return {state: spent for state, spent in sorted(beyond.items(), key=lambda item: -item[1]) if spent > 0.01 * whole}
