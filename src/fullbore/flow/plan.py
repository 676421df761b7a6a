"""Measure, choose, freeze: the plan that a run executes and that its resumptions use again."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, replace

from fullbore.base.files import write_atomic
from fullbore.base.units import format_seconds
from fullbore.flow import forecast, materials
from fullbore.flow.materials import Materials
from fullbore.flow.session import Session
from fullbore.models import work as works
from fullbore.perf.measure import history, probe, proc
from fullbore.perf.model import memory
from fullbore.perf.plan import choose
from fullbore.record.ledger import State
from fullbore.spec.hardware import Ceilings
from fullbore.spec.plan import Plan
from fullbore.spec.work import Work
from fullbore.train import trial

_TRIAL_STEPS = 3
_TRIAL_SHARE = 0.05
"""Share of the expected training time that trials of other settings than the first may take."""


@dataclass(frozen=True)
class Frozen:
    plan: Plan
    ceilings: Ceilings
    work: Work


def frozen(session: Session, resuming: bool) -> Frozen:
    """The run's plan: as it was frozen if the run has one, else measured and chosen now, printed and kept."""
    paths = session.run.paths
    with session.stage("plan") as facts:
        with session.recorder.state(State.PROBE):
            ceilings = probe.probe(folder=paths.folder)
            write_atomic(paths.ceilings, json.dumps(ceilings.to_json(), indent=1) + "\n")
            prepared = materials.load(session.job, paths)
            work = works.work(prepared.model, prepared.task_section, prepared.sizes)
            write_atomic(paths.work, json.dumps(work.to_json()) + "\n")
            if resuming and paths.plan.is_file():
                plan = Plan.from_json(json.loads(paths.plan.read_text()))
                facts["cached"] = True
            else:
                plan = _choose(session, prepared, work, ceilings)
                write_atomic(paths.plan, json.dumps(plan.to_json(), indent=1) + "\n")
                for choice in plan.choices:
                    session.choose(choice)
        session.recorder.event("plan", **plan.to_json())
        predicted = plan.predicted.get("train_seconds")
        expected = f", {format_seconds(predicted.value)} expected" if predicted else ""
        facts["detail"] = f"{plan.steps} steps of {plan.global_batch_size}{expected}"
    return Frozen(plan, ceilings, work)


def limits(prepared: Materials, work: Work, ceilings: Ceilings) -> choose.Limits:
    """What the machine gives and the job needs, for `choose`."""
    cores = len(os.sched_getaffinity(0))
    section = prepared.train

    def memory_of(micro: int) -> float:
        return sum(memory.predict(work, section, micro).values())

    return choose.Limits(
        rows=prepared.shards.rows("train"),
        units_per_row=prepared.units_per_row(),
        units=work.units,
        cores=cores,
        memory_available=proc.memory_available(),
        memory_of=memory_of,
        matmul={dtype: ceilings.peak(dtype, cores) for dtype in ceilings.matmul_flops},
        has_validation=_judged(prepared) > 0,
    )


def _choose(session: Session, prepared: Materials, work: Work, ceilings: Ceilings) -> Plan:
    bounds = limits(prepared, work, ceilings)
    section = prepared.train
    draft = choose.plan(section, [], bounds)
    expected = (
        forecast.forecast(session.job, section, work, bounds, ceilings, _judged(prepared))
        .predicted["train_seconds"]
        .value
    )
    trials: list[choose.Trial] = []
    began = time.monotonic()
    while (setting := choose.next_setting(section, trials, bounds)) is not None:
        if trials and time.monotonic() - began > _TRIAL_SHARE * expected:
            break
        tried = replace(
            draft,
            precision=setting.precision,
            threads=setting.threads,
            micro_batch_size=setting.micro_batch_size,
            accumulation=setting.accumulation,
        )
        setup = materials.setup(prepared, tried, session.run.paths, session.recorder, session.progress, lambda: False)
        found = trial.step_seconds(
            setup,
            precision=setting.precision,
            threads=setting.threads,
            compile=False,
            micro_batch=setting.micro_batch_size,
            steps=_TRIAL_STEPS,
        )
        trials.append(choose.Trial(setting, found.seconds))
    plan = choose.plan(
        section,
        trials,
        bounds,
        forecast.costs(section, work, _judged(prepared), min(trial.seconds for trial in trials)),
    )
    parts = forecast.memory_parts(work, section, plan)
    kind = forecast.model_kind(session.job)
    predicted = {
        **plan.predicted,
        "memory_bytes": forecast.memory_prediction(parts, history.load(), ceilings.fingerprint, kind),
        "total_seconds": forecast.total(
            session.job, session.recorder.elapsed() + plan.predicted["train_seconds"].value, ceilings
        ),
    }
    return replace(plan, predicted=predicted)


def _judged(prepared: Materials) -> int:
    return prepared.shards.rows("validation")
