"""`compress`: a run's trained model into its fastest variant within the limit, without training again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fullbore.base.errors import InputError
from fullbore.engine.process import settle
from fullbore.flow import materials, shrink
from fullbore.flow.place import place
from fullbore.record import artifact
from fullbore.record.ledger import State
from fullbore.record.progress import Progress, no_progress
from fullbore.record.run import find
from fullbore.record.span import Recorder
from fullbore.spec.compress import CompressSection
from fullbore.spec.load import load, load_section

if TYPE_CHECKING:
    from fullbore.compress.run import Compression
    from fullbore.flow.run import WriteReport
    from fullbore.record.run import RunFolder


def compress(
    name: str,
    out: str | None,
    overrides: Mapping[str, Any],
    *,
    progress: Progress = no_progress,
    write_report: WriteReport | None = None,
) -> dict[str, Any]:
    """Judge variants of the model of run `name` and write the one that the guard picks (schema 1).

    `out`: none means the run's own `artifacts/compressed`, which its result and its report then tell of. Overrides are
    `compress.*` settings. Raises UsageError while the run is running or if something else lies at `out`, InputError if
    there is no trained model, GateFailed if no variant qualifies.
    """
    settle()
    run = find(name)
    with run.alive():
        job = load(run.paths.job).job
        folder = run.paths.artifact("model")
        if not (folder / artifact.MANIFEST).is_file():
            raise InputError(f"run {run.name} has no trained model", hint=f"fullbore resume {run.name}")
        written = job.compress.model_dump(mode="json") if job.compress is not None else {}
        section = load_section("compress", written, overrides)
        assert isinstance(section, CompressSection)
        target = place(out) if out is not None else run.paths.artifact("compressed")
        recorder = Recorder()
        with recorder.state(State.COMPRESS):
            model = artifact.read(folder, "model")
            prepared = materials.load(job, run.paths)
            found = shrink.compress(prepared, model, section, target, recorder, progress)
        if out is None:
            _tell(run, found, write_report)
    return {
        "schema": 1,
        "run": run.name,
        "folder": str(target),
        "chosen": asdict(found.chosen),
        "metric": _metric(found),
        "compression": [asdict(row) for row in found.table],
        "ledger": recorder.ledger().to_json(),
    }


def _metric(found: Compression) -> str | None:
    """What the variants were judged by."""
    return next(iter(found.artifact.info["metrics"]), None)


def _tell(run: RunFolder, found: Compression, write_report: WriteReport | None) -> None:
    """Put the new table into the run's result, if it ended by itself, and its report."""
    result = run.result()
    if result is not None:
        table = [asdict(row) for row in found.table]
        told = {"compression": table, "chosen": found.chosen.variant, "model": str(found.artifact.folder)}
        run.finish({**result, **told, "metric": _metric(found) or result.get("metric")})
    if write_report is not None:
        write_report(run)
