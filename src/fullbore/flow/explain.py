"""`explain`: where a run's time went, what limited it, what was predicted and what to change."""

from __future__ import annotations

import json
from typing import Any

from fullbore.base.errors import InputError
from fullbore.base.paths import RunPaths
from fullbore.perf.plan import verdict
from fullbore.record import read
from fullbore.record.run import find
from fullbore.spec.hardware import Ceilings
from fullbore.spec.plan import Plan


def explain(name: str) -> dict[str, Any]:
    """Verdict, ledger, utilisation and predicted beside measured of a run, finished or not (schema 1)."""
    run = find(name)
    paths = run.paths
    ledger = read.ledger(paths.events())
    if not ledger.wall:
        raise InputError(f"{paths.events()}: no events", hint=f"the run ended at once; fullbore resume {run.name}")
    plan = Plan.from_json(json.loads(paths.plan.read_text())) if paths.plan.is_file() else None
    result = run.result() or {}
    found = verdict.of_run(ledger, list(read.events(paths.events())), plan, _ceilings(paths))
    return {
        "schema": 1,
        "run": run.name,
        "status": run.status(),
        "verdict": found.to_json(),
        "ledger": ledger.to_json(),
        "predicted": result.get("predicted", {}),
        "metrics": result.get("metrics", {}),
        "mfu": result.get("mfu"),
    }


def _ceilings(paths: RunPaths) -> Ceilings | None:
    """The ceilings that the run was judged against."""
    return Ceilings.from_json(json.loads(paths.ceilings.read_text())) if paths.ceilings.is_file() else None
