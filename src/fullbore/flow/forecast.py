"""What a job would take here, from its work, this machine's ceilings and how past predictions turned out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fullbore.base.units import format_seconds
from fullbore.flow import lines
from fullbore.flow.lines import Subject, compiled_graph, model_kind, step_kind
from fullbore.perf.measure import history
from fullbore.perf.model import compute, memory
from fullbore.perf.model.calibration import Calibration, Past, alike, calibrate
from fullbore.perf.plan import choose, steps
from fullbore.perf.plan.course import SNAPSHOT_RATE, STATE_BYTES, STEPS
from fullbore.perf.plan.facts import Facts
from fullbore.perf.plan.inside import undisturbed
from fullbore.spec.hardware import Ceilings
from fullbore.spec.job import Job
from fullbore.spec.plan import Choice, Plan, Prediction
from fullbore.spec.train import TrainSection
from fullbore.spec.work import Work

_TRIALS = "trial_seconds"
_COMPILED, _COMPILING = "compiled_seconds", "compiling_seconds"
_CHOSEN = "precision"
"""Under this quantity a run keeps its predicted and measured seconds of a step if it chose its precision itself."""


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
        checkpoint_seconds=STATE_BYTES * work.parameters / SNAPSHOT_RATE,
    )


def forecast(
    job: Job, section: TrainSection, work: Work, limits: choose.Limits, ceilings: Ceilings, judged: int
) -> Forecast:
    """The plan as far as it can be made without a trial step, with predicted times and memory.

    `judged`: rows of the validation split.
    """
    draft = choose.plan(section, [], limits)
    plain = _forecast(job, section, work, limits, ceilings, judged, draft)
    if section.compile != "auto" or draft.compile:
        return plain
    expected = compiling(job, work, ceilings, replace(plain.plan, predicted=plain.predicted))
    if not expected.pays:
        return plain
    told = f"it would take about {format_seconds(expected.seconds)} and save about {format_seconds(expected.saved)}"
    choice = Choice("train.compile", "true", told, "estimated", "false")
    choices = tuple(choice if other.key == choice.key else other for other in draft.choices)
    return _forecast(
        job, section, work, limits, ceilings, judged, replace(draft, compile=True, choices=choices), expected
    )


def _forecast(
    job: Job, section: TrainSection, work: Work, limits: choose.Limits, ceilings: Ceilings, judged: int, draft: Plan,
    expected: choose.Compiling | None = None,
) -> Forecast:  # fmt: skip
    """Of `draft`, compiled or not. `expected`: what compiling brings, where no past run tells."""
    step = step_of(job, section, work, ceilings, draft)
    seconds, error = step.value, step.error
    if draft.compile and expected is None:
        known = replace(draft, predicted={"step_seconds": step, "train_seconds": step})
        expected = compiling(job, work, ceilings, known)
    cost = costs(section, work, judged, seconds)
    if expected is not None:
        cost = replace(cost, start_seconds=expected.seconds)
    cadence = steps.cadence(
        section,
        limits.rows,
        limits.units_per_row,
        seconds,
        cost,
        has_validation=limits.has_validation,
        source="estimated",
    )
    own = {choice.key for choice in cadence.choices}
    plan = replace(
        draft,
        steps=cadence.steps,
        evaluate_every=cadence.evaluate_every,
        checkpoint_every=cadence.checkpoint_every,
        warmup_steps=cadence.warmup_steps,
        choices=(*(choice for choice in draft.choices if choice.key not in own), *cadence.choices),
    )
    parts, memory_bytes = memory_parts(job, section, work, plan, ceilings)
    flops = work.training_flops * plan.global_batch_size / plan.world_size
    predicted = {
        "step_seconds": step,
        "rate": Prediction(plan.global_batch_size * work.units_per_sample / seconds, f"{work.units}/s", error),
        "mfu": Prediction(flops / seconds / ceilings.peak(plan.precision, plan.threads), "", error),
        "train_seconds": Prediction(cadence.seconds, "s", error),
        "memory_bytes": memory_bytes,
    }
    return Forecast(plan, predicted, parts, steps.warning(section, cadence.seconds, cost))


def step_of(job: Job, section: TrainSection, work: Work, ceilings: Ceilings, plan: Plan) -> Prediction:
    """Seconds of a step of `plan`, as past runs of the kind correct them; where no compiled one is among them, as those
    that were not, less what compiling saved or may save."""
    kind = partial(step_kind, job)
    known = partial(_calibration, ceilings, "step_seconds", kind(plan.compile), plan.precision)
    found = compute.predict(work, ceilings, plan, known, optimizer=section.optimizer)["step_seconds"]
    if not plan.compile or known(found.value).count:
        return found
    plain = step_of(job, section, work, ceilings, replace(plan, compile=False))
    gain = compile_gain(job, work, ceilings, plan, plain.value)
    return Prediction(plain.value * (1 - gain), "s")


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
        == (ceilings.basis, _CHOSEN, kind, precision)
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
    return memory.predict(work, exact, plan.micro_batch_size, recompute=plan.recompute)


@dataclass(frozen=True)
class Finished:
    """What a run that came to its end measured, and nobody from outside had a part in."""

    training: Mapping[str, Any]
    """Without `step_seconds` if its steps were disturbed."""
    seconds: Mapping[str, float]
    """Of the run by state, those left out that were disturbed; empty if it did not do all of the training itself."""


def finished(training: Mapping[str, Any], found: Facts, *, whole: bool) -> Finished:
    """`training` as it was summed up; `found`: what the run left. A neighbour's share is nothing to predict by."""
    calm = {state: seconds for state, seconds in found.ledger.seconds.items() if undisturbed(found, (state,))}
    steps_taken = {**training, "step_seconds": training["step_seconds"] if undisturbed(found, STEPS) else None}
    return Finished(steps_taken, calm if whole else {})


def of_trials(job: Job, ceilings: Ceilings, setting: choose.Setting, seconds: float) -> Calibration:
    """What the steps of past runs took in training, compared with their trials, which took about `seconds`."""
    return _calibration(ceilings, _TRIALS, step_kind(job, setting.compile), setting.precision, seconds)


def compiling(job: Job, work: Work, ceilings: Ceilings, plan: Plan) -> choose.Compiling:
    """What compiling the step of `plan`, which was timed without, may bring: as past runs of the kind measured it."""
    graph = (ceilings.basis, _COMPILING, compiled_graph(work, plan), plan.precision)
    taken = [p.measured for p in history.load() if (p.fingerprint, p.quantity, p.kind, p.precision) == graph]
    return choose.Compiling(
        seconds=taken[-1] if taken else steps.COMPILE_SECONDS,
        gain=compile_gain(job, work, ceilings, plan, plan.predicted["step_seconds"].value),
        training_seconds=plan.predicted["train_seconds"].value,
    )


def compile_gain(job: Job, work: Work, ceilings: Ceilings, plan: Plan, step_seconds: float) -> float:
    """Share of a step's time that compiling saves: as it did before, else as the model's operations let expect."""
    known = _calibration(ceilings, _COMPILED, model_kind(job), plan.precision, step_seconds)
    return max(0.0, 1 - known.ratio) if known.count else compute.compile_gain(work, ceilings, plan)


def remember_compiling(job: Job, work: Work, ceilings: Ceilings, plan: Plan, trial: choose.Trial) -> None:
    """Keep what a step of `plan` took compiled, and what compiling it took: much less once the machine has kept it."""
    rows = [
        (_COMPILED, model_kind(job), plan.predicted["step_seconds"].value, trial.seconds),
        (_COMPILING, compiled_graph(work, plan), steps.COMPILE_SECONDS, trial.first_seconds),
    ]
    with suppress(OSError):
        history.remember([Past(ceilings.basis, name, of, plan.precision, *pair) for name, of, *pair in rows])


def _calibration(ceilings: Ceilings, quantity: str, kind: str, precision: str, predicted: float) -> Calibration:
    return calibrate(history.load(), ceilings.basis, quantity, kind, precision, predicted=predicted)


def remember(subject: Subject, frozen: Frozen, found: Finished) -> None:
    """Keep what was predicted for this run, without correction, beside what was measured, for the next prediction."""
    job, plan, work, ceilings = subject.job, frozen.plan, frozen.work, frozen.ceilings
    section = job.train
    if section is None:
        return
    step = compute.predict(work, ceilings, plan, optimizer=section.optimizer)["step_seconds"].value
    memory_bytes = sum(_plain_memory(section, work, plan).values())
    kind = step_kind(job, plan.compile)
    rows = [
        ("step_seconds", kind, plan.precision, step, found.training["step_seconds"]),
        ("memory_bytes", model_kind(job), "", memory_bytes, found.training["memory_bytes"]),
        (_TRIALS, kind, plan.precision, frozen.trial_seconds, found.training["step_seconds"]),
    ]
    if any(choice.key == "train.precision" and choice.chosen == "measured" for choice in plan.choices):
        rows.append((_CHOSEN, model_kind(job), plan.precision, step, found.training["step_seconds"]))
    entries = [
        Past(ceilings.basis, quantity, of, precision, predicted, measured)
        for quantity, of, precision, predicted, measured in rows
        if measured and predicted and math.isfinite(predicted)
    ]
    past = history.load()
    noted = lines.compiled_now(past, work, plan, ceilings.basis) if plan.compile else []
    with suppress(OSError):
        history.remember([*entries, *subject.entries(found.seconds, past), *noted])
