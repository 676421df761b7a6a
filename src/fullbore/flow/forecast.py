"""What a job would take here, from its work, this machine's ceilings and how past predictions turned out."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from fullbore.flow.stages import wanted
from fullbore.perf.measure import history
from fullbore.perf.model import compute, feed, memory
from fullbore.perf.model.calibration import Past, calibrate
from fullbore.perf.plan import choose, steps
from fullbore.spec.hardware import Ceilings
from fullbore.spec.job import Job
from fullbore.spec.plan import Plan, Prediction
from fullbore.spec.train import TrainSection
from fullbore.spec.work import Work

_OVERHEAD_SECONDS = 6.0
"""Importing, probing and trial steps, compressing and answering of a small model, before there is a measurement."""
_WHOLE = "total_seconds"
_STATE_BYTES = 12.0
"""Bytes of a parameter in a checkpoint: itself and two moments, fp32."""
_SNAPSHOT_RATE = 2e9
"""Bytes/s at which training is held up while its state is copied; writing goes on beside it."""


@dataclass(frozen=True)
class Forecast:
    plan: Plan
    predicted: dict[str, Prediction]
    memory: dict[str, float]
    """Bytes of one rank by part."""


def costs(section: TrainSection, work: Work, judged: int, step_seconds: float) -> steps.Costs:
    """What evaluations of `judged` rows and checkpoints cost: judging a row takes a third of training on it."""
    row = step_seconds / section.global_batch_size / 3
    return steps.Costs(
        evaluate_seconds=row * min(judged, section.evaluate_samples or judged),
        final_seconds=row * judged,
        checkpoint_seconds=_STATE_BYTES * work.parameters / _SNAPSHOT_RATE,
    )


def forecast(
    job: Job, section: TrainSection, work: Work, limits: choose.Limits, ceilings: Ceilings, judged: int
) -> Forecast:
    """The plan as far as it can be made without a trial step, with predicted times and memory.

    `judged`: rows of the validation split.
    """
    draft = choose.plan(section, [], limits)
    past, kind = history.load(), model_kind(job)
    calibration = calibrate(past, ceilings.fingerprint, "step_seconds", kind, draft.precision)
    step = compute.predict(work, ceilings, draft, calibration, optimizer=section.optimizer)
    seconds = step["step_seconds"].value
    cost = costs(section, work, judged, seconds)
    cadence = steps.cadence(section, limits.rows, limits.units_per_row, seconds, cost, limits.has_validation)
    plan = replace(
        draft,
        steps=cadence.steps,
        evaluate_every=cadence.evaluate_every,
        checkpoint_every=cadence.checkpoint_every,
        warmup_steps=cadence.warmup_steps,
        choices=(*draft.choices[:4], *cadence.choices),
    )
    parts = memory_parts(work, section, plan)
    predicted = {
        **{key: step[key] for key in ("step_seconds", "rate", "mfu")},
        "train_seconds": Prediction(cadence.seconds, "s", calibration.error),
        "memory_bytes": memory_prediction(parts, past, ceilings.fingerprint, kind),
    }
    return Forecast(plan, predicted, parts)


def memory_parts(work: Work, section: TrainSection, plan: Plan) -> dict[str, float]:
    exact = section.model_copy(update={"precision": plan.precision})
    return memory.predict(work, exact, plan.micro_batch_size)


def memory_prediction(parts: dict[str, float], past: Iterable[Past], fingerprint: str, kind: str) -> Prediction:
    calibration = calibrate(past, fingerprint, "memory_bytes", kind)
    return Prediction(sum(parts.values()) * calibration.ratio, "B", calibration.error)


def preparation(given: feed.Input, ceilings: Ceilings) -> dict[str, Prediction]:
    """Seconds of reading, tokenising and packing, by `read`, `tokenise`, `pack` and `total`."""
    past = history.load()
    stages = ("read", "tokenise", "pack")
    known = {stage: calibrate(past, ceilings.fingerprint, f"prepare.{stage}", "") for stage in stages}
    return feed.predict(given, ceilings, len(os.sched_getaffinity(0)), known)


def total(job: Job, seconds: float, ceilings: Ceilings) -> Prediction:
    """The whole run's wall time from the predicted seconds of its parts, corrected by past runs of the kind."""
    calibration = calibrate(history.load(), ceilings.fingerprint, _WHOLE, _stages_key(job))
    return Prediction((seconds + _OVERHEAD_SECONDS) * calibration.ratio, "s", calibration.error)


def remember(job: Job, plan: Plan, work: Work, ceilings: Ceilings, measured: dict[str, Any]) -> None:
    """Keep what was predicted for this run, without correction, beside what was measured, for the next prediction."""
    section = job.train
    if section is None:
        return
    kind, fingerprint = model_kind(job), ceilings.fingerprint
    step = compute.predict(work, ceilings, plan, optimizer=section.optimizer)["step_seconds"].value
    memory_bytes = sum(memory_parts(work, section, plan).values())
    entries = [
        Past(fingerprint, quantity, kind, precision, plain, measured[quantity])
        for quantity, precision, plain in (
            ("step_seconds", plan.precision, step),
            ("memory_bytes", "", memory_bytes),
        )
        if measured.get(quantity) and math.isfinite(plain)
    ]
    with suppress(OSError):
        history.remember(entries)


def model_kind(job: Job) -> str:
    return job.model.kind if job.model is not None else ""


def _stages_key(job: Job) -> str:
    return "+".join(stage.name for stage in wanted(job))
