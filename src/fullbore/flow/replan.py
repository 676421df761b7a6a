"""A job that ran and one that might have: what each is as a subject of prediction, and the plan that it would have."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fullbore.base.errors import InputError
from fullbore.base.paths import RunPaths
from fullbore.flow import forecast, lines, materials, prepare
from fullbore.flow.lines import Subject
from fullbore.flow.work import work as work_of
from fullbore.models import build, tokenizer
from fullbore.perf.measure import history, proc
from fullbore.perf.model import memory
from fullbore.perf.model.calibration import Past
from fullbore.perf.plan import choose, steps
from fullbore.perf.plan.course import of_step
from fullbore.perf.plan.facts import Facts
from fullbore.record import read
from fullbore.record.ledger import State
from fullbore.spec.job import Job
from fullbore.spec.load import load
from fullbore.spec.plan import Plan, Prediction
from fullbore.spec.train import TrainSection
from fullbore.spec.work import Work

_AGREED = ("precision", "threads", "micro_batch_size", "compile", "attention", "recompute")
"""What a plan decided for a job that left it to the program, and the changed job keeps."""
_EVERY = ("evaluate_every", "checkpoint_every")
"""So do these, where time does not decide how many steps there are."""


@dataclass(frozen=True)
class Basis:
    """A run that trained, as it was planned and as it was measured."""

    paths: RunPaths
    subject: Subject
    plan: Plan
    work: Work
    section: TrainSection
    facts: Facts
    trials: tuple[choose.Trial, ...]
    past: tuple[Past, ...]

    @property
    def timed(self) -> bool:
        return self.section.budget.unit == "seconds"

    @cached_property
    def as_planned(self) -> Plan:
        """Its plan by the rules that a changed one is made by here: the same, but for steps that time was to buy."""
        return _plan(self, self.subject.job, self.section, self.work, self.subject.amounts.rows)


def basis(paths: RunPaths, facts: Facts) -> Basis:
    """What a run's folder holds for it. Raises InputError if the run did not come to train."""
    plan, work, ceilings = facts.plan, facts.work, facts.ceilings
    job = load(paths.job).job
    if plan is None or work is None or ceilings is None or job.train is None or not facts.steps:
        raise InputError(f"{paths.folder}: it took no step, so there is nothing to correct", hint="fullbore check")
    events = list(read.events(paths.events()))
    stages = [event for event in events if event["kind"] == "stage" and event.get("status") == "end"]
    subject = lines.of_folder(job, paths, ceilings, prepare.ready(job, stages), plan, work)
    past = history.load()
    trials = tuple(_trial(event) for event in events if event["kind"] == "trial")
    return Basis(paths, subject, plan, work, job.train, facts, trials, past)


def _trial(event: Mapping[str, Any]) -> choose.Trial:
    return choose.Trial(choose.Setting(**event["setting"]), event["seconds"], event["others"], event["first_seconds"])


def changed(found: Basis, job: Job) -> tuple[Subject, str, list[str]]:
    """The changed job with its plan, as a run would decide it; by what that is known, and what is not."""
    section = job.train
    if section is None or job.model is None or job.task is None:
        raise InputError("a changed job that does not train is not predicted", hint="fullbore check predicts it")
    before, notes = found.subject.job, list[str]()
    kept, rows = set(found.subject.amounts.kept), dict(found.subject.amounts.rows)
    for name, spared in (("data", ("read", "tokenise", "pack")), ("tokenizer", ("tokenise", "pack"))):
        if getattr(job, name) != getattr(before, name):
            kept -= set(spared)
            notes.append(f"[{name}] may change how much there is to train on, which is taken to stay")
    if section.sequence_length != found.section.sequence_length and job.tokenizer is not None:
        kept -= {State.PACK}
        share = found.section.sequence_length / section.sequence_length
        rows = {split: int(count * share) for split, count in rows.items()} if found.work.units == "tokens" else rows
    work = found.work
    sizing = ("model", "task", "tokenizer")
    if any(getattr(job, name) != getattr(before, name) for name in sizing) or rows != found.subject.amounts.rows:
        work = _work(found, job)
    amounts = replace(
        found.subject.amounts, rows=rows, units_per_row=lines.units_per_row(job), kept=frozenset(kept),
        given=replace(found.subject.amounts.given, learnt_bytes=_learnt(job, found)),
    )  # fmt: skip
    subject = replace(found.subject, job=job, amounts=amounts, work=work)
    plan = _plan(found, job, section, work, rows)
    if plan.attention != found.plan.attention and _by_trials(found, work, plan) is None:
        notes.append("what another way to compute attention takes is known by trials alone, and none was made")
    needed = plan.world_size * sum(memory.predict(work, _exact(section, plan), plan.micro_batch_size).values())
    if needed > proc.memory_in_reach():
        notes.append("it may not fit in the memory that is available now")
    return replace(subject, plan=plan), "the cost model", notes


def _exact(section: TrainSection, plan: Plan) -> TrainSection:
    return section.model_copy(update={"precision": plan.precision})


def _learnt(job: Job, found: Basis) -> float:
    section, given = job.tokenizer, found.subject.amounts.given
    return min(given.text_bytes, section.training_bytes) if section and section.kind == "byte_bpe" else 0.0


def _work(found: Basis, job: Job) -> Work:
    prepared = materials.load(job, found.paths)
    sizes = replace(prepared.sizes)
    section = job.tokenizer
    if section is not None and section != found.subject.job.tokenizer and job.train is not None:
        count = section.vocabulary_size if section.kind == "byte_bpe" else _vocabulary(section.folder)
        sizes = build.with_vocabulary(sizes, count, job.train.sequence_length)
    return work_of(prepared.model, prepared.task_section, sizes, launched=bool(found.work.launches))


def _vocabulary(folder: str | None) -> int:
    return tokenizer.load(Path(folder or "")).vocabulary_size


def _plan(found: Basis, job: Job, section: TrainSection, work: Work, rows: Mapping[str, int]) -> Plan:
    """What the program would decide: the settings that the run decided stay, as far as the changed job allows."""
    kept = _AGREED if section.budget.unit == "seconds" else (*_AGREED, *_EVERY)
    agreed = {
        name: getattr(found.plan, name)
        for name in kept
        if getattr(section, name, None) == "auto" and hasattr(found.plan, name)
    }
    if choose.per_rank(section) % int(agreed.get("micro_batch_size", 1)):
        agreed.pop("micro_batch_size")
    if section.world_size != found.section.world_size:
        agreed.pop("threads", None)
    decided = section.model_copy(update=agreed)
    limits = choose.Limits(
        rows=max(1, rows.get("train", 1)),
        units_per_row=lines.units_per_row(job),
        units=work.units,
        cores=len(os.sched_getaffinity(0)),
        memory_available=proc.memory_in_reach(),
        memory_of=lambda micro: sum(memory.predict(work, section, micro).values()),
        has_validation=rows.get("validation", 0) > 0,
    )
    draft = choose.plan(decided, [], limits)
    step = _planned_step(found, job, work, draft)
    cost = forecast.costs(section, work, rows.get("validation", 0), step)
    if draft.compile:
        known = replace(draft, predicted={key: Prediction(step, "s") for key in ("step_seconds", "train_seconds")})
        compiling = forecast.compiling(job, work, found.subject.ceilings, known)
        cost = replace(cost, start_seconds=compiling.seconds)
    times = steps.cadence(
        decided, limits.rows, limits.units_per_row, step, cost, has_validation=limits.has_validation
    )  # fmt: skip
    return replace(
        draft,
        steps=times.steps,
        evaluate_every=times.evaluate_every,
        checkpoint_every=times.checkpoint_every,
        warmup_steps=times.warmup_steps,
    )


def _planned_step(found: Basis, job: Job, work: Work, plan: Plan) -> float:
    """What a step of the changed plan would be expected to take, when it is made: as the run's was, times the ratio."""
    planned = found.plan.predicted["step_seconds"].value
    known = step_ratio(found, replace(found.subject, job=job, work=work, plan=plan))
    if known is not None:
        return planned * known[0]
    section, ceilings = job.train or found.section, found.subject.ceilings
    one, two = (
        sum(of_step(each, made, given, ceilings).values())
        for each, made, given in ((found.section, found.plan, found.work), (section, plan, work))
    )
    return planned * two / one


def step_ratio(found: Basis, subject: Subject) -> tuple[float, float | None, str] | None:
    """Seconds of a step under the change over those before, with its error, and by what that is known: by the run's own
    trials, or by what compiling brought before. None: the cost model tells it line by line."""
    plan, work, ceilings = subject.plan, subject.work, subject.ceilings
    if plan is None or work is None:
        return None
    ratio = _by_trials(found, work, plan)
    if ratio is not None:
        if _setting(plan) == _setting(found.plan):
            return None
        seconds = found.plan.predicted["step_seconds"].value * ratio
        return ratio, forecast.of_trials(subject.job, ceilings, _setting(plan), seconds).error, "the run's own trials"
    if plan.compile == found.plan.compile or work != found.work:
        return None
    gain = forecast.compile_gain(subject.job, work, ceilings, plan, found.plan.predicted["step_seconds"].value)
    return (1 - gain if plan.compile else 1 / (1 - gain)), None, "what compiling brought before, or may bring"


def _by_trials(found: Basis, work: Work, plan: Plan) -> float | None:
    """Only what trials vary may differ: the same network, batch and ranks."""
    same = ("world_size", "global_batch_size")
    if work != found.work or any(getattr(plan, name) != getattr(found.plan, name) for name in same):
        return None
    best: dict[choose.Setting, float] = {}
    for trial in found.trials:
        best[trial.setting] = min(trial.seconds, best.get(trial.setting, trial.seconds))
    one, two = (best.get(_setting(each)) for each in (found.plan, plan))
    return two / one if one and two else None


def _setting(plan: Plan) -> choose.Setting:
    return choose.Setting(**{each.name: getattr(plan, each.name) for each in fields(choose.Setting)})
