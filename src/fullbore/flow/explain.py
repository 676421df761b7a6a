"""`explain`: where a run's time went, what limited it, what was predicted and what to change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fullbore.base.errors import FullboreError, InputError
from fullbore.flow import energy, host, lines, replan, whatif
from fullbore.flow.facts import known
from fullbore.perf.plan import conditions, killed, roofline
from fullbore.perf.plan.facts import TRAINING, Facts
from fullbore.perf.plan.inside import mfu
from fullbore.perf.plan.steady import steady
from fullbore.perf.plan.verdict import verdict
from fullbore.record import read
from fullbore.record.ledger import Ledger
from fullbore.record.run import RunFolder, find


def explain(name: str, what_if: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Verdict, ledger, energy, utilisation, steadiness, roofline, predicted beside measured and what-ifs of a run,
    finished or not (schema 1).

    `what_if`: settings of which is told, too, what the run would have taken with them.
    """
    run = find(name)
    paths = run.paths
    result = run.result() or {}
    ledger = Ledger.from_json(result["ledger"], result["busy"]) if result else read.ledger(paths.events())
    if not ledger.wall:
        raise InputError(f"{paths.events()}: no events", hint=f"the run ended at once; fullbore resume {run.name}")
    found = known(paths, ledger)
    events = list(read.events(paths.events()))
    changes, missing = changed(run, found, brief=bool(what_if))
    if told := host.another(run):
        missing.append(f"it ran on another machine than this one ({told}): its figures and what-ifs are of that one")
    ended = killed.notes(events) if (status := run.status()) == "killed" else []
    taken, reached = steady(events), mfu(found)
    answer = {
        "schema": 1,
        "run": run.name,
        "status": status,
        "error": result.get("error"),
        "notes": [*missing, *ended, *conditions.notes(found, events)],
        "verdict": verdict(found, [change.advice() for change in changes]).to_json(),
        "seconds": ledger.wall,
        "ledger": ledger.to_json(),
        "busy": dict(ledger.busy),
        "energy": result.get("energy") or energy.of_run(found, energy.asked(run.job())).to_json(),
        "steady": taken.to_json() if taken is not None else None,
        "predicted": result.get("predicted") or _so_far(found),
        "what_ifs": [change.to_json() for change in changes],
        "roofline": roofline.of_run(found),
        "metrics": result.get("metrics", {}),
        "mfu": reached.share if reached is not None else None,
        "mfu_of": reached.to_json() if reached is not None else None,
    }
    if what_if:
        answer["if"] = whatif.asked(replan.basis(paths, found), what_if)
    return answer


def changed(run: RunFolder, found: Facts, *, brief: bool = False) -> tuple[list[whatif.WhatIf], list[str]]:
    """What changes of a run's settings would bring, and what its folder lacks for that or anything else. `brief`: not
    of the network."""
    missing = []
    if found.plan is None:
        missing.append("it ended before its plan was made: nothing was predicted")
    elif not found.steps:
        missing.append("it ended before its first step: no rate, no utilisation, no what-ifs")
    else:
        try:
            ended = (run.result() or {}).get("status") == "done"
            lacking = [] if ended else [_unfinished(found)]
            return whatif.ranked(replan.basis(run.paths, found), brief=brief), lacking
        except FullboreError as error:
            missing.append(f"what-ifs: {error.message}")
    return [], missing


def _unfinished(found: Facts) -> str:
    steps = found.plan.steps if found.plan is not None else 0
    told = f"it is not at its end: {found.steps} of {steps} steps were taken"
    return f"{told}; lines are compared with what was predicted of the whole run"


def _so_far(found: Facts) -> dict[str, Any]:
    """Predicted and measured of a run that wrote no result."""
    if found.plan is None:
        return {}
    training = found.seconds(*TRAINING)
    units = found.samples * found.work.units_per_sample if found.work is not None else 0.0
    measured = {"rate": units / training if training and units else None, "train_seconds": training or None}
    return lines.compared(found.plan.predicted, measured, found.ledger)
