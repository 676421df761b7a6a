"""What a report shows of a run, read from its folder: frozen, bounded whatever its length, whatever ended it.

Only `env.json` must be there. A run without `result.json` (it runs, or was killed) is read from its events.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fullbore.base.errors import InputError
from fullbore.flow import energy
from fullbore.flow.explain import changed
from fullbore.flow.facts import known
from fullbore.perf.plan import roofline
from fullbore.perf.plan.steady import steady
from fullbore.perf.plan.verdict import verdict
from fullbore.record import artifact, read
from fullbore.record.ledger import Ledger
from fullbore.record.run import RunFolder
from fullbore.ui.reading import Clock, Interval, Reading, Stage, listing, mapping, number, reading, stage
from fullbore.ui.series import Series

BINS = 200
RANKS = 12
MESSAGES = 120
ARTIFACTS = 40


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
    verdict: Mapping[str, Any]
    """What `perf` found to limit the run: from the result, else worked out from the events."""
    energy: Mapping[str, Any]
    """Joules by state and what they cost: from the result, else worked out from the events."""
    roofline: Mapping[str, Any]
    """Its operations under the machine's roofs (`perf.plan.roofline`); empty if it did not train."""
    steady: Mapping[str, Any]
    """Warm-up and jitter of its steps (`perf.plan.steady`); empty without steps."""
    plan: Mapping[str, Any]
    ceilings: Mapping[str, Any]
    ledger: Ledger
    seconds: float
    """Wall time on the run's own clock: the time between a kill and a resume is not in it."""
    resumed: tuple[float, ...]
    """Where on that clock the run was resumed."""
    timelines: tuple[Timeline, ...]
    ranks: int
    stages: tuple[Stage, ...]
    steps: Mapping[str, Series]
    """`loss`, `rate`, `learning_rate`, `gradient_norm` by step."""
    step_count: int
    units: str
    """What rates count: "tokens" or "samples"."""
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

    @property
    def unit(self) -> str:
        return self.units.removesuffix("s")


def view(run: RunFolder) -> View:
    """Read a run folder. Raises InputError if it holds no readable `env.json`."""
    environment, result = _json(run.paths.environment), mapping(_json(run.paths.result))
    if not isinstance(environment, dict):
        raise InputError(f"{run.paths.environment}: missing or not an object", hint="give a folder that fullbore made")
    ranks = sorted({0, *read.rank_files(run.paths)})
    seen = {rank: reading(run.paths.events(rank)) for rank in ranks[:RANKS]}
    first = seen[0]
    clock = Clock(first.intervals)
    messages, left_out = _messages(seen, clock)
    artifacts = _artifacts(run)
    ledger = _ledger(result, first)
    told = result if result.get("verdict") else _told(run, ledger)
    plan, ceilings = mapping(_json(run.paths.plan)) or first.plan, mapping(_json(run.paths.ceilings))
    return View(
        name=run.name,
        folder=run.paths.folder,
        status=str(result.get("status", "unknown")) if run.paths.result.is_file() else run.status(),
        job_toml=run.paths.job.read_text(errors="replace") if run.paths.job.is_file() else "",
        environment=environment,
        result=result,
        verdict=mapping(told.get("verdict")),
        energy=mapping(told.get("energy")),
        roofline=mapping(told.get("roofline")),
        steady=taken.to_json() if (taken := steady(read.events(run.paths.events()))) is not None else {},
        ceilings=ceilings,
        plan=plan,
        ledger=ledger,
        seconds=clock.total,
        resumed=tuple(clock.at(moment) for moment in first.resumed),
        timelines=tuple(Timeline(rank, _shares(one.intervals, clock)) for rank, one in seen.items() if one.intervals),
        ranks=len(ranks),
        stages=_stages(result, first, clock),
        steps={name: sampler.series() for name, sampler in first.steps.items()},
        step_count=first.last_step,
        units="tokens" if "tokens_per_second" in result or first.token_steps else "samples",
        metrics={key: sampler.series() for key, sampler in first.metrics.items()},
        resources={name: clock.series(sampler.series()) for name, sampler in first.resources.items()},
        cores=first.cores or number(environment.get("cores")) or 0.0,
        choices=tuple(first.choices.values()) or tuple(mapping(c) for c in listing(first.plan.get("choices"))),
        messages=messages,
        messages_left_out=left_out,
        artifacts=artifacts[:ARTIFACTS],
        artifacts_left_out=max(0, len(artifacts) - ARTIFACTS),
        dropped=sum(one.dropped for one in seen.values()),
    )


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _shares(intervals: Iterable[Interval], clock: Clock) -> dict[str, tuple[float, ...]]:
    """Seconds of intervals spread over equal bins, as shares of each bin; where intervals overlap they share it."""
    width = clock.total / BINS
    if width <= 0:
        return {}
    bins: list[dict[str, float]] = [defaultdict(float) for _ in range(BINS)]
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
    return {
        state: tuple(counts.get(state, 0.0) / max(width, sum(counts.values())) for counts in bins)
        for state in sorted(states)
    }


def _ledger(result: Mapping[str, Any], first: Reading) -> Ledger:
    """The run's final ledger, or the sum of its events where that holds more: of a run that was killed or resumed."""
    seconds: dict[str, float] = defaultdict(float)
    for _, _, spent in first.intervals:
        for state, value in spent.items():
            seconds[state] += value
    summed = Ledger(dict(seconds), dict(first.busy))
    try:
        final = Ledger.from_json(mapping(result.get("ledger")), mapping(result.get("busy")))
    except (KeyError, TypeError, AttributeError):
        return summed
    return final if final.wall > 0.95 * summed.wall else summed


def _told(run: RunFolder, ledger: Ledger) -> Mapping[str, Any]:
    """What a result would say of a run that wrote none."""
    if not ledger.wall:
        return {}
    try:
        found = known(run.paths, ledger)
        used = energy.of_run(found, energy.asked(run.job()))
        changes, _ = changed(run, found, brief=True)
        judged = verdict(found, [change.advice() for change in changes])
        return {"verdict": judged.to_json(), "energy": used.to_json(), "roofline": roofline.of_run(found)}
    except (OSError, KeyError, TypeError, ValueError, InputError):
        return {}


def _stages(result: Mapping[str, Any], first: Reading, clock: Clock) -> tuple[Stage, ...]:
    listed = [stage(mapping(item)) for item in listing(result.get("stages"))]
    ended = first.stages | {item.name: item for item in listed}
    open_ = {
        name: Stage(name, clock.total - clock.at(began), finished=False)
        for name, began in first.begun.items()
        if all(item.name != name for item in listed)
    }
    return tuple((ended | open_).values())


def _messages(seen: Mapping[int, Reading], clock: Clock) -> tuple[tuple[Message, ...], int]:
    """The first error first, then all in order; the middle is left out of very many."""
    raw = [(moment, rank, level, text) for rank, one in seen.items() for moment, level, text in one.messages]
    raw.sort(key=lambda message: message[0])
    found = [Message(clock.at(moment), rank, level, text) for moment, rank, level, text in raw]
    first = next((message for message in found if message.level == "error"), None)
    kept = found if len(found) <= MESSAGES else found[: MESSAGES // 2] + found[-MESSAGES // 2 :]
    ordered = kept if first is None else [first, *(message for message in kept if message is not first)]
    return tuple(ordered), len(found) - len(ordered)


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
