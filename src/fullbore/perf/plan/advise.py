"""What to change, with the gain that the utilisation law predicts for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from fullbore.perf.model import compute
from fullbore.perf.plan.facts import Facts


@dataclass(frozen=True)
class Advice:
    change: str
    set: str
    """The setting as it is typed (`--set train.precision=bf16`); empty where no setting does it."""
    predicted_gain: float | None
    """Relative gain in the speed of the phase (0.2: a fifth faster); none: not predictable from what was measured."""
    error: float | None = None
    """Relative, measured on past predictions of this kind; none: not known yet."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def gain(phase_seconds: float, saved_seconds: float) -> float | None:
    """X'/X - 1 when `saved_seconds` of a phase's serial path go away; none if that were all of it."""
    left = phase_seconds - saved_seconds
    return phase_seconds / left - 1 if left > 0.02 * phase_seconds else None


def ranked(advice: Iterable[Advice], most: int = 5) -> tuple[Advice, ...]:
    """The largest predicted gain first, one entry a change."""
    unique = {item.change: item for item in advice if item.predicted_gain is None or item.predicted_gain > 0.01}
    order = sorted(unique.values(), key=lambda item: -(item.predicted_gain if item.predicted_gain is not None else 1e9))
    return tuple(order[:most])


def of_compute(facts: Facts, phase_seconds: float, compute_seconds: float) -> list[Advice]:
    """What makes forward and backward faster here: a faster dtype, compiling, fewer and larger products."""
    plan, ceilings, found = facts.plan, facts.ceilings, []
    if plan is None or ceilings is None:
        return []
    rates = ceilings.matmul_flops
    if plan.precision == "fp32" and {"bf16", "fp32"} <= set(rates):
        ratio = ceilings.peak("bf16", plan.threads) / ceilings.peak("fp32", plan.threads)
        if ratio > 1.2:
            saved = compute_seconds * (1 - 1 / ratio)
            change = f"compute in bf16: its matrix products are {ratio:.1f}x fp32 on this machine"
            found.append(Advice(change, "--set train.precision=bf16", gain(phase_seconds, saved)))
    if facts.work is not None and not plan.compile:
        saved = compute_seconds * compute.compile_gain(facts.work, ceilings, plan)
        change = "compile the model: fused operations on elements move less memory; pays in long runs only"
        found.append(Advice(change, "--set train.compile=true", gain(phase_seconds, saved)))
    if plan.threads * plan.world_size < facts.cores:
        share = plan.threads * plan.world_size / facts.cores
        change = f"use all {facts.cores} cores; at best this much"
        setting = f"--set train.threads={facts.cores // plan.world_size}"
        found.append(Advice(change, setting, gain(phase_seconds, compute_seconds * (1 - share))))
    return found


def of_interval(facts: Facts, phase_seconds: float, seconds: float, key: str, what: str) -> Advice:
    """Do something half as often."""
    plan = facts.plan
    every = (plan.evaluate_every if key == "evaluate_every" else plan.checkpoint_every) if plan else 0
    setting = f"--set train.{key}={2 * every}" if every else ""
    return Advice(f"{what} half as often", setting, gain(phase_seconds, seconds / 2))
