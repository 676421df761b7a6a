"""What was predicted of a job while it was only a what-if, and what its run then brought."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fullbore.base.paths import RunPaths, runs_root
from fullbore.flow.session import content_key
from fullbore.perf.measure import history
from fullbore.perf.model.calibration import Past
from fullbore.perf.plan.facts import TRAINING, Facts
from fullbore.perf.plan.whatif import QUANTITY
from fullbore.spec.job import Job

_FILE = "what-ifs.jsonl"


def job_key(job: Job) -> str:
    """A job by what it asks for, whatever it is called."""
    return content_key(job.model_dump(mode="json", exclude={"name"}))


def keep(paths: RunPaths, job: Job, answer: Mapping[str, Any], keys: str) -> None:
    """Add what was predicted of `job`, with its digest, to the run that it was predicted from; nowhere if that folder
    cannot be written. `keys`: the settings that were changed."""
    figure = answer["figure"]
    entry = {"job": job_key(job), "keys": keys, "set": answer["set"], "figure": figure, "sha256": answer["sha256"]}
    with suppress(OSError), open(paths.folder / _FILE, "a") as file:
        file.write(json.dumps(entry) + "\n")


def compared(job: Job, found: Facts, fingerprint: str, *, teaches: bool) -> list[dict[str, Any]]:
    """Each prediction of this job beside what its run measured, the last of each run; if the run `teaches` (nobody
    disturbed it), this is remembered, so that the next such prediction knows the error of its kind."""
    measured = {"run time": found.ledger.wall, "training rate": _rate(found)}
    told: dict[str, dict[str, Any]] = {}
    for run, entry in _kept(job_key(job)):
        figure = entry["figure"]
        value = measured.get(figure["name"])
        if value:
            told[run] = {
                **{key: entry[key] for key in ("set", "keys", "sha256")},
                **{"run": run, "figure": figure["name"], "unit": figure["unit"]},
                **{"was": figure["now"], "predicted": figure["then"], "measured": value, "teaches": teaches},
            }
    entries = [
        Past(fingerprint, QUANTITY, item["keys"], "", item["predicted"] / item["was"], item["measured"] / item["was"])
        for item in told.values()
        if item["was"] and item["predicted"]
    ]
    with suppress(OSError):
        if entries and teaches:
            history.remember(entries)
    return list(told.values())


def _rate(found: Facts) -> float:
    seconds = found.seconds(*TRAINING)
    return found.samples * found.work.units_per_sample / seconds if seconds and found.work is not None else 0.0


def _kept(key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(runs_root().glob(f"*/{_FILE}")):
        for line in _lines(path):
            with suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                if entry["job"] == key:
                    yield path.parent.name, entry


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
