"""The object that `run --json` ends with: what came out, how fast, where the time went, what limited it."""

from __future__ import annotations

from statistics import median
from typing import Any

from fullbore.base.errors import FullboreError
from fullbore.flow import energy, lines
from fullbore.flow.explain import changed
from fullbore.flow.facts import known
from fullbore.flow.session import Session
from fullbore.perf.model.energy import Energy
from fullbore.perf.plan import roofline
from fullbore.perf.plan.facts import TRAINING, Facts
from fullbore.perf.plan.inside import mfu
from fullbore.perf.plan.verdict import verdict
from fullbore.record import artifact, read
from fullbore.record.ledger import Ledger
from fullbore.spec.plan import Plan

SCHEMA = 1
_METRICS = {"causal_lm": "bits_per_byte", "classification": "accuracy", "regression": "mean_squared_error"}


def assemble(
    session: Session, facts: dict[str, Any], status: str, failure: Exception | None, ledger: Ledger
) -> dict[str, Any]:
    """The result object of a run that ended as `status`."""
    name = session.run.name
    session.recorder.account()
    session.recorder.settle()
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "run": name,
        "status": status,
        "job": session.job.name,
        "seconds": ledger.wall,
        "loss": None,
        "metrics": {},
        "stages": session.stages,
    }
    found = known(session.run.paths, ledger)
    training, plan = facts.get("training"), facts.get("plan")
    if training is not None and plan is not None:
        result |= _trained(session, training, plan, found, ledger)
        result["metric"] = _metric(session, result["metrics"])
    result |= {key: facts[key] for key in ("baselines", "compression", "completion") if facts.get(key)}
    result |= {"ledger": ledger.to_json(), "busy": dict(ledger.busy)}
    changes, _ = changed(session.run, found, brief=True)
    result["verdict"] = verdict(found, [change.advice() for change in changes]).to_json()
    result["roofline"] = roofline.of_run(found)
    result["energy"] = energy.of_run(found, session.job.energy).to_json()
    result["warnings"] = _warnings(session)
    model = session.run.paths.artifact("compressed" if facts.get("compression") else "model")
    if facts.get("compression"):
        result["chosen"] = artifact.read(model, "model").info["variant"]
    result["model"] = str(model) if model.is_dir() else None
    result["next"] = _next(name, status, result["model"] is not None)
    result["error"] = None if failure is None else _error(failure)
    return result


def close(result: dict[str, Any], ledger: Ledger) -> None:
    """Put the final ledger into a result: what it says of the run's length, it says of all of it."""
    result |= {"seconds": ledger.wall, "ledger": ledger.to_json(), "busy": dict(ledger.busy)}
    result["energy"] = Energy.from_json(result["energy"], ledger.seconds).to_json()
    lines.measure(result.get("predicted", {}), ledger)


def _metric(session: Session, metrics: dict[str, float]) -> str:
    """The metric that the task is judged by."""
    task = session.job.task
    name = _METRICS.get(task.kind, "loss") if task is not None else "loss"
    return name if name in metrics else "loss"


def _trained(session: Session, training: dict[str, Any], plan: Plan, found: Facts, ledger: Ledger) -> dict[str, Any]:
    """What training reached, over all sessions of the run: rates are of its steps, with what they waited for."""
    taken = list(read.events(session.run.paths.events(), "step"))
    rate = sum(step["units"] for step in taken) / found.step_seconds if found.step_seconds else 0.0
    reached = mfu(found)
    spent = sum(ledger.seconds.get(state, 0.0) for state in TRAINING)
    measured = {
        "step_seconds": median(step["seconds"] for step in taken) if taken else None,
        "train_seconds": training["seconds"] if training["steps_here"] == training["steps"] else spent,
        "rate": rate,
        "memory_bytes": training["memory_bytes"],
        "total_seconds": ledger.wall,
    }
    return {
        "loss": training["metrics"].get("loss", training["loss"]),
        "metrics": training["metrics"],
        f"{found.work.units if found.work is not None else 'samples'}_per_second": rate,
        "steps": training["steps"],
        "steps_in_this_session": training["steps_here"],
        "mfu": reached.share if reached is not None else None,
        "flops_per_second": reached.flops_per_second if reached is not None else None,
        "peak_flops_per_second": reached.peak_flops_per_second if reached is not None else None,
        "predicted": lines.compared(plan.predicted, measured, ledger),
    }


def _warnings(session: Session) -> list[str]:
    """All that the run was warned of, in any of its sessions, each once."""
    events = read.events(session.run.paths.events(), "message")
    return list(dict.fromkeys(str(event["text"]) for event in events if event.get("level") == "warning"))


def _next(name: str, status: str, served: bool) -> list[str]:
    if status != "done":
        return [f"fullbore resume {name}", f"fullbore explain {name}"]
    serve = [f"fullbore serve {name}"] if served else []
    return [f"fullbore explain {name}", *serve, f"fullbore report {name}"]


def _error(failure: Exception) -> dict[str, Any]:
    if isinstance(failure, FullboreError):
        return failure.to_json()
    return {"kind": type(failure).__name__, "message": str(failure), "hint": None}
