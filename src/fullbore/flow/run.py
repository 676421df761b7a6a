"""`run` and `resume`: a job from raw data to a served answer, every second accounted for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullbore.base.errors import FullboreError, Interrupted, RunFailed, UsageError
from fullbore.engine.process import settle
from fullbore.flow.interrupt import Interrupts
from fullbore.flow.session import Session
from fullbore.flow.stages import wanted
from fullbore.perf.measure import probe
from fullbore.record import artifact, read
from fullbore.record import run as runs
from fullbore.record.ledger import Ledger, State
from fullbore.record.progress import Progress, no_progress
from fullbore.record.run import RunFolder
from fullbore.record.sink import Sink
from fullbore.record.span import Recorder
from fullbore.spec.job import Job
from fullbore.spec.load import LoadedJob, load, to_toml

if TYPE_CHECKING:
    from fullbore.flow import forecast
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
    from fullbore.flow.prepare import look

    seen = look(job)
    environment = {**runs.environment(), "machine": asdict(probe.machine())}
    folder = runs.create(to_toml(job.job), environment, name)
    notify(f"Run {folder.name} in {folder.paths.folder}")
    return _execute(folder, job.job, seen, progress, notify, write_report, began)


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
    return _execute(folder, job, None, progress, notify, write_report, began)


def _execute(
    folder: RunFolder,
    job: Job,
    seen: Seen | None,
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
            try:
                _stages(session, seen, facts)
            except OSError as error:
                where = error.filename or folder.paths.folder
                failure = RunFailed(f"{where}: {error.strerror or error}", hint=_hint(folder))
            except KeyboardInterrupt as error:
                failure = Interrupted(str(error) or "interrupted")
            except Exception as error:
                failure = error
            return _finish(session, facts, before, failure, write_report)
    finally:
        recorder.close()


def _hint(folder: RunFolder) -> str:
    return f"make room or mend the cause, then: fullbore resume {folder.name}"


@contextmanager
def _counted(recorder: Recorder) -> Iterator[None]:
    """Sample what the process and its neighbours use while the block runs."""
    with recorder.state(State.START):
        from fullbore.perf.measure.counters import Counters

        counters = Counters(recorder)
        counters.__enter__()
    try:
        yield
    finally:
        with recorder.state(State.REPORT):
            counters.__exit__(None, None, None)


def _stages(session: Session, seen: Seen | None, facts: dict[str, Any]) -> None:
    with session.recorder.state(State.START):
        from fullbore.flow import answer, forecast, plan, prepare, shrink, train

    stages, resuming = {stage.name for stage in wanted(session.job)}, seen is None
    with _counted(session.recorder):
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
        with session.recorder.state(State.REPORT):
            found = _measured(session, facts["training"], whole=not resuming)
            corpus = artifact.read(session.run.paths.artifact("corpus"), "corpus")
            forecast.remember(session.job, corpus, frozen, found)


def _measured(session: Session, training: dict[str, Any], *, whole: bool) -> forecast.Finished:
    """What this run teaches about the next; `whole`: it was not resumed."""
    from fullbore.flow import forecast

    stages = [facts for facts in session.stages if facts["stage"] in forecast.PREPARING]
    built = {facts["stage"]: facts["seconds"] for facts in stages if not facts["cached"]}
    known = sum(facts["seconds"] for facts in stages) + training["seconds"]
    return forecast.Finished(training, built, session.recorder.elapsed() - known if whole else None)


def _finish(
    session: Session,
    facts: dict[str, Any],
    before: Ledger,
    failure: Exception | None,
    write_report: WriteReport | None,
) -> dict[str, Any]:
    recorder, folder = session.recorder, session.run
    status = "done" if failure is None else "failed"
    if isinstance(failure, Interrupted):
        status = "interrupted"
        failure.hint = f"Resume with: fullbore resume {folder.name}"
    with recorder.state(State.REPORT):
        from fullbore.flow.result import assemble, close

        result = assemble(session, facts, status, failure, before + recorder.ledger())
        recorder.event("end", status=status)
        with suppress(OSError) if failure is not None else nullcontext():
            folder.finish(result)
        if write_report is not None:
            recorder.account()
            recorder.settle()
            with suppress(OSError):
                write_report(folder)
        close(result, before + recorder.ledger())
        with suppress(OSError):
            folder.finish(result)
    if isinstance(failure, FullboreError):
        failure.result = result
    if failure is not None:
        raise failure
    return result
