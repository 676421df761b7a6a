"""`tune`: the settings that a job leaves open, chosen by timing its real step, within a budget.

The cost model ranks all combinations, trials correct it (`perf.plan.search`), and it ends when what is left to win is
small. The best of the trials are then measured in turns with the job as it stands, beside themselves (the noise).
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fullbore.base.errors import DoesNotFit, Interrupted, UsageError
from fullbore.base.files import write_atomic
from fullbore.base.paths import RunPaths, runs_root
from fullbore.base.units import format_seconds, plural
from fullbore.base.version import VERSION
from fullbore.engine.process import settle
from fullbore.flow import materials, prepare, tuned
from fullbore.flow.interrupt import Interrupts
from fullbore.flow.plan import limits as limits_of
from fullbore.flow.run import quiet
from fullbore.flow.session import Session
from fullbore.flow.trials import Kept, Lab, name_of
from fullbore.flow.tuning import Notify, Tuning
from fullbore.flow.work import work as work_of
from fullbore.perf.measure import probe, stats
from fullbore.perf.plan import choose
from fullbore.perf.plan.choose import Setting
from fullbore.perf.plan.space import KEYS, Model, space
from fullbore.record.progress import Progress, no_progress
from fullbore.record.run import RunFolder
from fullbore.record.span import Recorder
from fullbore.spec.load import DEFAULT, LoadedJob, to_toml
from fullbore.spec.model import ATTENTION, BLOCKS, MIXING
from fullbore.spec.train import TrainSection

BUDGET_SECONDS = 300.0
_NEAR = 0.05
"""Settings that are not more slower than this than the best are compared with it in turns."""
_FINALISTS = 3


def tune(
    loaded: LoadedJob,
    *,
    budget: float = BUDGET_SECONDS,
    out: Path | None = None,
    also: Sequence[str] = (),
    force: bool = False,
    again: str = "fullbore tune",
    progress: Progress = no_progress,
    notify: Notify,
    draw: tuned.Draw,
) -> dict[str, Any]:
    """Tune what `loaded` leaves open, and write the better job (schema 1). `door.tune` says the rest.

    `again`: the command that goes on with it, for a message.
    """
    deadline = time.monotonic() + budget
    _require(loaded, budget)
    opened = _opened(loaded, also)
    place = tuned.place(loaded, out, force)
    settle()
    interrupts = Interrupts(notify)
    with alone(loaded.job.name) as folder, interrupts.handled():
        try:
            tuning = prepared(loaded, folder, deadline, opened, interrupts, progress, notify)
        except (Interrupted, KeyboardInterrupt) as error:
            raise Interrupted("interrupted before the first trial", hint=f"Resume with: {again}") from error
        if time.monotonic() >= deadline:
            raise _too_short(budget, "its data were read")
        status, failure = "done", None
        try:
            tuning.try_all()
            tuning.feed()
        except TimeoutError:
            tuning.stopped = "the budget is spent"
        except (Interrupted, KeyboardInterrupt) as error:
            status, failure = "interrupted", error
            tuning.stopped = "it was interrupted"
        if not tuning.kept.measured():
            if failure is not None:
                raise Interrupted("interrupted before a trial ended", hint=f"Resume with: {again}") from failure
            raise _too_short(budget, "the first trial had ended")
        try:
            chosen, stands = tuning.best.setting, tuning.as_it_stands()
            if failure is None:
                chosen = _compared(tuning, stands)
        except (Interrupted, KeyboardInterrupt) as error:
            status, failure = "interrupted", error
        answer = tuned.answer(tuning, chosen, stands, status, budget, place, draw)
        if failure is not None:
            told = "interrupted; the best so far is written" if answer["out"] else "interrupted"
            raised = Interrupted(told, hint=f"Resume with: {again}")
            raised.result = answer
            raise raised from failure
        return answer


def _compared(tuning: Tuning, stands: Setting) -> Setting:
    """What is best, of those that trials cannot tell apart and of the job as it stands, measured in turns."""
    ranked = sorted(tuning.kept.measured(), key=tuning.value)
    near = [trial.setting for trial in ranked if tuning.value(trial) <= (1 + _NEAR) * tuning.value(ranked[0])]
    finalists = [setting for setting in near if setting != stands][:_FINALISTS]
    finalists = tuning.fitting([stands, *finalists])
    if len(finalists) > 1 or finalists[0] == ranked[0].setting:
        tuning.compare(finalists)
    names = [name_of(setting) for setting in finalists]
    if len(tuning.rounds) < stats.FEWEST_PAIRS:
        return ranked[0].setting
    better = [name for name in names[1:] if tuning.difference(names[0], name).faster == "B"]
    values = {name: tuning.difference(names[0], name).ratio.value for name in better}
    return finalists[names.index(max(values, key=values.__getitem__))] if values else stands


def _require(loaded: LoadedJob, budget: float) -> None:
    """Raises UsageError if there is nothing to tune."""
    where = loaded.path or f"job {loaded.job.name}"
    if loaded.job.train is None:
        raise UsageError(
            f"{where}: has no [train], so there is nothing to tune", hint="add [train], [model] and [task]"
        )
    if not 0 < budget < math.inf:
        raise UsageError(f"--budget: found {budget:g} s, expected a time above zero", hint="for example --budget 5m")


def _opened(loaded: LoadedJob, also: Sequence[str]) -> frozenset[str]:
    """Keys that may be tried: what the job leaves to the program or says nothing of, and what is asked for.

    With batch norm the micro-batch is part of the mathematics, so it must be asked for.
    """
    unknown = [key for key in also if key not in KEYS.values()]
    if unknown:
        raise UsageError(f"--also {unknown[0]}: is not tuned; expected one of {', '.join(KEYS.values())}")
    train = loaded.job.train
    values = {key: getattr(train, name) for name, key in zip(KEYS, KEYS.values(), strict=True)}
    free = {key for key, value in values.items() if value == "auto" or loaded.origins[key] == DEFAULT}
    mixes = loaded.job.model is not None and loaded.job.model.kind in MIXING
    return frozenset({*(free - {KEYS["micro_batch_size"]} if mixes else free), *also})


def _too_short(budget: float, before: str) -> DoesNotFit:
    return DoesNotFit(
        f"--budget: {format_seconds(budget)} were over before {before}",
        hint="give it more time: what was prepared is kept, so the next start is shorter",
    )


@contextmanager
def alone(name: str) -> Iterator[RunPaths]:
    """The folder where what is measured of a job is kept. Raises UsageError if the same job is being tuned."""
    folder = runs_root() / ".tune" / name
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"{name} is being tuned", hint="wait for it, or stop it first") from None
        yield RunPaths(folder)


def prepared(
    loaded: LoadedJob,
    paths: RunPaths,
    deadline: float,
    opened: frozenset[str],
    interrupts: Interrupts,
    progress: Progress = no_progress,
    notify: Notify = quiet,
) -> Tuning:
    """Data, work and ceilings, and what was measured of the same job before. `opened`: keys that may be tried."""
    asked = loaded.job.train
    if asked is None:
        raise UsageError(f"job {loaded.job.name}: has no [train]")
    job = loaded.job
    names = {name for name, key in zip(KEYS, KEYS.values(), strict=True) if key in opened}
    free = {name: "auto" for name in names if TrainSection.model_fields[name].default == "auto"}
    section = asked.model_copy(update=free)
    seen = prepare.look(loaded)
    shutil.rmtree(paths.artifacts, ignore_errors=True)
    paths.artifacts.mkdir(parents=True)
    write_atomic(paths.job, to_toml(job))
    session = Session(RunFolder(job.name, paths), job, Recorder(), progress, notify, interrupts)
    last = prepare.prepare_data(session, seen.source)
    ceilings = probe.probe(folder=paths.folder)
    prepared = materials.load(job, paths)
    work = work_of(prepared.model, prepared.task_section, prepared.sizes, launched=True)
    limits = limits_of(replace(prepared, train=section), work, ceilings)
    draft = choose.plan(section, [], limits)
    write_atomic(paths.plan, json.dumps(draft.to_json(), indent=1) + "\n")
    kept = Kept(paths.folder / "trials.jsonl", _identity(loaded, last.digest))
    if kept.changed:
        notify(f"measured anew: {', '.join(kept.changed)} changed since this job was tuned")
    elif kept.trials:
        notify(f"going on from {plural(len(kept.trials), 'trial')} of {paths.folder}")
    return Tuning(
        loaded=loaded,
        section=section,
        asked=asked,
        work=work,
        ceilings=ceilings,
        space=space(section, limits, _model(prepared, limits), opened),
        draft=draft,
        kept=kept,
        lab=Lab(paths.folder, deadline),
        notify=notify,
        progress=progress,
    )


def _identity(loaded: LoadedJob, digest: str) -> dict[str, Any]:
    """What trials depend on: all of the job that a step sees, its data, the machine, the programs."""
    whole = loaded.job.model_dump(mode="json", include={"tokenizer", "task", "model", "train"})
    tried = {*KEYS, "budget", "checkpoint_every"}
    whole["train"] = {name: value for name, value in whole["train"].items() if name not in tried}
    host = probe.machine()
    programs = {"fullbore": VERSION, "torch": host.torch, "python": host.python}
    return {**whole, "data": digest, "machine": host.fingerprint, "cores": len(os.sched_getaffinity(0)), **programs}


def _model(prepared: materials.Materials, limits: choose.Limits) -> Model:
    kind = prepared.model.kind
    return Model(ATTENTION[kind] if limits.attends is not None else (), kind in BLOCKS)
