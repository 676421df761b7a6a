"""The training stage: one process here, or as many ranks as the plan says, and the model that comes out."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fullbore.base.errors import InputError
from fullbore.base.files import write_atomic
from fullbore.base.paths import RunPaths
from fullbore.data.order import Order
from fullbore.engine import local
from fullbore.flow import materials
from fullbore.flow.materials import Materials
from fullbore.flow.session import Session
from fullbore.models import ngram, tasks, weights
from fullbore.perf.measure import proc
from fullbore.record import artifact, read
from fullbore.record.ledger import State
from fullbore.record.progress import Progress
from fullbore.record.span import Recorder
from fullbore.spec.job import Job
from fullbore.spec.plan import Plan
from fullbore.train import loop, precision
from fullbore.train.evaluate import evaluate
from fullbore.train.parallel import Alone


def train(session: Session, plan: Plan, *, resume: bool) -> dict[str, Any]:
    """Train as planned; returns the summary that rank 0 kept beside the model artifact it wrote."""
    paths = session.run.paths
    with session.stage("train") as facts:
        with session.interrupts.graceful():
            if plan.world_size == 1:
                requested = lambda: session.interrupts.requested  # noqa: E731
                train_rank(session.job, plan, paths, session.recorder, session.progress, requested, resume=resume)
            else:
                _launch(session, plan, resume)
        with session.recorder.state(State.REPORT):
            summary: dict[str, Any] = json.loads(_summary(paths).read_text())
        facts["artifact"] = str(paths.artifact("model"))
        facts["detail"] = f"{summary['steps']} steps, stopped by {summary['stopped']}"
    return summary


def _summary(paths: RunPaths) -> Path:
    return paths.artifacts / "training.json"


def _launch(session: Session, plan: Plan, resume: bool) -> None:
    session.recorder.hand_over()
    began = time.time()
    try:
        local.launch(
            "fullbore.flow.rank",
            [str(session.run.paths.folder), "1" if resume else "0"],
            plan.world_size,
        )
    finally:
        session.recorder.take_back(read.ledger(session.run.paths.events(0), since=began))


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
        proc.reset_peak_memory()
        prepared = materials.load(job, paths)
        setup = materials.setup(prepared, plan, paths, recorder, progress, stop, rank=rank, resume=resume)
    with recorder.state(State.REPORT):
        result = loop.run(setup)
    if rank:
        return
    if result.stopped != "interrupted":
        with recorder.state(State.EVALUATE):
            result = replace(result, metrics={**result.metrics, **_tested(prepared, setup, result)})
    with recorder.state(State.CHECKPOINT):
        summary = _plain(result)
        if result.stopped != "interrupted":
            tokenizer = paths.artifact("tokenizer") if job.tokenizer is not None else None
            parents = [artifact.read(paths.artifact("shards" if job.tokenizer is not None else "corpus"))]
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


def _tested(prepared: Materials, setup: loop.TrainSetup, result: loop.TrainResult) -> dict[str, float]:
    """What the model that is kept reaches on the test split, as `test_<metric>`; one rank judges all of it."""
    setup = replace(setup, task=prepared.task_on("test"), validation=partial(prepared.judged, "test"))
    with precision.exact(setup.plan.threads * setup.plan.world_size):
        found = evaluate(setup, result.module, Alone()) or {}
    if found:
        setup.recorder.event("metric", step=result.steps, split="test", **found)
    return {f"test_{name}": value for name, value in found.items()}


def _plain(result: loop.TrainResult) -> dict[str, Any]:
    """What is kept of a result beside the model: everything but the network."""
    kept = {field.name: getattr(result, field.name) for field in fields(result) if field.name != "module"}
    return {**kept, "checkpoint": str(result.checkpoint), "memory_bytes": proc.peak_memory() or None}


def baselines(session: Session, steps: int) -> dict[str, float]:
    """Bits per byte of models counted from the very rows that `steps` steps trained on, on the same validation rows."""
    task = session.job.task
    if task is None or not task.baselines:
        return {}
    with session.stage("baselines") as facts, session.recorder.state(State.EVALUATE):
        prepared = materials.load(session.job, session.run.paths)
        shards, section = prepared.shards, prepared.train
        per_token = tasks.bytes_per_token(shards.info)
        if prepared.vocabulary is None or per_token is None:
            raise InputError("task.baselines: the data hold no text")
        positions = np.arange(min(steps * section.global_batch_size, shards.rows("train")))
        trained = np.asarray(shards.gather("train", Order(section.seed, shards.rows("train")).ids(positions))["tokens"])
        judged = np.asarray(shards.gather("validation", np.arange(shards.rows("validation")))["tokens"])
        judged_bytes = per_token * judged.shape[0] * (judged.shape[1] - 1)
        size = prepared.vocabulary.vocabulary_size
        orders: dict[str, Literal[2, 3]] = {"bigram": 2, "trigram": 3}
        found: dict[str, float] = {
            name: ngram.bits_per_byte(trained, judged, orders[name], size, judged_bytes) for name in task.baselines
        }
        facts["detail"] = ", ".join(f"{name} {value:.3f} bits per byte" for name, value in found.items())
    if text := _not_beaten(json.loads(_summary(session.run.paths).read_text())["metrics"], found):
        session.message("warning", text)
    return found


def _not_beaten(metrics: dict[str, float], baselines: dict[str, float]) -> str | None:
    """What to say of a model that is no better than what was counted; none if it beats all."""
    reached = metrics.get("bits_per_byte", math.nan)
    better = [f"{name} {value:.3f}" for name, value in baselines.items() if not reached < value]
    if not better:
        return None
    return (
        f"the model does not beat its baselines: {reached:.3f} bits per byte against {', '.join(better)}; "
        "it needs a longer train.budget, more data or another learning rate"
    )
