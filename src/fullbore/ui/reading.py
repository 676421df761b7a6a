"""One pass over a run's events: what a report needs of them, whatever is torn, strange or missing."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fullbore.record import read
from fullbore.ui.series import Sampler, Series

METRICS = 12
_GAP_SECONDS = 1.0

Interval = tuple[float, float, Mapping[str, float]]
"""A closed ledger interval: begin and end since the epoch, seconds by state."""


@dataclass(frozen=True)
class Stage:
    name: str
    seconds: float
    cached: bool = False
    detail: str = ""
    finished: bool = True


@dataclass
class Reading:
    """What is kept of one rank's events."""

    intervals: list[Interval] = field(default_factory=list)
    messages: list[tuple[float, str, str]] = field(default_factory=list)
    """(moment, level, text)"""
    steps: dict[str, Sampler] = field(default_factory=dict)
    last_step: int = 0
    token_steps: bool = False
    metrics: dict[tuple[str, str], Sampler] = field(default_factory=dict)
    resources: dict[str, Sampler] = field(default_factory=dict)
    cores: float = 0.0
    stages: dict[str, Stage] = field(default_factory=dict)
    begun: dict[str, float] = field(default_factory=dict)
    """Stages that did not end, and when they began."""
    resumed: list[float] = field(default_factory=list)
    """When the sessions after the first began."""
    choices: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    plan: Mapping[str, Any] = field(default_factory=dict)
    busy: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    dropped: int = 0


def reading(path: Path) -> Reading:
    """Read one rank's events file; lines that are no events are passed over."""
    seen = Reading()
    for event in read.events(path):
        if isinstance(event, dict) and "kind" in event:
            _take(event, seen)
    return seen


def _take(event: Mapping[str, Any], seen: Reading) -> None:
    moment = number(event.get("t")) or 0.0
    match event["kind"]:
        case "ledger":
            begin, end = number(event.get("begin")), number(event.get("end"))
            if begin is not None and end is not None and end > begin:
                seen.intervals.append((begin, end, numbers(event.get("seconds"))))
        case "message":
            seen.messages.append((moment, str(event.get("level", "info")), str(event.get("text", ""))))
        case "step":
            _take_step(event, seen)
        case "metric":
            _take_metric(event, seen)
        case "session" if event.get("resumed"):
            seen.resumed.append(number(event.get("began")) or moment)
        case "resume":
            _take_resume(event, seen, moment)
        case "resource":
            seen.cores = number(event.get("cores")) or seen.cores
            for name in ("cpu_self", "cpu_others", "rss", "memory_available"):
                if (value := number(event.get(name))) is not None:
                    seen.resources.setdefault(name, Sampler()).add(moment, value)
        case "stage":
            _take_stage(event, seen, moment)
        case "choice":
            seen.choices[str(event.get("key"))] = event
        case "plan":
            seen.plan = {key: item for key, item in event.items() if key not in ("kind", "t", "rank")}
        case "busy":
            for resource, seconds in numbers(event.get("seconds")).items():
                seen.busy[resource] += seconds
        case "dropped":
            seen.dropped += int(number(event.get("count")) or 0)


def _take_stage(event: Mapping[str, Any], seen: Reading, moment: float) -> None:
    name = str(event.get("stage"))
    if event.get("status") == "end":
        seen.stages[name] = stage(event)
        seen.begun.pop(name, None)
    else:
        seen.begun[name] = moment


def stage(facts: Mapping[str, Any]) -> Stage:
    """A stage that ended, from its event or from the result."""
    name, detail = str(facts.get("stage")), str(facts.get("detail") or "")
    return Stage(name, number(facts.get("seconds")) or 0.0, bool(facts.get("cached")), detail)


def _take_resume(event: Mapping[str, Any], seen: Reading, moment: float) -> None:
    step = number(event.get("step")) or 0.0
    for sampler in [*seen.steps.values(), *seen.metrics.values()]:
        sampler.rewind(step)
    skipped = "".join(f"; skipped: {reason}" for reason in listing(event.get("skipped")))
    seen.messages.append((moment, "resume", f"resumed at step {step:g}{skipped}"))


def _take_metric(event: Mapping[str, Any], seen: Reading) -> None:
    step, split = number(event.get("step")), str(event.get("split", ""))
    for name, item in event.items():
        value = None if name in ("t", "rank", "step", "kind") else number(item)
        known = (name, split) in seen.metrics or len(seen.metrics) < METRICS
        if step is not None and value is not None and known:
            sampler = seen.metrics.setdefault((name, split), Sampler())
            sampler.rewind(step - 0.5)
            sampler.add(step, value)


def _take_step(event: Mapping[str, Any], seen: Reading) -> None:
    step = number(event.get("step"))
    if step is None:
        return
    seen.last_step = int(step)
    seconds, samples, units = (number(event.get(name)) for name in ("seconds", "samples", "units"))
    seen.token_steps = seen.token_steps or (units or 0.0) > 1.5 * (samples or math.inf)
    amount = units if seen.token_steps else samples
    values = {name: number(event.get(name)) for name in ("loss", "learning_rate", "gradient_norm")}
    values["rate"] = amount / seconds if amount and seconds else None
    for name, value in values.items():
        if value is not None:
            seen.steps.setdefault(name, Sampler()).add(step, value)


class Clock:
    """Running seconds from moments since the epoch: the gaps between sessions are cut out."""

    def __init__(self, intervals: Iterable[Interval]) -> None:
        spans: list[list[float]] = []
        for begin, end, _ in sorted(intervals, key=lambda item: item[0]):
            if spans and begin - spans[-1][1] < _GAP_SECONDS:
                spans[-1][1] = max(spans[-1][1], end)
            else:
                spans.append([begin, end])
        self._spans = spans
        lengths = [end - begin for begin, end in spans]
        self.starts = tuple(sum(lengths[:index]) for index in range(len(spans)))
        self.total = sum(lengths)

    def at(self, moment: float) -> float:
        for (begin, end), start in zip(reversed(self._spans), reversed(self.starts), strict=True):
            if moment >= begin:
                return start + min(moment, end) - begin
        return 0.0

    def series(self, series: Series) -> Series:
        return Series(tuple(map(self.at, series.x)), series.low, series.mean, series.high, series.last, series.count)


def number(value: Any) -> float | None:
    """`value` as a finite float, or none."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def numbers(value: Any) -> dict[str, float]:
    return {str(key): found for key, item in mapping(value).items() if (found := number(item)) is not None}


def mapping(value: Any) -> Mapping[str, Any]:
    """`value` if it is a mapping, else an empty one: what a run wrote is shown, not trusted."""
    return value if isinstance(value, Mapping) else {}


def listing(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()
