"""From timed trials to a frozen Plan: every decision with its reason. Pure functions; nothing here measures or waits.

The caller measures in turns, as `next_setting` asks, and then freezes:

    trials: list[Trial] = []
    while (setting := choose.next_setting(section, trials, limits)) is not None:
        trials.append(time_some_steps(setting))
    plan = choose.plan(section, trials, limits, costs)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from fullbore.base.errors import DoesNotFit, UsageError
from fullbore.base.units import format_bytes, format_seconds
from fullbore.perf.plan.steps import Cadence, Costs, cadence
from fullbore.spec.plan import Choice, Plan, Prediction
from fullbore.spec.train import TrainSection

Precision = Literal["fp32", "bf16"]

_FASTER = 1.05
"""bf16 must be measured so much faster than fp32 to be worth its rounding."""
_BETTER = 1.03
"""A trial must be so much faster than another to be told from it."""
_MEMORY_SHARE = 0.8
"""Share of the available memory that a plan may use."""
_FIRST_TOKENS = 8192
"""Tokens (or samples) of the first micro-batch tried."""


@dataclass(frozen=True)
class Setting:
    """What a trial is run with: one optimizer step is `accumulation` forward and backward passes of `micro_batch_size`
    samples on `threads` cores, not compiled."""

    precision: Precision
    threads: int
    micro_batch_size: int
    accumulation: int


@dataclass(frozen=True)
class Trial:
    """A few real steps of one rank, timed."""

    setting: Setting
    seconds: float
    """Median of one optimizer step."""
    memory_bytes: int | None = None
    """Peak resident bytes seen, if known."""


@dataclass(frozen=True)
class Limits:
    """What the job and the machine give."""

    rows: int
    """Training samples there are."""
    units_per_row: int
    """Tokens of one sample, or 1."""
    units: Literal["tokens", "samples"]
    cores: int
    memory_available: float
    """Bytes that all ranks together may still take."""
    memory_of: Callable[[int], float] = lambda _: 0.0
    """Predicted peak bytes of one rank by its micro-batch size (`perf.model.memory`)."""
    matmul: dict[str, float] = field(default_factory=dict)
    """Measured FLOP/s by dtype on all cores; a dtype slower than fp32 there is not tried."""
    has_validation: bool = True


def plan(section: TrainSection, trials: Sequence[Trial], limits: Limits, costs: Costs | None = None) -> Plan:
    """Freeze every decision.

    `costs`: seconds of what interrupts training (evaluation, checkpoints, compiling); none: nothing is known of them.
    Raises UsageError for a micro-batch that does not divide the global batch, DoesNotFit if no micro-batch fits.
    """
    costs = costs or Costs()
    precision, precision_choice = _precision(section, trials, limits)
    threads, threads_choice = _threads(section, [t for t in trials if t.setting.precision == precision], limits)
    alike = [t for t in trials if (t.setting.precision, t.setting.threads) == (precision, threads)]
    micro, micro_choice = _micro_batch(section, alike, limits)
    accumulation = per_rank(section) // micro
    measured = next((t for t in alike if t.setting.micro_batch_size == micro), None)
    seconds = (measured.seconds if measured else 0.0) + costs.communication_seconds
    times = cadence(section, limits.rows, limits.units_per_row, seconds, costs, limits.has_validation)
    compiled, compile_choice = _compile(section, times, seconds, costs)
    if compiled:
        seconds *= 1 - costs.compile_gain
        costs = replace(costs, final_seconds=costs.final_seconds + costs.compile_seconds)
        times = cadence(section, limits.rows, limits.units_per_row, seconds, costs, limits.has_validation)
    rate = section.global_batch_size * limits.units_per_row / seconds if seconds else 0.0
    predicted = {
        "step_seconds": Prediction(seconds, "s", costs.step_error),
        "train_seconds": Prediction(times.seconds, "s", costs.train_error),
        "rate": Prediction(rate, f"{limits.units}/s", costs.step_error),
    }
    memory = measured.memory_bytes if measured and measured.memory_bytes else limits.memory_of(micro)
    if memory:
        predicted["memory_bytes"] = Prediction(float(memory), "B", costs.memory_error)
    return Plan(
        world_size=section.world_size,
        global_batch_size=section.global_batch_size,
        micro_batch_size=micro,
        accumulation=accumulation,
        steps=times.steps,
        precision=precision,
        compile=compiled,
        threads=threads,
        evaluate_every=times.evaluate_every,
        checkpoint_every=times.checkpoint_every,
        warmup_steps=times.warmup_steps,
        choices=(precision_choice, compile_choice, threads_choice, micro_choice, *times.choices),
        predicted=predicted if seconds else {},
    )


def per_rank(section: TrainSection) -> int:
    """Samples of one optimizer step on the rank that has most of them."""
    return math.ceil(section.global_batch_size / section.world_size)


def next_setting(section: TrainSection, trials: Sequence[Trial], limits: Limits) -> Setting | None:
    """The setting to time next; none when another trial would not change a decision.

    Precisions first, then larger and smaller micro-batches while they pay, then fewer threads: six trials or so.
    """
    micro, threads = _first_micro_batch(section, limits), _most_threads(section, limits)
    tried = {t.setting for t in trials}

    def setting(precision: Precision, threads: int, micro: int) -> Setting:
        return Setting(precision, threads, micro, per_rank(section) // micro)

    for precision in _precisions(section, limits):
        if setting(precision, threads, micro) not in tried:
            return setting(precision, threads, micro)
    precision, _ = _precision(section, trials, limits)
    alike = [t for t in trials if (t.setting.precision, t.setting.threads) == (precision, threads)]
    best = min(alike, key=lambda t: t.seconds)
    if section.micro_batch_size == "auto":
        sizes = _fitting(section, limits)
        place = sizes.index(best.setting.micro_batch_size) if best.setting.micro_batch_size in sizes else 0
        for neighbour in sizes[max(0, place - 1) : place + 2]:
            if setting(precision, threads, neighbour) not in tried:
                return setting(precision, threads, neighbour)
    micro, _ = _micro_batch(section, alike, limits)
    for fewer in _thread_counts(section, limits):
        if setting(precision, fewer, micro) not in tried:
            return setting(precision, fewer, micro)
    return None


def _precisions(section: TrainSection, limits: Limits) -> tuple[Precision, ...]:
    if section.precision != "auto":
        return (section.precision,)
    if limits.matmul and limits.matmul.get("bf16", 0.0) < limits.matmul.get("fp32", 0.0):
        return ("fp32",)
    return ("bf16", "fp32")


def _precision(section: TrainSection, trials: Sequence[Trial], limits: Limits) -> tuple[Precision, Choice]:
    key = "train.precision"
    if section.precision != "auto":
        return section.precision, Choice(key, section.precision, "set by the job", "set")
    by_shape: dict[tuple[int, int], dict[str, float]] = {}
    for trial in trials:
        shape = (trial.setting.threads, trial.setting.micro_batch_size)
        by_shape.setdefault(shape, {})[trial.setting.precision] = trial.seconds
    pairs = [seconds for seconds in by_shape.values() if len(seconds) == 2]
    if pairs:
        ratio = max(pair["fp32"] / pair["bf16"] for pair in pairs)
        if ratio > _FASTER:
            return "bf16", Choice(key, "bf16", f"{ratio:.2g}x fp32, measured on this model's steps", "measured")
        return "fp32", Choice(
            key, "fp32", f"bf16 is only {ratio:.2g}x fp32, measured on this model's steps", "measured"
        )
    rates = limits.matmul
    if "bf16" in rates and "fp32" in rates:
        ratio = rates["bf16"] / rates["fp32"]
        faster: Precision = "bf16" if ratio > _FASTER else "fp32"
        return faster, Choice(key, faster, f"bf16 matrix products are {ratio:.2g}x fp32 on this machine", "estimated")
    return "fp32", Choice(key, "fp32", "bf16 was not measured", "estimated")


def _most_threads(section: TrainSection, limits: Limits) -> int:
    if section.threads != "auto":
        return section.threads
    return max(1, limits.cores // section.world_size)


def _thread_counts(section: TrainSection, limits: Limits) -> list[int]:
    """Thread counts worth a trial: all that a rank may have, half of them, one."""
    most = _most_threads(section, limits)
    return [most] if section.threads != "auto" else sorted({most, max(1, most // 2), 1}, reverse=True)


def _threads(section: TrainSection, trials: Sequence[Trial], limits: Limits) -> tuple[int, Choice]:
    key, most = "train.threads", _most_threads(section, limits)
    if section.threads != "auto":
        return most, Choice(key, str(most), "set by the job", "set")
    by_micro: dict[int, dict[int, float]] = {}
    for trial in trials:
        by_micro.setdefault(trial.setting.micro_batch_size, {})[trial.setting.threads] = trial.seconds
    compared = max(by_micro.values(), key=len, default={})
    if len(compared) < 2 or most not in compared:
        return most, Choice(key, str(most), f"{limits.cores} cores over {section.world_size} ranks", "estimated")
    best = min(compared, key=lambda count: (compared[count], count))
    if compared[most] < compared[best] * _BETTER:
        best = most
    others = ", ".join(f"{count}: {format_seconds(compared[count])}" for count in sorted(compared) if count != best)
    reason = f"{format_seconds(compared[best])} a step; {others}"
    return best, Choice(key, str(best), reason, "measured")


def _divisors(number: int) -> list[int]:
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def _fitting(section: TrainSection, limits: Limits) -> list[int]:
    """Micro-batch sizes that divide a rank's batch and fit in memory, smallest first. Raises DoesNotFit."""
    room = _MEMORY_SHARE * limits.memory_available / section.world_size
    fitting = [size for size in _divisors(per_rank(section)) if limits.memory_of(size) <= room]
    if not fitting:
        raise DoesNotFit(
            f"train: a micro-batch of 1 needs {format_bytes(limits.memory_of(1))} a rank of {format_bytes(room)}",
            hint="make the model or train.sequence_length smaller, or train.world_size",
        )
    return fitting


def _first_micro_batch(section: TrainSection, limits: Limits) -> int:
    if section.micro_batch_size != "auto":
        return _set_micro_batch(section, section.micro_batch_size)
    fitting = _fitting(section, limits)
    return max((size for size in fitting if size * limits.units_per_row <= _FIRST_TOKENS), default=fitting[0])


def _set_micro_batch(section: TrainSection, size: int) -> int:
    samples = per_rank(section)
    if size < 1 or samples % size:
        raise UsageError(
            f"train.micro_batch_size: found {size}, expected a divisor of a rank's {samples} samples a step",
            hint=f"one of {', '.join(map(str, _divisors(samples)))}",
        )
    return size


def _micro_batch(section: TrainSection, trials: Sequence[Trial], limits: Limits) -> tuple[int, Choice]:
    key, samples = "train.micro_batch_size", per_rank(section)
    if section.micro_batch_size != "auto":
        size = _set_micro_batch(section, section.micro_batch_size)
        return size, Choice(key, str(size), "set by the job", "set")
    fitting = set(_fitting(section, limits))
    room = _MEMORY_SHARE * limits.memory_available / section.world_size
    usable = [
        t
        for t in trials
        if t.setting.micro_batch_size in fitting and (t.memory_bytes is None or t.memory_bytes <= room)
    ]
    if not usable:
        size = _first_micro_batch(section, limits)
        reason = f"{samples // size} of them make a rank's {samples} samples; fits in memory"
        return size, Choice(key, str(size), reason, "estimated")
    best = min(t.seconds for t in usable)
    chosen = min((t for t in usable if t.seconds <= best * _BETTER), key=lambda t: t.setting.micro_batch_size)
    size = chosen.setting.micro_batch_size
    reason = f"x {samples // size} = {samples} samples in {format_seconds(chosen.seconds)}"
    others = {t.setting.micro_batch_size: t.seconds for t in usable if t.setting.micro_batch_size != size}
    if others:
        reason += "; " + ", ".join(f"{other}: {format_seconds(seconds)}" for other, seconds in sorted(others.items()))
    return size, Choice(key, str(size), reason, "measured")


def _compile(section: TrainSection, times: Cadence, seconds: float, costs: Costs) -> tuple[bool, Choice]:
    key = "train.compile"
    if section.compile != "auto":
        return section.compile, Choice(key, str(section.compile).lower(), "set by the job", "set")
    gain = times.steps * seconds * costs.compile_gain
    cost = format_seconds(costs.compile_seconds)
    if not gain:
        return False, Choice(key, "false", f"costs an estimated {cost}, and nothing is known of a gain", "estimated")
    if gain > costs.compile_seconds:
        reason = f"saves an estimated {format_seconds(gain)} for {cost} of compiling"
        return True, Choice(key, "true", reason, "estimated")
    reason = f"compiling costs an estimated {cost}, it would save {format_seconds(gain)} in {times.steps} steps"
    return False, Choice(key, "false", reason, "estimated")
