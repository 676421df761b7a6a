"""The training stage: one process here, or as many ranks as the plan says, and the model that comes out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from fullbore.base.files import write_atomic
from fullbore.base.paths import RunPaths
from fullbore.engine import local
from fullbore.flow import materials
from fullbore.flow.session import Session
from fullbore.models import weights
from fullbore.record import artifact, read
from fullbore.record.artifact import Artifact
from fullbore.record.ledger import State
from fullbore.record.progress import Progress
from fullbore.record.span import Recorder
from fullbore.spec.job import Job
from fullbore.spec.plan import Plan
from fullbore.train import loop


def train(session: Session, plan: Plan, shards: Artifact, *, resume: bool) -> dict[str, Any]:
    """Train as planned; returns the summary that rank 0 kept beside the model artifact it wrote."""
    paths = session.run.paths
    with session.stage("train") as facts:
        with session.interrupts.graceful():
            if plan.world_size == 1:
                requested = lambda: session.interrupts.requested  # noqa: E731
                train_rank(session.job, plan, paths, session.recorder, session.progress, requested, resume=resume)
            else:
                _launch(session, plan, resume)
        summary: dict[str, Any] = json.loads(_summary(paths).read_text())
        facts["artifact"] = str(paths.artifact("model"))
        facts["detail"] = f"{summary['steps']} steps, stopped by {summary['stopped']}"
    return summary


def _summary(paths: RunPaths) -> Any:
    return paths.artifacts / "training.json"


def _launch(session: Session, plan: Plan, resume: bool) -> None:
    began = time.time()
    session.recorder.hand_over()
    try:
        local.launch(
            "fullbore.flow.rank",
            [str(session.run.paths.folder), "1" if resume else "0"],
            plan.world_size,
        )
    finally:
        session.recorder.take_back(read.ledger(session.run.paths.events(0), since=began).seconds)


def train_rank(
    job: Job,
    plan: Plan,
    paths: RunPaths,
    recorder: Recorder,
    progress: Progress,
    stop: Callable[[], bool],
    *,
    rank: int = 0,
    resume: bool = False,
) -> None:
    """Train one rank's part; rank 0 writes the model artifact and `training.json`."""
    with recorder.state(State.START):
        prepared = materials.load(job, paths)
        setup = materials.setup(prepared, plan, paths, recorder, progress, stop, rank=rank, resume=resume)
    result = loop.run(setup)
    if rank:
        return
    with recorder.state(State.CHECKPOINT):
        summary = {key: value for key, value in asdict_without_module(result).items()}
        if result.stopped != "interrupted":
            tokenizer = paths.artifact("tokenizer") if job.tokenizer is not None else None
            parents = [artifact.read(prepared.shards.folder)]
            weights.save(
                result.module,
                paths.artifact("model"),
                model=prepared.model,
                task=prepared.task_section,
                sizes=prepared.sizes,
                tokenizer=tokenizer,
                info={"variant": "fp32", "metrics": result.metrics, "data": dict(prepared.shards.info)},
                parents=parents,
            )
        write_atomic(_summary(paths), json.dumps(summary, indent=1) + "\n")


def asdict_without_module(result: loop.TrainResult) -> dict[str, Any]:
    fields = {name: getattr(result, name) for name in result.__dataclass_fields__ if name != "module"}
    return json.loads(json.dumps(fields, default=str))
