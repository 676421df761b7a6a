"""What a run's folder tells, whether it ended by itself or not: what a verdict and its energy go by."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fullbore.base.paths import RunPaths
from fullbore.base.units import parse_budget
from fullbore.perf.plan.facts import Facts, gather
from fullbore.record import read
from fullbore.record.ledger import Ledger
from fullbore.spec.hardware import Ceilings
from fullbore.spec.plan import Plan
from fullbore.spec.work import Work


def known(paths: RunPaths, ledger: Ledger) -> Facts:
    """What a run whose seconds are `ledger` left: its plan, ceilings, work, ranks and events so far."""
    plan, ceilings, work = _json(paths.plan), _json(paths.ceilings), _json(paths.work)
    job = tomllib.loads(paths.job.read_text())
    return gather(
        ledger,
        read.events(paths.events()),
        Plan.from_json(plan) if plan else None,
        Ceilings.from_json(ceilings) if ceilings else None,
        work=Work.from_json(work) if work else None,
        ranks=[read.ledger(path) for path in read.rank_files(paths).values()],
        source=job["data"]["source"],
        timed=_timed(job),
        optimizer=job.get("train", {}).get("optimizer", "adamw"),
    )


def _timed(job: Mapping[str, Any]) -> bool | None:
    """Whether a resolved job's budget is time; none if it does not train."""
    written = job.get("train", {}).get("budget")
    return None if written is None else parse_budget(str(written)).unit == "seconds"


def _json(path: Path) -> dict[str, Any] | None:
    return dict(json.loads(path.read_text())) if path.is_file() else None
