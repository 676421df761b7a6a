"""What a job would take here, from its work, this machine's ceilings and how past predictions turned out."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fullbore.flow.session import content_key
from fullbore.flow.stages import wanted
from fullbore.perf.measure import history
from fullbore.perf.model import compute, feed, memory
from fullbore.perf.model.calibration import Calibration, Past, alike, calibrate
from fullbore.perf.plan import choose, steps
from fullbore.record.artifact import Artifact
from fullbore.spec.hardware import Ceilings
from fullbore.spec.job import Job
from fullbore.spec.plan import Plan, Prediction
from fullbore.spec.train import TrainSection
from fullbore.spec.work import Work

PREPARING = {"read": "read", "tokenizer": "tokenise", "pack": "pack"}
"""What the stages that prepare data are called where their seconds are predicted."""
_BESIDES = "besides_seconds"
_BESIDES_SECONDS = 6.0
"""Importing, probing and trial steps, compressing and answering of a small model, before there is a measurement."""
_TRIALS = "trial_seconds"
_COMPILED, _COMPILING = "compiled_seconds", "compiling_seconds"
_CHOSEN = "precision"
"""Under this quantity a run keeps its predicted and measured seconds of a step if it chose its precision itself."""
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
    warning: str | None = None
    """What the user should know before it runs."""


@dataclass(frozen=True)
class Frozen:
    """What a run goes by."""

    plan: Plan
    ceilings: Ceilings
    work: Work
    trial_seconds: float | None = None
    """Of a step in the trials of what was chosen, if this session made them."""


def costs(section: TrainSection, work: Work, judged: int, step_seconds: float) -> steps.Costs:
    """What evaluations of `judged` rows and checkpoints cost: judging a row takes a third of training on it."""
    row = step_seconds / section.global_batch_size / 3
    some = section.evaluate_samples
    return steps.Costs(
        evaluate_seconds=row * min(judged, some or judged),
        final_seconds=row * (judged + min(judged, some or 0)),
        checkpoint_seconds=_STATE_BYTES * work.parameters / _SNAPSHOT_RATE,
    )


def forecast(
    job: Job, section: TrainSection, work: Work, limits: choose.Limits, ceilings: Ceilings, judged: int
) -> Forecast:
    """The plan as far as it can be made without a trial step, with predicted times and memory.

    `judged`: rows of the validation split.
    """
    draft = choose.plan(section, [], limits)
    calibration = partial(_calibration, ceilings, "step_seconds", _step_kind(job, draft.compile), draft.precision)
    step = compute.predict(work, ceilings, draft, calibration, optimizer=section.optimizer)
    seconds, error = step["step_seconds"].value, step["step_seconds"].error
    cost = costs(section, work, judged, seconds)
    cadence = steps.cadence(
        section,
        limits.rows,
        limits.units_per_row,
        seconds,
        cost,
        has_validation=limits.has_validation,
        source="estimated",
    )
    plan = replace(
        draft,
        steps=cadence.steps,
        evaluate_every=cadence.evaluate_every,
        checkpoint_every=cadence.checkpoint_every,
        warmup_steps=cadence.warmup_steps,
        choices=(*draft.choices[:4], *cadence.choices),
    )
    parts, memory_bytes = memory_parts(job, section, work, plan, ceilings)
    predicted = {
        **{key: step[key] for key in ("step_seconds", "rate", "mfu")},
        "train_seconds": Prediction(cadence.seconds, "s", error),
        "memory_bytes": memory_bytes,
    }
    return Forecast(plan, predicted, parts, steps.warning(section, cadence.seconds, cost))


def informed(job: Job, section: TrainSection, work: Work, limits: choose.Limits, ceilings: Ceilings) -> choose.Limits:
    """`limits` with what is predicted of each precision, and what the last run of such a model and size chose."""
    draft, kind, past = choose.plan(section, [], limits), model_kind(job), history.load()
    plain, expected = dict[str, float](), dict[choose.Precision, float]()
    for precision in choose.PRECISIONS:
        if precision in ceilings.matmul_flops:
            plan = replace(draft, precision=precision)
            plain[precision] = compute.predict(work, ceilings, plan, optimizer=section.optimizer)["step_seconds"].value
            known = _calibration(ceilings, "step_seconds", kind, precision, plain[precision])
            expected[precision] = plain[precision] * known.ratio
    chosen: list[choose.Precision] = [
        precision
        for entry in past
        for precision in choose.PRECISIONS
        if (entry.fingerprint, entry.quantity, entry.kind, entry.precision)
        == (ceilings.fingerprint, _CHOSEN, kind, precision)
        and alike(entry.predicted, plain.get(precision, math.inf))
    ]
    return replace(limits, expected=expected, remembered=chosen[-1] if chosen else None)


def memory_parts(
    job: Job, section: TrainSection, work: Work, plan: Plan, ceilings: Ceilings
) -> tuple[dict[str, float], Prediction]:
    """Bytes of one rank by part, and their sum, both as past runs of the kind correct them."""
    plain = _plain_memory(section, work, plan)
    known = _calibration(ceilings, "memory_bytes", model_kind(job), "", sum(plain.values()))
    parts = {name: size * known.ratio for name, size in plain.items()}
    return parts, Prediction(sum(parts.values()), "B", known.error)


def _plain_memory(section: TrainSection, work: Work, plan: Plan) -> dict[str, float]:
    exact = section.model_copy(update={"precision": plan.precision})
    return memory.predict(work, exact, plan.micro_batch_size)


def preparation(job: Job, corpus: Artifact, ceilings: Ceilings, share: float = 1.0) -> dict[str, Prediction]:
    """Seconds of reading, tokenising and packing, by `read`, `tokenise`, `pack` and `total`.

    `share`: the part of the job's source that `corpus` was read from.
    """

    def calibration(stage: str, seconds: float) -> Calibration:
        return _calibration(ceilings, f"prepare.{stage}", corpus.info["source_format"], "", seconds)

    return feed.predict(_material(job, corpus, share), ceilings, _cores(), calibration)


def _material(job: Job, corpus: Artifact, share: float) -> feed.Input:
    section = job.tokenizer
    text = sum(corpus.info["text_bytes"].values()) / share if section is not None else 0.0
    learnt = min(text, section.training_bytes) if section is not None and section.kind == "byte_bpe" else 0.0
    pictures = corpus.info["kept"] / share if corpus.info["source_format"] == "images" else 0.0
    pixels = pictures * math.prod(corpus.info["columns"]["pixels"]["shape"]) if pictures else 0.0
    return feed.Input(bytes=corpus.info["source_bytes"], text_bytes=text, learnt_bytes=learnt, pixels=pixels)


def besides(job: Job, ceilings: Ceilings) -> Prediction:
    """Seconds of a run apart from preparing and training: starting, planning, compressing, answering, reporting."""
    known = _calibration(ceilings, _BESIDES, _stages_key(job), "", _BESIDES_SECONDS)
    return Prediction(_BESIDES_SECONDS * known.ratio, "s", known.error)


def total(parts: Sequence[Prediction]) -> Prediction:
    """The whole run's wall time; errors weigh as much as the parts they belong to."""
    seconds = sum(part.value for part in parts)
    errors = [part.value * part.error for part in parts if part.error is not None]
    return Prediction(seconds, "s", sum(errors) / seconds if len(errors) == len(parts) else None)


@dataclass(frozen=True)
class Finished:
    """What a run that came to its end measured."""

    training: Mapping[str, Any]
    preparing: Mapping[str, float]
    """Seconds of the stages that prepare data, those that were cached left out."""
    besides: float | None
    """Seconds of the run without preparing and training; none if it did not do all of the training itself."""


def of_trials(job: Job, ceilings: Ceilings, setting: choose.Setting, seconds: float) -> Calibration:
    """What the steps of past runs took in training, compared with their trials, which took about `seconds`."""
    return _calibration(ceilings, _TRIALS, _step_kind(job, setting.compile), setting.precision, seconds)


def compiling(job: Job, work: Work, ceilings: Ceilings, plan: Plan) -> choose.Compiling:
    """What compiling the step of `plan`, which was timed without, may bring: as past runs of the kind measured it."""
    step = plan.predicted["step_seconds"].value
    gain = _calibration(ceilings, _COMPILED, model_kind(job), plan.precision, step)
    taken = _calibration(ceilings, _COMPILING, _graph(work, plan), plan.precision, steps.COMPILE_SECONDS)
    return choose.Compiling(
        seconds=steps.COMPILE_SECONDS * taken.ratio,
        gain=max(0.0, 1 - gain.ratio) if gain.count else compute.compile_gain(work, ceilings, plan),
        training_seconds=plan.predicted["train_seconds"].value,
    )


def remember_compiling(job: Job, work: Work, ceilings: Ceilings, plan: Plan, trial: choose.Trial) -> None:
    """Keep what a step of `plan` took compiled, and what compiling it took: much less once the machine has kept it."""
    rows = [
        (_COMPILED, model_kind(job), plan.predicted["step_seconds"].value, trial.seconds),
        (_COMPILING, _graph(work, plan), steps.COMPILE_SECONDS, trial.first_seconds),
    ]
    with suppress(OSError):
        history.remember([Past(ceilings.fingerprint, name, of, plan.precision, *pair) for name, of, *pair in rows])


def _graph(work: Work, plan: Plan) -> str:
    """What is compiled, in short."""
    return content_key(work.to_json(), plan.micro_batch_size, plan.threads)


def _calibration(ceilings: Ceilings, quantity: str, kind: str, precision: str, predicted: float) -> Calibration:
    return calibrate(history.load(), ceilings.fingerprint, quantity, kind, precision, predicted=predicted)


def remember(job: Job, corpus: Artifact, frozen: Frozen, found: Finished) -> None:
    """Keep what was predicted for this run, without correction, beside what was measured, for the next prediction."""
    section, plan, work, ceilings = job.train, frozen.plan, frozen.work, frozen.ceilings
    if section is None:
        return
    step = compute.predict(work, ceilings, plan, optimizer=section.optimizer)["step_seconds"].value
    memory_bytes = sum(_plain_memory(section, work, plan).values())
    kind, source = _step_kind(job, plan.compile), corpus.info["source_format"]
    rows = [
        ("step_seconds", kind, plan.precision, step, found.training["step_seconds"]),
        ("memory_bytes", model_kind(job), "", memory_bytes, found.training["memory_bytes"]),
        (_BESIDES, _stages_key(job), "", _BESIDES_SECONDS, found.besides),
        (_TRIALS, kind, plan.precision, frozen.trial_seconds, found.training["step_seconds"]),
    ]
    if any(choice.key == "train.precision" and choice.chosen == "measured" for choice in plan.choices):
        rows.append((_CHOSEN, model_kind(job), plan.precision, step, found.training["step_seconds"]))
    prepared = feed.predict(_material(job, corpus, 1.0), ceilings, _cores())
    for stage, seconds in found.preparing.items():
        rows.append((f"prepare.{PREPARING[stage]}", source, "", prepared[PREPARING[stage]].value, seconds))
    entries = [
        Past(ceilings.fingerprint, quantity, of, precision, predicted, measured)
        for quantity, of, precision, predicted, measured in rows
        if measured and predicted and math.isfinite(predicted)
    ]
    with suppress(OSError):
        history.remember(entries)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def model_kind(job: Job) -> str:
    return job.model.kind if job.model is not None else ""


def _step_kind(job: Job, compiled: bool) -> str:
    """Compiled steps are predicted by steps of their own kind."""
    return model_kind(job) + ("+compile" if compiled else "")


def _stages_key(job: Job) -> str:
    return "+".join([model_kind(job), *(stage.name for stage in wanted(job))])
