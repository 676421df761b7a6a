"""What a report shows of a run, read from its folder: frozen, bounded whatever the run's length, whatever ended it.

Only `env.json` must be there. A run without `result.json` (it runs, was killed, or only packed) is read from its events.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fullbore.base.errors import InputError
from fullbore.record import artifact, read
from fullbore.record.ledger import Ledger
from fullbore.record.run import RunFolder
from fullbore.ui.series import Sampler, Series

BINS = 200
RANKS = 12
MESSAGES = 120
ARTIFACTS = 40
METRICS = 12
_GAP_SECONDS = 1.0
_RANK_FILE = re.compile(r"events\.rank(\d+)\.jsonl")


@dataclass(frozen=True)
class Stage:
    name: str
    seconds: float | None
    """None: it was begun and did not end."""
    cached: bool
    detail: str


@dataclass(frozen=True)
class Timeline:
    """One rank's wall time cut into equal bins: the share of each state in each bin."""

    rank: int
    shares: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Message:
    seconds: float
    rank: int
    level: str
    text: str


@dataclass(frozen=True)
class Provenance:
    """One artifact of the run, or what is wrong with it."""

    name: str
    kind: str
    digest: str
    bytes: int
    parents: tuple[tuple[str, str], ...]
    problem: str = ""


@dataclass(frozen=True)
class View:
    name: str
    folder: Path
    status: str
    job_toml: str
    environment: Mapping[str, Any]
    result: Mapping[str, Any]
    """`result.json`, empty if the run has not ended by itself."""
    plan: Mapping[str, Any]
    ledger: Ledger
    seconds: float
    """Wall time on the run's own clock: the time between a kill and a resume is not in it."""
    sessions: tuple[float, ...]
    """Where on that clock the run was resumed."""
    timelines: tuple[Timeline, ...]
    ranks: int
    stages: tuple[Stage, ...]
    steps: Mapping[str, Series]
    """`loss`, `rate`, `learning_rate`, `gradient_norm` by step."""
    step_count: int
    units: str
    metrics: Mapping[tuple[str, str], Series]
    """(name, split) → values by step."""
    resources: Mapping[str, Series]
    """`cpu_self`, `cpu_others`, `rss`, `memory_available` by the run's clock."""
    cores: float
    choices: tuple[Mapping[str, Any], ...]
    messages: tuple[Message, ...]
    messages_left_out: int
    artifacts: tuple[Provenance, ...]
    artifacts_left_out: int
    dropped: int


@dataclass
class Reading:
    """What one pass over the events of rank 0 keeps."""

    steps: dict[str, Sampler] = field(default_factory=dict)
    last_step: int = 0
    token_steps: bool = False
    metrics: dict[tuple[str, str], Sampler] = field(default_factory=dict)
    resources: dict[str, Sampler] = field(default_factory=dict)
    cores: float = 0.0
    stages: dict[str, Stage] = field(default_factory=dict)
    choices: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    plan: Mapping[str, Any] = field(default_factory=dict)
    busy: Counter[str] = field(default_factory=Counter)
    dropped: int = 0


Interval = tuple[float, float, Mapping[str, float]]


def number(value: Any) -> float | None:
    """`value` as a finite float, or none."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def mapping(value: Any) -> Mapping[str, Any]:
    """`value` if it is a mapping, else an empty one: what a run wrote is shown, not trusted."""
    return value if isinstance(value, Mapping) else {}


def numbers(value: Any) -> dict[str, float]:
    return {str(key): found for key, item in mapping(value).items() if (found := number(item)) is not None}


def listing(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def view(run: RunFolder) -> View:
    """Read a run folder. Raises InputError if it holds no readable `env.json`."""
    result = mapping(_json(run.paths.result))
    files = {0: run.paths.events(0)} | {
        int(match[1]): path for path in sorted(run.paths.folder.iterdir()) if (match := _RANK_FILE.fullmatch(path.name))
    }
    seen = Reading()
    intervals: dict[int, list[Interval]] = {}
    raw: list[tuple[float, int, str, str]] = []
    for rank in sorted(files)[:RANKS]:
        intervals[rank] = []
        for event in _events(files[rank]):
            _take(event, intervals[rank], raw, rank)
            if rank == 0:
                _take_first_rank(event, seen)
    clock = Clock(intervals[0])
    environment = _json(run.paths.environment)
    if not isinstance(environment, dict):
        raise InputError(f"{run.paths.environment}: missing or not an object", hint="give a folder that fullbore run made")
    messages, left_out = _messages(raw, clock)
    artifacts = _artifacts(run)
    return View(
        name=run.name,
        folder=run.paths.folder,
        status=run.status() if result.get("status") is None else str(result["status"]),
        job_toml=run.paths.job.read_text(errors="replace") if run.paths.job.is_file() else "",
        environment=environment,
        result=result,
        plan=mapping(_json(run.paths.plan)) or seen.plan,
        ledger=_ledger(result, intervals[0], seen.busy),
        seconds=clock.total,
        sessions=clock.starts[1:],
        timelines=tuple(Timeline(rank, _shares(found, clock)) for rank, found in intervals.items() if found),
        ranks=len(files),
        stages=_stages(result, seen),
        steps={name: sampler.series() for name, sampler in seen.steps.items()},
        step_count=seen.last_step,
        units="samples" if "samples_per_second" in result or not seen.token_steps else "tokens",
        metrics={key: sampler.series() for key, sampler in seen.metrics.items()},
        resources={name: clock.series(sampler.series()) for name, sampler in seen.resources.items()},
        cores=seen.cores or number(environment.get("cores")) or 0.0,
        choices=tuple(seen.choices.values()) or tuple(mapping(c) for c in listing(seen.plan.get("choices"))),
        messages=messages,
        messages_left_out=left_out,
        artifacts=artifacts[:ARTIFACTS],
        artifacts_left_out=max(0, len(artifacts) - ARTIFACTS),
        dropped=seen.dropped,
    )


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


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _events(path: Path) -> Iterator[Mapping[str, Any]]:
    return (event for event in read.events(path) if isinstance(event, dict) and "kind" in event)


def _take(event: Mapping[str, Any], intervals: list[Interval], raw: list[tuple[float, int, str, str]], rank: int) -> None:
    """What is kept of every rank: its ledger and its messages."""
    moment = number(event.get("t")) or 0.0
    match event["kind"]:
        case "ledger":
            begin, end = number(event.get("begin")), number(event.get("end"))
            seconds = numbers(event.get("seconds"))
            if begin is not None and end is not None and end > begin:
                intervals.append((begin, end, seconds))
        case "message":
            raw.append((moment, rank, str(event.get("level", "info")), str(event.get("text", ""))))
        case "resume" if rank == 0:
            skipped = "".join(f"; skipped: {reason}" for reason in listing(event.get("skipped")))
            raw.append((moment, rank, "resume", f"resumed at step {event.get('step')}{skipped}"))


def _take_first_rank(event: Mapping[str, Any], seen: Reading) -> None:
    match event["kind"]:
        case "step":
            _take_step(event, seen)
        case "metric":
            step, split = number(event.get("step")), str(event.get("split", ""))
            for name, item in event.items():
                value = None if name in ("t", "rank", "step", "kind") else number(item)
                if step is not None and value is not None and (len(seen.metrics) < METRICS or (name, split) in seen.metrics):
                    seen.metrics.setdefault((name, split), Sampler()).add(step, value)
        case "resume":
            for sampler in [*seen.steps.values(), *seen.metrics.values()]:
                sampler.rewind(number(event.get("step")) or 0.0)
        case "resource":
            seen.cores = number(event.get("cores")) or seen.cores
            for name in ("cpu_self", "cpu_others", "rss", "memory_available"):
                if (value := number(event.get(name))) is not None:
                    seen.resources.setdefault(name, Sampler()).add(number(event.get("t")) or 0.0, value)
        case "stage":
            name, ended = str(event.get("stage")), event.get("status") == "end"
            seconds = number(event.get("seconds")) if ended else None
            seen.stages[name] = Stage(name, seconds, bool(event.get("cached")), str(event.get("detail") or ""))
        case "choice":
            seen.choices[str(event.get("key"))] = event
        case "plan":
            seen.plan = mapping(event.get("plan")) or event
        case "busy":
            seen.busy.update(numbers(event.get("seconds")))
        case "dropped":
            seen.dropped += int(number(event.get("count")) or 0)


def _take_step(event: Mapping[str, Any], seen: Reading) -> None:
    step = number(event.get("step"))
    if step is None:
        return
    seen.last_step = int(step)
    values = {name: number(event.get(name)) for name in ("loss", "learning_rate", "gradient_norm")}
    seconds, samples = number(event.get("seconds")), number(event.get("samples"))
    units = number(event.get("units"))
    seen.token_steps = seen.token_steps or (units or 0) > 1.5 * (samples or math.inf)
    amount = units if seen.token_steps else samples
    values["rate"] = amount / seconds if amount and seconds else None
    for name, value in values.items():
        if value is not None:
            seen.steps.setdefault(name, Sampler()).add(step, value)


def _shares(intervals: Iterable[Interval], clock: Clock) -> dict[str, tuple[float, ...]]:
    """Seconds of intervals spread over equal bins, as shares of each bin; where intervals overlap they share it."""
    width = clock.total / BINS
    if width <= 0:
        return {}
    bins: list[Counter[str]] = [Counter() for _ in range(BINS)]
    for begin, end, seconds in intervals:
        start, stop, whole = clock.at(begin), clock.at(end), sum(seconds.values())
        if stop <= start or whole <= 0:
            continue
        first, last = min(BINS - 1, int(start / width)), min(BINS - 1, int(stop / width))
        for index in range(first, last + 1):
            overlap = min(stop, (index + 1) * width) - max(start, index * width)
            for state, value in seconds.items():
                bins[index][state] += max(0.0, overlap) * value / whole
    states = {state for counts in bins for state in counts}
    return {state: tuple(counts[state] / max(width, counts.total()) for counts in bins) for state in sorted(states)}


def _ledger(result: Mapping[str, Any], intervals: Iterable[Interval], busy: Mapping[str, float]) -> Ledger:
    """The run's own final ledger, else the sum of what its events hold."""
    try:
        return Ledger.from_json(mapping(result.get("ledger")))
    except (KeyError, TypeError, AttributeError):
        total: Counter[str] = Counter()
        for _, _, seconds in intervals:
            total.update(seconds)
        return Ledger(dict(total), dict(busy))


def _stages(result: Mapping[str, Any], seen: Reading) -> tuple[Stage, ...]:
    listed = [mapping(item) for item in listing(result.get("stages"))]
    if not listed:
        return tuple(seen.stages.values())
    known = {
        str(item.get("stage")): Stage(
            str(item.get("stage")), number(item.get("seconds")), bool(item.get("cached")), str(item.get("detail") or "")
        )
        for item in listed
    }
    return tuple((seen.stages | known).values())


def _messages(raw: list[tuple[float, int, str, str]], clock: Clock) -> tuple[tuple[Message, ...], int]:
    """The first error first, then all in order; the middle is left out of very many."""
    found = [Message(clock.at(moment), rank, level, text) for moment, rank, level, text in sorted(raw)]
    first = next((message for message in found if message.level == "error"), None)
    kept = found if len(found) <= MESSAGES else found[: MESSAGES // 2] + found[-MESSAGES // 2 :]
    ordered = kept if first is None else [first, *(message for message in kept if message is not first)]
    return tuple(ordered), max(0, len(found) - len(kept))


def _artifacts(run: RunFolder) -> tuple[Provenance, ...]:
    found = []
    for path in sorted(run.paths.folder.glob(f"*/*/{artifact.MANIFEST}")):
        name = str(path.parent.relative_to(run.paths.folder))
        if "/." in name:
            continue
        try:
            item = artifact.read(path.parent)
            parents = tuple((parent.kind, parent.digest) for parent in item.parents)
            found.append(Provenance(name, item.kind, item.digest, item.bytes, parents))
        except InputError as error:
            found.append(Provenance(name, "", "", 0, (), error.message))
    return tuple(found)
