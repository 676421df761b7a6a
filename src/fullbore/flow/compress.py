"""`compress`: a run's trained model into its fastest variant within the limit, without training again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fullbore.base.errors import InputError
from fullbore.flow import materials, shrink
from fullbore.record import artifact
from fullbore.record.ledger import State
from fullbore.record.progress import Progress, no_progress
from fullbore.record.run import find
from fullbore.record.span import Recorder
from fullbore.spec.compress import CompressSection
from fullbore.spec.load import load, load_section


def compress(
    target: str, out: str | None, overrides: Mapping[str, str], *, progress: Progress = no_progress
) -> dict[str, Any]:
    """Judge variants of the model of run `target` and write the one that the guard picks (schema 1).

    `out`: none means the run's own `artifacts/compressed`. Overrides are `compress.*` settings.
    Raises InputError if the run has no trained model, GateFailed if no variant qualifies.
    """
    run = find(target)
    job = load(run.paths.job).job
    folder = run.paths.artifact("model")
    if not (folder / artifact.MANIFEST).is_file():
        raise InputError(f"run {run.name} has no trained model", hint=f"fullbore resume {run.name}")
    written = job.compress.model_dump(mode="json") if job.compress is not None else {}
    section = load_section("compress", written, overrides)
    assert isinstance(section, CompressSection)
    place = Path(out).absolute() if out is not None else run.paths.artifact("compressed")
    recorder = Recorder()
    with recorder.state(State.COMPRESS):
        model = artifact.read(folder, "model")
        prepared = materials.load(job, run.paths)
        found = shrink.compress(prepared, model, section, place, recorder, progress)
    return {
        "schema": 1,
        "run": run.name,
        "folder": str(place),
        "chosen": asdict(found.chosen),
        "metric": next(iter(found.artifact.info["metrics"]), None),
        "compression": [asdict(row) for row in found.table],
        "ledger": recorder.ledger().to_json(),
    }
