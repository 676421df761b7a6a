"""From timed trials to a frozen Plan: every decision with its reason. Pure functions; nothing here measures or waits.

The caller measures in turns, as `next_setting` asks, and then freezes:

    trials: list[Trial] = []
    while (setting := choose.next_setting(section, trials, limits)) is not None:
        trials.append(time_some_steps(setting))
    if (setting := choose.worth_compiling(section, trials, limits)) is not None:
        trials.append(time_some_steps(setting))
    trials.append(time_more_steps(choose.chosen(section, trials, limits)))
    plan = choose.plan(section, trials, limits, costs)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from fullbore.base.errors import DoesNotFit, UsageError
from fullbore.base.units import format_bytes, format_seconds, plural
from fullbore.perf.plan import steps
from fullbore.perf.plan.steps import COMPILE_SECONDS, Costs
from fullbore.spec.plan import Choice, Plan, Prediction
from fullbore.spec.train import TrainSection

Precision = Literal["fp32", "bf16"]
Attention = Literal["auto", "fused", "plain", "packed"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")

_FASTER = 1.05
"""bf16 must be measured so much faster than fp32 to be worth its rounding."""
_BETTER = 1.03
"""A trial must be so much faster than another to be told from it."""
CROWDED = 0.2
"""Cores used by others from which on they count as neighbours."""
_SHORT_SECONDS = 0.1
"""Steps shorter than this lose much to neighbours, and little is gained on them by a second core."""
_MUCH_SLOWER = 1.5
"""A precision predicted to be so much slower is not tried."""
_PATHS = {
    "plain": "short rows in bf16 gain by plain products; fullbore tune measures it",
    "fused": "long rows and fp32 gain by torch's kernels; fullbore tune measures it",
    "packed": "the tokens of a batch stand in one row, and no padding is computed",
}
_MEMORY_SHARE = 0.8
"""Share of the available memory that a plan may use."""
_FIRST_TOKENS = 8192
"""Tokens (or samples) of the first micro-batch tried."""


@dataclass(frozen=True)
class Setting:
    """What a trial is run with: one optimizer step is `accumulation` forward and backward passes of `micro_batch_size`
    samples on `threads` cores."""

    precision: Precision
    threads: int
    micro_batch_size: int
    accumulation: int
    compile: bool = False
    attention: Attention = "auto"
    recompute: bool = False
    prefetch: int = 4
    feed_threads: int = 1


@dataclass(frozen=True)
class Trial:
    """A few real steps of one rank, timed."""

    setting: Setting
    seconds: float
    """Of one optimizer step: the median of the faster half."""
    others: float = 0.0
    """Cores that other processes used meanwhile."""
    first_seconds: float = 0.0
    """What the first step took on top of that: compiling, if the setting asks for it."""

    @property
    def disturbed(self) -> bool:
        return self.others > CROWDED


@dataclass(frozen=True)
class Compiling:
    """What is expected of compiling the step, before it is tried."""

    seconds: float
    """That it takes."""
    gain: float
    """Share of a step's time that it saves."""
    training_seconds: float
    """Of the job, not compiled."""

    @property
    def saved(self) -> float:
        """Seconds of the job's steps."""
        return self.training_seconds * self.gain

    @property
    def pays(self) -> bool:
        return self.saved > self.seconds


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
    expected: Mapping[Precision, float] = field(default_factory=dict)
    """Seconds of a step by precision, predicted."""
    remembered: Precision | None = None
    """What the last run of such a model chose by measuring."""
    compiling: Compiling | None = None
    """What compiling may bring; none: it is not tried."""
    has_validation: bool = True
    recomputing_memory_of: Callable[[int], float] | None = None
    """As `memory_of`, of a network whose blocks compute their activations again; none: it has no blocks."""
    attends: Callable[[Precision], Attention] | None = None
    """The path that attention takes unless the job says which; none: there is no choice."""


def plan(section: TrainSection, trials: Sequence[Trial], limits: Limits, costs: Costs | None = None) -> Plan:
    """Freeze every decision.

    `costs`: seconds of what interrupts training (evaluation, checkpoints); none: nothing is known of them.
    Raises UsageError for a micro-batch that does not divide the global batch, DoesNotFit if no micro-batch fits.
    """
    costs = costs or Costs()
    eager = [trial for trial in trials if not trial.setting.compile]
    precision, precision_choice = _precision(section, eager, limits)
    threads, threads_choice = _threads(section, precision, eager, limits)
    alike = [t for t in eager if (t.setting.precision, t.setting.threads) == (precision, threads)]
    micro, micro_choice = _micro_batch(section, alike, limits)
    accumulation = per_rank(section) // micro
    settings = {trial.setting: trial for trial in trials}
    plain = _setting(section, precision, threads, micro, limits)
    compiled, compile_choice = _compile(
        section, settings.get(plain), settings.get(replace(plain, compile=True)), limits
    )
    measured = settings.get(replace(plain, compile=compiled), settings.get(plain))
    seconds = measured.seconds * costs.calibration.ratio if measured else 0.0
    if compiled:
        first = measured.first_seconds if measured and measured.setting.compile else COMPILE_SECONDS
        costs = replace(costs, start_seconds=costs.start_seconds + first)
    judged = limits.has_validation
    times = steps.cadence(section, limits.rows, limits.units_per_row, seconds, costs, has_validation=judged)
    rate = section.global_batch_size * limits.units_per_row / seconds if seconds else 0.0
    predicted = {
        "step_seconds": Prediction(seconds, "s", costs.calibration.error),
        "train_seconds": Prediction(times.seconds, "s", costs.calibration.error),
        "rate": Prediction(rate, f"{limits.units}/s", costs.calibration.error),
    }
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
        attention=plain.attention,
        recompute=plain.recompute,
        prefetch=plain.prefetch,
        feed_threads=plain.feed_threads,
        choices=(
            *(precision_choice, compile_choice, threads_choice, micro_choice),
            *_attention_choice(section, precision, limits),
            *_recompute_choice(section, micro, limits),
            *times.choices,
        ),
        predicted=predicted if seconds else {},
    )


def per_rank(section: TrainSection) -> int:
    """Samples of one optimizer step on the rank that has most of them."""
    return math.ceil(section.global_batch_size / section.world_size)


def chosen(section: TrainSection, trials: Sequence[Trial], limits: Limits) -> Setting:
    """The setting that a plan from these trials runs."""
    made = plan(section, trials, limits)
    return setting(made)


def setting(made: Plan) -> Setting:
    """What a trial of this plan is run with."""
    return Setting(**{name: getattr(made, name) for name in Setting.__dataclass_fields__})


def _setting(section: TrainSection, precision: Precision, threads: int, micro: int, limits: Limits) -> Setting:
    """With what is not chosen by trials."""
    return Setting(
        precision,
        threads,
        micro,
        per_rank(section) // micro,
        attention=_attention(section, precision, limits),
        recompute=_recomputes(section, limits),
        prefetch=section.prefetch,
        feed_threads=section.feed_threads,
    )


def next_setting(section: TrainSection, trials: Sequence[Trial], limits: Limits) -> Setting | None:
    """The setting to time next; none when another trial would not change a decision.

    What matters most comes first, because time may end the trials: precision and threads (threads before precision
    where steps are short or other processes want the cores), then smaller and larger micro-batches while they pay.
    """
    first, most = _first_micro_batch(section, limits), most_threads(section, limits)
    precisions = _precisions(section, limits)
    if not trials:
        return _setting(section, precisions[0], most, first, limits)
    best = min(trials, key=lambda t: t.seconds).setting
    alike = [t for t in trials if t.setting.micro_batch_size == first]
    fastest = min(alike or trials, key=lambda t: t.seconds).setting
    of_precision = [(precision, fastest.threads, first) for precision in precisions]
    of_threads = [(fastest.precision, count, first) for count in _thread_counts(section, limits)]
    crowded = trials[0].seconds < _SHORT_SECONDS or trials[0].disturbed
    wanted = [*of_threads, *of_precision] if crowded else [*of_precision, *of_threads]
    wanted += [(best.precision, best.threads, size) for size in _neighbours(section, best.micro_batch_size, limits)]
    tried = {t.setting for t in trials}
    settings = (_setting(section, *each, limits) for each in wanted)
    return next((found for found in settings if found not in tried), None)


def worth_compiling(section: TrainSection, trials: Sequence[Trial], limits: Limits) -> Setting | None:
    """What these trials chose, compiled, if the job asks for it or it is expected to pay: too long for one of many."""
    hopeful = limits.compiling is not None and limits.compiling.pays
    wanted = hopeful if section.compile == "auto" else section.compile
    return replace(chosen(section, trials, limits), compile=True) if wanted else None


def _neighbours(section: TrainSection, size: int, limits: Limits) -> list[int]:
    """The micro-batches next to `size`."""
    if section.micro_batch_size != "auto":
        return []
    sizes = _fitting(section, limits)
    place = sizes.index(size) if size in sizes else 0
    return sizes[max(0, place - 1) : place + 2]


def _precisions(section: TrainSection, limits: Limits) -> list[Precision]:
    """What is worth a trial, the likelier first."""
    if section.precision != "auto":
        return [section.precision]
    likely, _ = _precision(section, [], limits)
    other = _other(likely)
    slower = limits.expected.get(other, 0.0) > _MUCH_SLOWER * limits.expected.get(likely, math.inf)
    return [likely] if slower else [likely, other]


def _other(precision: Precision) -> Precision:
    return "fp32" if precision == "bf16" else "bf16"


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
        pair = min(pairs, key=lambda pair: min(pair.values()))
        ratio, told, measured = pair["fp32"] / pair["bf16"], "measured", True
    elif limits.remembered is not None:
        told = "the last run of such a model measured it to be the faster"
        return limits.remembered, Choice(key, limits.remembered, told, "estimated", _other(limits.remembered))
    elif len(limits.expected) == 2:
        ratio, told, measured = limits.expected["fp32"] / limits.expected["bf16"], "predicted", False
    else:
        return "fp32", Choice(key, "fp32", "nothing is known of bf16", "estimated", "bf16")
    faster: Precision = "bf16" if ratio > _FASTER else "fp32"
    reason = f"this model's steps in bf16 are {ratio:.2g}x as fast as in fp32, {told}"
    return faster, Choice(key, faster, reason, "measured" if measured else "estimated", _other(faster))


def most_threads(section: TrainSection, limits: Limits) -> int:
    if section.threads != "auto":
        return section.threads
    return max(1, limits.cores // section.world_size)


def _thread_counts(section: TrainSection, limits: Limits) -> list[int]:
    """Thread counts worth a trial: all that a rank may have, half of them, one."""
    most = most_threads(section, limits)
    return [most] if section.threads != "auto" else sorted({most, max(1, most // 2), 1}, reverse=True)


def _threads(
    section: TrainSection, precision: Precision, trials: Sequence[Trial], limits: Limits
) -> tuple[int, Choice]:
    """By the trials of `precision`, else by those of the other."""
    key, most = "train.threads", most_threads(section, limits)
    if section.threads != "auto":
        return most, Choice(key, str(most), "set by the job", "set")
    groups: dict[tuple[bool, int], dict[int, float]] = {}
    for trial in trials:
        group = (trial.setting.precision == precision, trial.setting.micro_batch_size)
        groups.setdefault(group, {})[trial.setting.threads] = trial.seconds
    compared = max(sorted(groups.items(), reverse=True), key=lambda g: min(len(g[1]), 2), default=(None, {}))[1]
    if len(compared) < 2 or most not in compared:
        share = "all of them" if section.world_size == 1 else f"shared by {plural(section.world_size, 'rank')}"
        told = f"this machine has {plural(limits.cores, 'core')}, {share}"
        return most, Choice(key, str(most), told, "estimated", "1" if most > 1 else "2")
    best = min(compared, key=lambda count: (compared[count], count))
    if compared[most] < compared[best] * _BETTER:
        best = most
    others = ", ".join(f"{format_seconds(compared[count])} with {count}" for count in sorted(compared) if count != best)
    instead = min((count for count in compared if count != best), key=lambda count: compared[count])
    reason = f"a step takes {format_seconds(compared[best])}; {others}"
    return best, Choice(key, str(best), reason, "measured", str(instead))


def divisors(number: int) -> list[int]:
    """All of them, smallest first."""
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def room(section: TrainSection, limits: Limits) -> float:
    """Bytes that a plan may use of each rank's part."""
    return _MEMORY_SHARE * limits.memory_available / section.world_size


def below(section: TrainSection, limits: Limits, size: int) -> Limits:
    """`limits` that a micro-batch of `size` does not fit in: it was tried, and ran out of memory."""
    needed = _memory_of(section, limits)(size)
    return replace(limits, memory_available=0.999 * needed * section.world_size / _MEMORY_SHARE)


def _recomputes(section: TrainSection, limits: Limits) -> bool:
    """Whether blocks compute their activations again: as the job says, else only if the micro-batch that it says, or
    the smallest, does not fit otherwise."""
    if section.recompute != "auto":
        return section.recompute
    size, given = _needed(section), room(section, limits)
    again = limits.recomputing_memory_of
    return again is not None and limits.memory_of(size) > given >= again(size)


def _needed(section: TrainSection) -> int:
    return section.micro_batch_size if section.micro_batch_size != "auto" else 1


def _memory_of(section: TrainSection, limits: Limits) -> Callable[[int], float]:
    again = limits.recomputing_memory_of
    return again if again is not None and _recomputes(section, limits) else limits.memory_of


def _attention(section: TrainSection, precision: Precision, limits: Limits) -> Attention:
    if section.attention != "auto" or limits.attends is None:
        return section.attention
    return limits.attends(precision)


def _attention_choice(section: TrainSection, precision: Precision, limits: Limits) -> tuple[Choice, ...]:
    """Nothing for networks without attention, or with one way to compute it."""
    key = "train.attention"
    if section.attention != "auto":
        return (Choice(key, section.attention, "set by the job", "set"),)
    if limits.attends is None:
        return ()
    path = limits.attends(precision)
    return (Choice(key, path, _PATHS[path], "estimated", "plain" if path == "fused" else "fused"),)


def _recompute_choice(section: TrainSection, micro: int, limits: Limits) -> tuple[Choice, ...]:
    """Nothing for networks without blocks, which have no choice."""
    key, again = "train.recompute", limits.recomputing_memory_of
    if section.recompute != "auto":
        return (Choice(key, str(section.recompute).lower(), "set by the job", "set"),)
    if again is None:
        return ()
    given = f"of {format_bytes(room(section, limits))} a rank"
    if not _recomputes(section, limits):
        told = f"a micro-batch of {micro} needs {format_bytes(limits.memory_of(micro))} {given} without it"
        return (Choice(key, "false", told, "estimated", "true"),)
    size = _needed(section)
    told = f"a micro-batch of {size} needs {format_bytes(limits.memory_of(size))} {given} without it"
    return (Choice(key, "true", f"{told}, {format_bytes(again(size))} with it", "estimated", "false"),)


def _fitting(section: TrainSection, limits: Limits) -> list[int]:
    """Micro-batch sizes that divide a rank's batch and fit in memory, smallest first. Raises DoesNotFit."""
    given, memory_of = room(section, limits), _memory_of(section, limits)
    fitting = [size for size in divisors(per_rank(section)) if memory_of(size) <= given]
    if not fitting:
        raise DoesNotFit(
            f"train: a micro-batch of 1 needs {format_bytes(memory_of(1))} a rank of {format_bytes(given)}",
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
            hint=f"one of {', '.join(map(str, divisors(samples)))}",
        )
    return size


def _micro_batch(section: TrainSection, trials: Sequence[Trial], limits: Limits) -> tuple[int, Choice]:
    key, samples = "train.micro_batch_size", per_rank(section)
    if section.micro_batch_size != "auto":
        size = _set_micro_batch(section, section.micro_batch_size)
        return size, Choice(key, str(size), "set by the job", "set")
    fitting = _fitting(section, limits)
    usable = {t.setting.micro_batch_size: t.seconds for t in trials if t.setting.micro_batch_size in fitting}
    best = min(usable.values(), default=0.0)
    size = min((s for s, seconds in usable.items() if seconds <= best * _BETTER), default=None) or _first_micro_batch(
        section, limits
    )
    instead = str(min((s for s in fitting if s != size), key=lambda s: abs(math.log(s / size)), default=""))
    times = samples // size
    step = "the whole step at once" if times == 1 else f"{plural(times, 'time')} for a step of {samples}"
    if not usable:
        return size, Choice(key, str(size), f"{step}; fits in memory", "estimated", instead)
    others = "".join(f"; {format_seconds(seconds)} with {s}" for s, seconds in sorted(usable.items()) if s != size)
    return size, Choice(key, str(size), f"{step}: {format_seconds(usable[size])}{others}", "measured", instead)


def _compile(section: TrainSection, plain: Trial | None, compiled: Trial | None, limits: Limits) -> tuple[bool, Choice]:
    """`plain` and `compiled`: the trials of the setting that was found without and with compiling."""
    key, expected = "train.compile", limits.compiling
    if section.compile != "auto":
        return section.compile, Choice(key, str(section.compile).lower(), "set by the job", "set")
    if plain is not None and compiled is not None:
        faster = compiled.seconds * _BETTER < plain.seconds
        told = f"a step takes {format_seconds(compiled.seconds)} compiled, {format_seconds(plain.seconds)} not"
        return faster, Choice(key, str(faster).lower(), told, "measured", str(not faster).lower())
    if expected is None:
        told = f"it takes about {format_seconds(COMPILE_SECONDS)}, and its gain was not measured"
    else:
        saved = format_seconds(expected.gain * expected.training_seconds)
        told = f"it would take about {format_seconds(expected.seconds)} and save about {saved}"
    return False, Choice(key, "false", told, "estimated", "true")
