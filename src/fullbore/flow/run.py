"""`run` and `resume`: a job from raw data to a served answer, every second accounted for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullbore.base.errors import FullboreError, InputError, Interrupted, RunFailed, UsageError
from fullbore.base.refusals import outgrown
from fullbore.engine.process import settle
from fullbore.flow import host
from fullbore.flow.interrupt import Interrupts
from fullbore.flow.session import Session
from fullbore.flow.stages import wanted
from fullbore.perf.measure import probe
from fullbore.perf.measure.counters import Counters
from fullbore.record import read
from fullbore.record import run as runs
from fullbore.record.ledger import Ledger, State
from fullbore.record.progress import Progress, no_progress
from fullbore.record.run import RunFolder
from fullbore.record.sink import Sink
from fullbore.record.span import Recorder
from fullbore.spec.job import Job
from fullbore.spec.load import LoadedJob, load, to_toml

if TYPE_CHECKING:
    from fullbore.flow.prepare import Seen

Notify = Callable[[str], None]
WriteReport = Callable[[RunFolder], Path]


def quiet(text: str) -> None:
    """A `notify` that nobody reads."""


def run(
    job: LoadedJob,
    *,
    name: str | None = None,
    progress: Progress = no_progress,
    notify: Notify = quiet,
    write_report: WriteReport | None = None,
    began: float | None = None,
) -> dict[str, Any]:
    """Run a job in a new run folder and return its result object (schema 1).

    `began`: when the accounted time starts, in seconds since the epoch; none means this process's exec.
    Raises JobError, before there is a run, for paths of the job that lead nowhere. Raises what the job raises
    (FullboreError, whose `result` is the result object); the run folder then says so too.
    """
    with Counters() as counters:
        from fullbore.flow.prepare import look

        seen = look(job)
        environment = {**runs.environment(), "machine": asdict(probe.machine())}
        folder = runs.create(to_toml(job.job), environment, name)
        notify(f"Run {folder.name} in {folder.paths.folder}")
        return _execute(folder, job.job, seen, counters, progress, notify, write_report, began)


def resume(
    name: str,
    *,
    progress: Progress = no_progress,
    notify: Notify = quiet,
    write_report: WriteReport | None = None,
    began: float | None = None,
) -> dict[str, Any]:
    """Go on with a run that was stopped, killed or failed, under its own job and plan. Raises UsageError."""
    folder = runs.find(name)
    status = folder.status()
    if status == "running":
        raise UsageError(f"run {folder.name} is running", hint="wait for it, or stop it first")
    if status == "done":
        raise UsageError(f"run {folder.name} is finished", hint=f"fullbore explain {folder.name}, or run its job again")
    job = load(folder.paths.job).job
    notify(f"Resuming run {folder.name}")
    with Counters() as counters:
        return _execute(folder, job, None, counters, progress, notify, write_report, began)


def _execute(
    folder: RunFolder,
    job: Job,
    seen: Seen | None,
    counters: Counters,
    progress: Progress,
    notify: Notify,
    write_report: WriteReport | None,
    began: float | None,
) -> dict[str, Any]:
    """`seen`: what `look` saw; none for a run that is resumed."""
    settle()
    before = read.ledger(folder.paths.events())
    interrupts = Interrupts(notify)
    recorder = Recorder(Sink(folder.paths.events()), began=began)
    counters.attach(recorder)
    session = Session(folder, job, recorder, progress, notify, interrupts)
    failure: Exception | None = None
    facts: dict[str, Any] = {}
    try:
        with folder.alive(), interrupts.handled():
            if seen is None:
                folder.paths.result.unlink(missing_ok=True)
            recorder.event("session", resumed=seen is None, began=recorder.began)
            if seen is not None and seen.warning:
                session.message("warning", seen.warning)
            if seen is None and (told := host.another(folder)):
                text = f"this is another machine than the run began on ({told})"
                session.message("warning", f"{text}: it keeps the plan that was frozen there")
            try:
                _stages(session, seen, facts)
            except OSError as error:
                where = error.filename or folder.paths.folder
                failure = RunFailed(f"{where}: {error.strerror or error}", hint=_hint(folder))
            except KeyboardInterrupt as error:
                failure = Interrupted(str(error) or "interrupted")
            except Exception as error:
                failure = outgrown(error) or error
            return _finish(session, facts, before, failure, counters, write_report)
    finally:
        with recorder.state(State.REPORT):
            counters.end()
        recorder.close()


def _hint(folder: RunFolder) -> str:
    return f"make room or mend the cause, then: fullbore resume {folder.name}"


def _stages(session: Session, seen: Seen | None, facts: dict[str, Any]) -> None:
    with session.recorder.state(State.START):
        from fullbore.flow import answer, plan, prepare, shrink, train

    stages, resuming = {stage.name for stage in wanted(session.job)}, seen is None
    prepare.prepare_data(session, seen.source if seen is not None else None)
    if "train" not in stages:
        return
    frozen = plan.frozen(session, resuming)
    facts["plan"] = frozen.plan
    facts["ceilings"] = frozen.ceilings
    facts["work"] = frozen.work
    facts["training"] = train.train(session, frozen.plan, resume=resuming)
    if facts["training"]["stopped"] == "interrupted":
        raise Interrupted("interrupted; the checkpoint is saved")
    facts["baselines"] = train.baselines(session, facts["training"]["steps"])
    if "compress" in stages:
        facts["compression"] = shrink.shrink(session)
    if "serve" in stages:
        facts["completion"] = answer.answer(session)
    facts["frozen"] = frozen


def _remember(session: Session, facts: dict[str, Any], *, whole: bool) -> list[dict[str, Any]]:
    """Keep what this run teaches about the next; `whole`: it was not resumed. Returns what was predicted of its job
    while it was only a what-if, beside what it measured."""
    from fullbore.flow import forecast, foretold, lines, prepare
    from fullbore.flow.facts import known
    from fullbore.perf.plan.facts import TRAINING
    from fullbore.perf.plan.inside import undisturbed

    frozen = facts["frozen"]
    spared = prepare.spared(session)
    subject = lines.of_folder(session.job, session.run.paths, frozen.ceilings, spared, frozen.plan, frozen.work)
    found = known(session.run.paths, session.recorder.ledger())
    forecast.remember(subject, frozen, forecast.finished(facts["training"], found, whole=whole))
    calm = whole and undisturbed(found, TRAINING)
    return foretold.compared(session.job, found, frozen.ceilings.basis, teaches=calm)


def _finish(
    session: Session,
    facts: dict[str, Any],
    before: Ledger,
    failure: Exception | None,
    counters: Counters,
    write_report: WriteReport | None,
) -> dict[str, Any]:
    recorder, folder = session.recorder, session.run
    status = "done" if failure is None else "failed"
    if isinstance(failure, Interrupted):
        status = "interrupted"
        failure.hint = f"Resume with: fullbore resume {folder.name}"
    with recorder.state(State.REPORT):
        from fullbore.flow.result import assemble, close
        from fullbore.perf.measure.condition import condition
        from fullbore.perf.measure.probe import machine

        counters.settle()
        recorder.event("condition", fingerprint=machine().fingerprint, **condition())
        result = assemble(session, facts, status, failure, before + recorder.ledger())
        recorder.event("end", status=status)
        with suppress(OSError) if failure is not None else nullcontext():
            folder.finish(result)
        if write_report is not None:
            recorder.account()
            recorder.settle()
            with suppress(OSError):
                write_report(folder)
        if failure is None and "frozen" in facts:
            with suppress(InputError, OSError):
                result["foretold"] = _remember(session, facts, whole=not before.wall)
        close(result, before + recorder.ledger())
        with suppress(OSError):
            folder.finish(result)
    if isinstance(failure, FullboreError):
        failure.result = result
    if failure is not None:
        raise failure
    return result
