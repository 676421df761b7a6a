"""The object that `run --json` ends with: what came out, how fast, where the time went, what limited it."""

from __future__ import annotations

from statistics import median
from typing import Any

from fullbore.base.errors import FullboreError
from fullbore.flow import energy
from fullbore.flow.facts import known
from fullbore.flow.session import Session
from fullbore.perf.model.energy import Energy
from fullbore.perf.plan.facts import TRAINING
from fullbore.perf.plan.verdict import verdict
from fullbore.record import artifact, read
from fullbore.record.ledger import Ledger
from fullbore.spec.hardware import Ceilings
from fullbore.spec.plan import Plan
from fullbore.spec.work import Work

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
    training, plan = facts.get("training"), facts.get("plan")
    if training is not None and plan is not None:
        result |= _trained(session, training, plan, facts["work"], facts["ceilings"], ledger)
        result["metric"] = _metric(session, result["metrics"])
    result |= {key: facts[key] for key in ("baselines", "compression", "completion") if facts.get(key)}
    result |= {"ledger": ledger.to_json(), "busy": dict(ledger.busy)}
    found = known(session.run.paths, ledger)
    result["verdict"] = verdict(found).to_json()
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
    if "total_seconds" in result.get("predicted", {}):
        result["predicted"]["total_seconds"]["measured"] = ledger.wall


def _metric(session: Session, metrics: dict[str, float]) -> str:
    """The metric that the task is judged by."""
    task = session.job.task
    name = _METRICS.get(task.kind, "loss") if task is not None else "loss"
    return name if name in metrics else "loss"


def _trained(
    session: Session, training: dict[str, Any], plan: Plan, work: Work, ceilings: Ceilings, ledger: Ledger
) -> dict[str, Any]:
    """What training reached, over all sessions of the run: rates are of its steps, with what they waited for."""
    taken = list(read.events(session.run.paths.events(), "step"))
    seconds = sum(step["seconds"] for step in taken)
    rate = sum(step["units"] for step in taken) / seconds if seconds else 0.0
    flops = work.training_flops * sum(step["samples"] for step in taken) / seconds if seconds else 0.0
    peak = max(ceilings.peak(plan.precision, plan.threads * plan.world_size), flops)
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
        f"{work.units}_per_second": rate,
        "steps": training["steps"],
        "steps_in_this_session": training["steps_here"],
        "mfu": flops / peak,
        "flops_per_second": flops,
        "peak_flops_per_second": peak,
        "predicted": {
            key: {"predicted": item.value, "measured": measured.get(key), "unit": item.unit, "error": item.error}
            for key, item in plan.predicted.items()
        },
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
