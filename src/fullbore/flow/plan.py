"""Measure, choose, freeze: the plan that a run executes and that its resumptions use again."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from functools import partial

from fullbore.base.files import write_atomic
from fullbore.base.refusals import outgrown
from fullbore.base.units import format_seconds, plural
from fullbore.flow import forecast, host, lines, materials, prepare
from fullbore.flow.limits import limits as bounds_of
from fullbore.flow.materials import Materials
from fullbore.flow.session import Session
from fullbore.flow.work import work as work_of
from fullbore.perf.measure import probe, proc
from fullbore.perf.measure.condition import condition
from fullbore.perf.plan import choose, steps
from fullbore.record.ledger import State
from fullbore.record.span import Recorder
from fullbore.spec.hardware import Ceilings
from fullbore.spec.plan import Plan
from fullbore.spec.work import Work
from fullbore.train import trial

_TRIAL_STEPS = 2
_TRIAL_SECONDS = 0.3
"""A trial takes as many steps as fit in this time, though at least `_TRIAL_STEPS`."""
_FINAL_SECONDS = 1.0
"""The same for the setting that was chosen, which is timed once more."""
_TRIAL_SHARE = 0.05
"""Share of the expected training time that trials may take before the chosen setting is timed once more."""
_TRIALS_SECONDS = 1.5
"""Those of other precisions and threads may take so long in any case."""
_REPEATED_SECONDS = 1.0
"""A trial that took less is repeated if other processes disturbed it."""


def frozen(session: Session, resuming: bool) -> forecast.Frozen:
    """The run's plan: as it was frozen if the run has one, else measured and chosen now, printed and kept."""
    paths = session.run.paths
    with session.stage("plan") as facts:
        with session.recorder.state(State.PROBE):
            if text := host.unmeasured():
                session.message("note", text)
            ceilings = probe.probe(folder=paths.folder)
            write_atomic(paths.ceilings, json.dumps(ceilings.to_json(), indent=1) + "\n")
            session.recorder.event("condition", fingerprint=probe.machine().fingerprint, **condition())
            prepared = materials.load(session.job, paths)
            launched = ceilings.curves is not None
            work = work_of(prepared.model, prepared.task_section, prepared.sizes, launched=launched)
            write_atomic(paths.work, json.dumps(work.to_json()) + "\n")
            trial_seconds = None
            if resuming and paths.plan.is_file():
                plan = Plan.from_json(json.loads(paths.plan.read_text()))
                facts["cached"] = True
            else:
                plan, trial_seconds = _choose(session, prepared, work, ceilings)
                write_atomic(paths.plan, json.dumps(plan.to_json(), indent=1) + "\n")
                for choice in plan.choices:
                    session.choose(choice)
                if text := _short(session, plan):
                    session.message("warning", text)
        session.recorder.event("plan", **plan.to_json())
        predicted = plan.predicted.get("train_seconds")
        expected = f", {format_seconds(predicted.value)} expected" if predicted else ""
        facts["detail"] = f"{plural(plan.steps, 'step')} of {plural(plan.global_batch_size, 'sample')}{expected}"
    return forecast.Frozen(plan, ceilings, work, trial_seconds)


def _short(session: Session, plan: Plan) -> str | None:
    """What to say of a time budget that starting, preparing and planning have outlasted already; none if not."""
    budget, spent = session.job.train.budget if session.job.train is not None else None, session.recorder.elapsed()
    if budget is None or budget.unit != "seconds" or spent <= budget.amount:
        return None
    return (
        f"train.budget of {budget} is less than the {format_seconds(spent)} that starting, preparing and planning "
        f"took: it buys {plural(plan.steps, 'step')}, and most of the run is not training"
    )


def limits(prepared: Materials, work: Work, ceilings: Ceilings) -> choose.Limits:
    """What the machine gives and the job needs, with what past runs say of it."""
    rows = {split: prepared.shards.rows(split) for split in ("train", "validation")}
    found = bounds_of(prepared.train, prepared.model, prepared.task_section, prepared.sizes, work, rows)
    return forecast.informed(prepared.job, prepared.train, work, found, ceilings)


def _choose(session: Session, prepared: Materials, work: Work, ceilings: Ceilings) -> tuple[Plan, float]:
    """The plan, and what a step took in the last trial of it."""
    bounds = limits(prepared, work, ceilings)
    section = prepared.train
    draft = choose.plan(section, [], bounds)
    judged = prepared.shards.rows("validation")
    expected = forecast.forecast(session.job, section, work, bounds, ceilings, judged).predicted["train_seconds"].value
    brief = partial(_timed, session, prepared, draft, min(_TRIAL_SECONDS, _TRIAL_SHARE * expected))
    trials: list[choose.Trial] = []
    began = time.monotonic()
    while (setting := choose.next_setting(section, trials, bounds)) is not None:
        started = time.monotonic()
        if not _affordable(setting, trials, started - began, expected):
            break
        try:
            found = brief(setting)
        except (MemoryError, RuntimeError) as error:
            bounds = _smaller(session, bounds, setting, error)
            continue
        if found.disturbed and time.monotonic() - started < _REPEATED_SECONDS:
            found = min(found, brief(setting), key=lambda trial: trial.seconds)
        trials.append(found)
    costs = partial(forecast.costs, section, work, judged)
    plain = choose.plan(section, trials, bounds, costs(min(trial.seconds for trial in trials)))
    bounds = replace(bounds, compiling=forecast.compiling(session.job, work, ceilings, plain))
    if (setting := choose.worth_compiling(section, trials, bounds)) is not None:
        with session.recorder.state(State.COMPILE):
            trials.append(brief(setting))
        forecast.remember_compiling(session.job, work, ceilings, plain, trials[-1])
    setting = choose.chosen(section, trials, bounds)
    again = _timed(session, prepared, draft, min(_FINAL_SECONDS, _TRIAL_SHARE * expected), setting)
    best = replace(again, seconds=min(trial.seconds for trial in (*trials, again) if trial.setting == setting))
    trials = [*(t for t in trials if t.setting != setting), best]
    known = forecast.of_trials(session.job, ceilings, setting, best.seconds)
    plan = choose.plan(section, trials, bounds, replace(costs(best.seconds), calibration=known))
    seconds = plan.predicted["train_seconds"].value
    if text := steps.warning(section, seconds, costs(best.seconds)):
        session.message("warning", text)
    paths, spared = session.run.paths, prepare.spared(session)
    subject = lines.of_folder(session.job, paths, ceilings, spared, plan, work)
    predicted = {
        **plan.predicted,
        "memory_bytes": forecast.memory_parts(session.job, section, work, plan, ceilings)[1],
        **lines.keyed(lines.predict(subject, plan.predicted["step_seconds"])),
    }
    return replace(plan, predicted=predicted), best.seconds


def _smaller(session: Session, bounds: choose.Limits, setting: choose.Setting, error: Exception) -> choose.Limits:
    """The limits under which a setting whose trial ran out of memory is not tried again. Raises DoesNotFit if the job
    leaves no smaller micro-batch, and any other error as it is."""
    refused, section = outgrown(error), session.job.train
    size = setting.micro_batch_size
    if refused is None:
        raise error
    if section is None or section.micro_batch_size != "auto" or size == 1:
        raise refused from None
    session.message("warning", f"a micro-batch of {size} ran out of memory in its trial: smaller ones are tried")
    return choose.below(section, bounds, size)


def _affordable(setting: choose.Setting, trials: list[choose.Trial], spent: float, expected: float) -> bool:
    """Whether another trial may follow those that took `spent` seconds, before a training of `expected` seconds."""
    if not trials or spent <= _TRIAL_SHARE * expected:
        return True
    matters = setting.micro_batch_size == trials[0].setting.micro_batch_size
    return matters and (len(trials) == 1 or spent <= _TRIALS_SECONDS)


def _timed(session: Session, prepared: Materials, draft: Plan, seconds: float, setting: choose.Setting) -> choose.Trial:
    """Some steps of a setting, and who else used the cores meanwhile."""
    tried = replace(draft, **asdict(setting))
    setup = materials.setup(prepared, tried, session.run.paths, Recorder(), session.progress, lambda: False)
    neighbours = proc.Neighbours()
    found = trial.step_seconds(
        setup,
        steps=_TRIAL_STEPS,
        seconds=seconds,
    )
    made = choose.Trial(setting, found.seconds, neighbours.cores(), found.first_seconds)
    session.recorder.event("trial", **asdict(made))
    return made
