"""What limited a run, in one sentence with its evidence, and what to change: the utilisation law on its facts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fullbore.base.units import format_seconds, format_share
from fullbore.perf.plan.advise import Advice, ranked, told_of_run
from fullbore.perf.plan.cause import COMPUTE, Cause, Limit
from fullbore.perf.plan.facts import TRAINING, Facts
from fullbore.perf.plan.inside import efficiency, inside
from fullbore.perf.plan.outside import outside
from fullbore.record.ledger import State

_OUTSIDE = 0.15
"""Share of a phase from which on what comes from outside is named before what the program does itself: the program's
own work is what the time is for."""

_SETTING = re.compile(r"--set (train|compress|model)\.")
PHASES: dict[str, tuple[State, ...]] = {
    "Starting": (State.START,),
    "Planning": (State.PROBE,),
    "Preparing data": (State.READ, State.TOKENISE, State.PACK),
    "Training": TRAINING,
    "Compressing": (State.COMPRESS,),
    "Serving": (State.SERVE,),
    "Reporting": (State.REPORT, State.OTHER),
}


@dataclass(frozen=True)
class Utilisation:
    """How busy a resource was: U = X D / m. `demand`: seconds of the resource per unit; `capacity`: how many of it."""

    resource: str
    demand: float
    capacity: float
    utilisation: float
    ceiling: float | None = None
    """What was measured that it can do at most, all of it together, in `unit`; none: it has no other measure."""
    unit: str = ""


@dataclass(frozen=True)
class Verdict:
    limit: Limit
    sentence: str
    share: float
    """Of the wall time."""
    evidence: tuple[str, ...]
    advice: tuple[Advice, ...]
    utilisation: tuple[Utilisation, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def verdict(facts: Facts, what_ifs: Sequence[Advice] = ()) -> Verdict:
    """Name what limited the phase that took most of the run: what came from outside if it cost much, else the largest
    of what the program did itself. Whatever ended the run, its ledger is enough for an answer.

    `what_ifs`: settings whose change is predicted for this run; they stand for what is advised of settings in general.
    """
    wall = facts.ledger.wall
    if not wall:
        return Verdict(Limit.NOTHING, "Nothing was recorded.", 0.0, (), ())
    phase = max(PHASES, key=lambda name: facts.seconds(*PHASES[name]))
    states = PHASES[phase]
    seconds = facts.seconds(*states)
    foreign, own, whole = outside(facts, states), inside(facts, states), outside(facts, tuple(State))
    cost = {cause.limit: cause.seconds for cause in whole}
    strong = [cause for cause in foreign if cause.seconds >= _OUTSIDE * seconds]
    strong += [cause for cause in whole if cause.seconds >= _OUTSIDE * wall]
    cause = max(strong or own or foreign, key=lambda cause: cost.get(cause.limit, cause.seconds))
    if strong and cause not in foreign:
        told = f"The run was limited by {cause.because}"
    else:
        told = f"{phase}, {format_share(seconds / wall)} of the run, was limited by {cause.because}"
    found = {each.limit: each for each in (*whole, *foreign, *own)}
    rest = sorted((c for c in found.values() if c.limit != cause.limit), key=lambda cause: -cause.seconds)
    return Verdict(
        limit=cause.limit,
        sentence=f"{told}.",
        share=min(1.0, cause.seconds / wall),
        evidence=(*cause.evidence, *_next(rest, seconds), *_busiest(facts)),
        advice=ranked([*_advised(facts, phase, [cause, *rest], whole, what_ifs), *what_ifs]),
        utilisation=utilisation(facts),
    )


def _advised(
    facts: Facts, phase: str, causes: Sequence[Cause], whole: Sequence[Cause], what_ifs: Sequence[Advice]
) -> Iterator[Advice]:
    """What follows from the causes, told of what the job is judged by if that is known. The gains of `whole` are of the
    run, all others of the phase."""
    seconds, training = facts.seconds(*PHASES[phase]), facts.seconds(*TRAINING)
    rated = facts.timed and phase == "Training" and facts.work is not None and training > 0
    rate = facts.samples * facts.work.units_per_sample / training if rated and facts.work is not None else None
    unit = f"{facts.work.units}/s" if facts.work is not None else ""
    wall = facts.ledger.wall
    for cause in (cause for cause in causes if cause.seconds > 0.03 * seconds):
        of_run = any(cause is other for other in whole)
        for item in cause.advice:
            if what_ifs and _SETTING.match(item.set):
                continue
            told = told_of_run(item, wall if of_run else seconds, wall, None if of_run else rate, unit)
            yield item if facts.timed is None else told


def _next(rest: Sequence[Cause], seconds: float) -> list[str]:
    """What would limit once the named cause is gone."""
    if not rest or rest[0].seconds < 0.05 * seconds:
        return []
    return [f"next: {rest[0].limit}, {format_seconds(rest[0].seconds)}"]


def _busiest(facts: Facts) -> list[str]:
    busiest = utilisation(facts)[:2]
    return [f"{item.resource} {format_share(item.utilisation)} busy while training" for item in busiest]


def utilisation(facts: Facts) -> tuple[Utilisation, ...]:
    """Resources of the training phase, the busiest first; demands are per sample trained on. Empty without training.
    No resource is busier than all the time: an estimate above that is cut."""
    seconds, samples = facts.seconds(*TRAINING), facts.samples
    if not seconds or not samples:
        return ()
    usage, plan, ceilings = facts.used(TRAINING), facts.plan, facts.ceilings
    found: list[tuple[str, float, float, float | None, str]] = []
    if usage.seconds:
        found.append(("cores", usage.cpu_self * seconds, facts.cores, facts.cores, "cores"))
    found.append(("the main thread", sum(facts.seconds(state) for state in COMPUTE), 1.0, None, ""))
    if facts.ledger.busy.get("feed"):
        threads = float(plan.feed_threads) if plan is not None else 1.0
        found.append(("the feed", facts.ledger.busy["feed"], threads, threads, "threads"))
    reached = efficiency(facts)
    if reached is not None and plan is not None and ceilings is not None:
        computing, peak = facts.seconds(*COMPUTE), ceilings.peak(plan.precision, plan.threads * plan.world_size)
        found.append((f"{plan.precision} arithmetic", reached.arithmetic * computing, 1.0, peak, "FLOP/s"))
        found.append(("memory bandwidth", reached.bandwidth * computing, 1.0, ceilings.memory_bandwidth, "B/s"))
    if ceilings is not None and usage.seconds:
        for name, rate, ceiling in (
            ("disk, reading", usage.read_rate, ceilings.disk_read),
            ("disk, writing", usage.write_rate, ceilings.disk_write),
        ):
            found.append((name, rate / ceiling * seconds, 1.0, ceiling, "B/s"))
    cut = ((name, min(busy, seconds * many), many, ceiling, unit) for name, busy, many, ceiling, unit in found)
    demands = [
        Utilisation(name, busy / samples, many, busy / seconds / many, ceiling, unit)
        for name, busy, many, ceiling, unit in cut
    ]
    return tuple(sorted(demands, key=lambda item: -item.utilisation))
