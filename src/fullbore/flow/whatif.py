"""`explain --if`: what a run would have taken with other settings, and the settings worth changing, best first."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from statistics import median
from typing import Any

from fullbore.base.errors import FullboreError, InputError
from fullbore.base.paths import RunPaths
from fullbore.flow import forecast, foretold, lines, materials, prepare
from fullbore.flow.lines import Subject
from fullbore.models import build, tokenizer
from fullbore.models import work as works
from fullbore.perf.measure import history, proc
from fullbore.perf.model import memory
from fullbore.perf.model.calibration import Past
from fullbore.perf.plan import choose, steps, whatif
from fullbore.perf.plan.advise import Advice
from fullbore.perf.plan.course import STEPS, of_step
from fullbore.perf.plan.facts import Facts
from fullbore.perf.plan.whatif import Change, Figure
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
_LEARNING = (
    "train.optimizer train.global_batch_size train.sequence_length train.learning_rate train.weight_decay train.l1 "
    "train.l2 train.momentum train.beta2 train.schedule train.warmup train.clip train.seed model task data tokenizer"
).split()
"""Settings, and sections, that change what is learnt."""


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


@dataclass(frozen=True)
class WhatIf:
    change: Change
    figure: Figure
    error: float | None
    """Relative, of the predicted rate or seconds: of such changes where some were made here, else of the lines."""
    known_by: str
    """What the prediction goes by."""
    ledger: Mapping[str, Prediction]
    notes: tuple[str, ...]
    """What is not predicted, or does not fit."""

    def to_json(self) -> dict[str, Any]:
        return {
            "change": self.change.said,
            "set": self.change.settings,
            "changes_training": self.change.changes_training,
            "figure": asdict(self.figure),
            "gain": self.figure.gain,
            "error": self.error,
            "known_by": self.known_by,
            "ledger": {state: asdict(line) for state, line in self.ledger.items()},
            "notes": list(self.notes),
        }

    def advice(self) -> Advice:
        figure = self.figure
        return Advice(
            self.change.said, self.change.settings, figure.gain, self.error, figure.name, figure.now, figure.then,
            figure.unit, self.change.changes_training,
        )  # fmt: skip


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


def what_if(found: Basis, change: Change) -> WhatIf:
    """The ledger and the figure of the run under a change. Raises what a job raises that cannot be."""
    job = load(found.paths.job, change.overrides).job
    subject, known_by, notes = _changed(found, job)
    plan = subject.plan
    assert plan is not None
    base = replace(found.subject, plan=found.as_planned)
    now, then = lines.pair(base, subject, found.past)
    now, then = _counted(now, then, plan.steps / found.as_planned.steps)
    known = _step_ratio(found, subject)
    if known is not None:
        ratio, error, known_by = known
        before = sum(now[state].value for state in STEPS if state in now)
        then = _scaled(then, before * ratio * plan.steps / found.as_planned.steps, error)
    ledger = whatif.corrected(found.facts.ledger.seconds, now, then)
    units = float(found.work.units_per_sample)
    more = plan.steps * plan.global_batch_size / (found.as_planned.steps * found.plan.global_batch_size)
    if subject.work is not None:
        more *= subject.work.units_per_sample / found.work.units_per_sample
    samples = float(found.facts.samples), float(found.facts.samples * more)
    measured = dict(found.facts.ledger.seconds)
    seconds = {state: line.value for state, line in ledger.items()}
    figure = whatif.figure(found.timed, measured, seconds, samples, units)
    if figure.name == "training rate":
        figure = replace(figure, unit=f"{found.work.units}/s")
    states = STEPS if figure.name == "training rate" else None
    doubt = _known_error(found.past, found.subject.ceilings.basis, change) or whatif.error(ledger, states)
    return WhatIf(change, figure, doubt, known_by, ledger, tuple(notes))


def asked(found: Basis, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What `explain --if` answers, with a digest that shows later that nothing of it was changed; kept in the run, so
    that a run of the changed job can say how true it was."""
    written = {key: str(value) for key, value in overrides.items()}
    learning = any(key in _LEARNING or key.partition(".")[0] in _LEARNING for key in written)
    answer = what_if(found, Change(", ".join(f"{key} = {value}" for key, value in written.items()), written, learning))
    told = {"schema": 1, "run": found.paths.folder.name, **answer.to_json()}
    signed = {**told, "sha256": hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()}
    foretold.keep(found.paths, load(found.paths.job, written).job, signed, answer.change.keys)
    return signed


def ranked(found: Basis, *, brief: bool = False) -> list[WhatIf]:
    """Every change that is known and possible, the largest gain first; those that change the training come after.

    `brief`: without those of the network, whose work takes seconds to trace.
    """
    precisions = tuple(found.subject.ceilings.matmul_flops)
    validation = found.subject.amounts.rows.get("validation", 0)
    answers = []
    for change in whatif.candidates(found.subject.job, found.plan, precisions, proc.core_count(), validation):
        if brief and any(key.startswith("model.") or key == "train.sequence_length" for key in change.overrides):
            continue
        try:
            answers.append(what_if(found, change))
        except FullboreError:
            continue  # the job cannot be so: it does not fit, or its settings contradict each other
    return sorted(answers, key=lambda answer: (answer.change.changes_training, -answer.figure.gain))


def _changed(found: Basis, job: Job) -> tuple[Subject, str, list[str]]:
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
    return works.work(prepared.model, prepared.task_section, sizes, launched=bool(found.work.launches))


def _vocabulary(folder: str | None) -> int:
    from pathlib import Path

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
    known = _step_ratio(found, replace(found.subject, job=job, work=work, plan=plan))
    if known is not None:
        return planned * known[0]
    section, ceilings = job.train or found.section, found.subject.ceilings
    one, two = (
        sum(of_step(each, made, given, ceilings).values())
        for each, made, given in ((found.section, found.plan, found.work), (section, plan, work))
    )
    return planned * two / one


def _step_ratio(found: Basis, subject: Subject) -> tuple[float, float | None, str] | None:
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


def _scaled(then: Mapping[str, Prediction], seconds: float, error: float | None) -> dict[str, Prediction]:
    """The lines of the steps made to last so long together."""
    whole = sum(then[state].value for state in STEPS if state in then)
    scale = seconds / whole if whole else 1.0
    return {
        state: Prediction(line.value * scale, "s", error) if state in STEPS else line for state, line in then.items()
    }


def _counted(
    now: Mapping[str, Prediction], then: Mapping[str, Prediction], more: float
) -> tuple[dict[str, Prediction], dict[str, Prediction]]:
    """The same lines, those of steps that only come `more` often without an error: that is counted, not predicted."""
    same = {
        state
        for state in STEPS
        if state in now and state in then and math.isclose(then[state].value, now[state].value * more, rel_tol=1e-9)
    }
    one, two = (
        {state: replace(line, error=0.0) if state in same else line for state, line in lines_.items()}
        for lines_ in (now, then)
    )
    return one, two


def _known_error(past: tuple[Past, ...], fingerprint: str, change: Change) -> float | None:
    """How far such changes were from what was predicted of them, on this machine; none if fewer than two were made."""
    found = [
        abs(entry.measured / entry.predicted - 1)
        for entry in past
        if (entry.fingerprint, entry.quantity, entry.kind) == (fingerprint, whatif.QUANTITY, change.keys)
        and entry.predicted
    ]
    return median(found[-9:]) if len(found) > 1 else None
