"""What to change, with the gain that the utilisation law predicts for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from fullbore.perf.model import compute
from fullbore.perf.plan.facts import Facts
from fullbore.perf.plan.steps import COMPILE_SECONDS
from fullbore.spec.plan import Plan


@dataclass(frozen=True)
class Advice:
    change: str
    set: str
    """The setting as it is typed (`--set train.precision=bf16`); empty where no setting does it."""
    predicted_gain: float | None
    """Relative gain in the speed of the phase, or of `figure` (0.2: a fifth faster); none: not predictable from what
    was measured."""
    error: float | None = None
    """Relative, of what is predicted, measured on past predictions of this kind; none: not known yet."""
    figure: str = ""
    """What gains: "training rate" or "run time"; empty: the speed of the phase."""
    now: float | None = None
    then: float | None = None
    """The figure as it was, and as it would be."""
    unit: str = ""
    changes_training: bool = False
    """What is learnt, too, would be another."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def gain(phase_seconds: float, saved_seconds: float) -> float | None:
    """X'/X - 1 when `saved_seconds` of a phase's serial path go away; none if that were all of it."""
    left = phase_seconds - saved_seconds
    return phase_seconds / left - 1 if left > 0.02 * phase_seconds else None


def ranked(advice: Iterable[Advice], most: int = 8) -> tuple[Advice, ...]:
    """The largest predicted gain first, one entry a change; what changes the training comes after, and last what no
    gain can be predicted of."""
    unique = {item.change: item for item in advice if item.predicted_gain is None or item.predicted_gain > 0.01}
    known = [item for item in unique.values() if item.predicted_gain is not None]
    order = sorted(known, key=lambda item: (item.changes_training, -(item.predicted_gain or 0.0)))
    return (*order[:most], *(item for item in unique.values() if item.predicted_gain is None))


def told_of_run(item: Advice, phase_seconds: float, wall: float, rate: float | None, unit: str) -> Advice:
    """Advice on a phase, told of the whole run. `rate`: units/s of the training phase, if that is what the job is
    judged by and the phase is it; none: the run's time is."""
    if item.predicted_gain is None:
        return item
    if rate is not None:
        return replace(item, figure="training rate", now=rate, then=rate * (1 + item.predicted_gain), unit=unit)
    left = wall - phase_seconds * item.predicted_gain / (1 + item.predicted_gain)
    return replace(item, predicted_gain=wall / left - 1, figure="run time", now=wall, then=left, unit="s")


def decided_by_measuring(plan: Plan, key: str) -> bool:
    """Whether the run's own trials chose the setting: the others were slower."""
    return any(choice.key == key and choice.chosen == "measured" for choice in plan.choices)


def of_compute(facts: Facts, phase_seconds: float, compute_seconds: float) -> list[Advice]:
    """What makes forward and backward faster here: a faster dtype, compiling, more cores; not what trials refuted."""
    plan, ceilings, found = facts.plan, facts.ceilings, []
    if plan is None or ceilings is None:
        return []
    tried = decided_by_measuring(plan, "train.precision")
    if plan.precision == "fp32" and "bf16" in ceilings.matmul_flops and facts.work is not None and not tried:
        seconds = [
            compute.predict(facts.work, ceilings, replace(plan, precision=precision))["step_seconds"].value
            for precision in ("fp32", "bf16")
        ]
        ratio = seconds[0] / seconds[1]
        if ratio > 1.2:
            saved = compute_seconds * (1 - 1 / ratio)
            change = f"compute in bf16: this model's steps are predicted to be {ratio:.1f}x as fast"
            found.append(Advice(change, "--set train.precision=bf16", gain(phase_seconds, saved)))
    if facts.work is not None and not plan.compile:
        saved = compute_seconds * compute.compile_gain(facts.work, ceilings, plan) - COMPILE_SECONDS
        if saved > 0:
            change = f"compile the model: fused operations move less memory; takes about {COMPILE_SECONDS:.0f} s once"
            found.append(Advice(change, "--set train.compile=true", gain(phase_seconds, saved)))
    if decided_by_measuring(plan, "train.threads"):
        return found
    if plan.threads * plan.world_size < facts.cores:
        share = plan.threads * plan.world_size / facts.cores
        change = f"use all {facts.cores} cores; at best this much"
        setting = f"--set train.threads={facts.cores // plan.world_size}"
        found.append(Advice(change, setting, gain(phase_seconds, compute_seconds * (1 - share))))
    return found


def of_interval(facts: Facts, phase_seconds: float, seconds: float, key: str, what: str) -> list[Advice]:
    """Do something half as often, if it is done more than once."""
    plan = facts.plan
    if plan is None:
        return []
    every = plan.evaluate_every if key == "evaluate_every" else plan.checkpoint_every
    if every >= plan.steps:
        return []
    return [Advice(f"{what} half as often", f"--set train.{key}={2 * every}", gain(phase_seconds, seconds / 2))]
