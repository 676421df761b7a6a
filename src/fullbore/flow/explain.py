"""`explain`: where a run's time went, what limited it, what was predicted and what to change."""

from __future__ import annotations

from typing import Any

from fullbore.base.errors import InputError
from fullbore.flow import energy
from fullbore.flow.facts import known
from fullbore.perf.plan.verdict import verdict
from fullbore.record import read
from fullbore.record.ledger import Ledger
from fullbore.record.run import find


def explain(name: str) -> dict[str, Any]:
    """Verdict, ledger, energy, utilisation and predicted beside measured of a run, finished or not (schema 1)."""
    run = find(name)
    paths = run.paths
    result = run.result() or {}
    ledger = Ledger.from_json(result["ledger"], result["busy"]) if result else read.ledger(paths.events())
    if not ledger.wall:
        raise InputError(f"{paths.events()}: no events", hint=f"the run ended at once; fullbore resume {run.name}")
    found = known(paths, ledger)
    return {
        "schema": 1,
        "run": run.name,
        "status": run.status(),
        "error": result.get("error"),
        "verdict": verdict(found).to_json(),
        "seconds": ledger.wall,
        "ledger": ledger.to_json(),
        "busy": dict(ledger.busy),
        "energy": result.get("energy") or energy.of_run(found, energy.asked(run.job())).to_json(),
        "predicted": result.get("predicted", {}),
        "metrics": result.get("metrics", {}),
        "mfu": result.get("mfu"),
    }
