"""What a run would have taken with another setting: its measured ledger, corrected line by line by what the cost model
predicts of the changed job over what it predicts of the job as it ran."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fullbore.base.units import plural
from fullbore.perf.plan.choose import divisors, per_rank
from fullbore.perf.plan.facts import TRAINING
from fullbore.perf.plan.steps import judged_rows
from fullbore.spec.job import Job
from fullbore.spec.model import ATTENTION, BLOCKS, DecoderModel, MLPModel, ResNetModel, TextCNNModel
from fullbore.spec.plan import Plan, Prediction
from fullbore.spec.train import TrainSection

QUANTITY = "what-if"
"""Under this, history keeps the ratio that a change was predicted to bring, and the ratio that it brought."""
_UNKNOWN = 0.1
"""A sum has an error if no more of what changes in it is without one."""


@dataclass(frozen=True)
class Change:
    """A setting that could be another."""

    said: str
    overrides: Mapping[str, str]
    """As `--set` takes them."""
    changes_training: bool = False
    """Other numbers are learnt, or as many of them otherwise: the speed is no longer of the same work."""

    @property
    def settings(self) -> str:
        return " ".join(f"--set {key}={value}" for key, value in self.overrides.items())

    @property
    def of_training(self) -> bool:
        return all(key.startswith("train.") for key in self.overrides)

    @property
    def keys(self) -> str:
        """What is changed, whatever to: changes of one kind are off alike."""
        return "+".join(sorted(self.overrides))


@dataclass(frozen=True)
class Figure:
    """What a job is judged by: samples/s of its training phase if its budget is time, else the seconds of the run."""

    name: str
    unit: str
    now: float
    then: float
    gain: float
    """X'/X - 1 of the speed: of the rate, or of runs a second."""


def corrected(
    measured: Mapping[str, float], now: Mapping[str, Prediction], then: Mapping[str, Prediction]
) -> dict[str, Prediction]:
    """Seconds by state of the changed run. A line that is not predicted stays; one that only the changed job has is as
    predicted; the error of a ratio is that of both, and none of what does not change."""
    found = {}
    for state in {**measured, **then}:
        seconds, one, two = measured.get(state, 0.0), now.get(state), then.get(state)
        if two is None:
            found[state] = Prediction(0.0 if one is not None else seconds, "s", 0.0)
        elif one is None or not one.value or not seconds:
            found[state] = two if one is None else Prediction(seconds or two.value, "s", two.error)
        elif one == two:
            found[state] = Prediction(seconds, "s", 0.0)
        else:
            found[state] = Prediction(seconds * two.value / one.value, "s", _both(one.error, two.error))
    return found


def _both(one: float | None, two: float | None) -> float | None:
    return None if one is None or two is None else math.hypot(one, two)


def error(
    ledger: Mapping[str, Prediction], measured: Mapping[str, float], states: Sequence[str] | None = None
) -> float | None:
    """Relative, of the sum of lines that were `measured` before the change; none if that of what changes is unknown."""
    lines = {state: line for state, line in ledger.items() if states is None or state in states}
    changes = {state: abs(line.value - measured.get(state, 0.0)) for state, line in lines.items()}
    unknown = sum(changes[state] for state, line in lines.items() if line.error is None)
    whole = sum(line.value for line in lines.values())
    if not whole or unknown > _UNKNOWN * sum(changes.values()):
        return None
    return sum(line.value * (line.error or 0.0) for line in lines.values()) / whole


def figure(
    timed: bool, now: Mapping[str, float], then: Mapping[str, float], samples: tuple[float, float], units: float = 1.0
) -> Figure:
    """`now` and `then`: seconds by state. `samples`: trained on, now and then. `units`: tokens or so of a sample.

    What leaves the training of a job with a time budget as it is, shortens or lengthens the run."""
    one, two = (sum(seconds.get(state, 0.0) for state in TRAINING) for seconds in (now, then))
    if timed and one and two and samples[0]:
        rates = [units * count / seconds for count, seconds in zip(samples, (one, two), strict=True)]
        if not math.isclose(*rates, rel_tol=1e-6):
            return Figure("training rate", "/s", rates[0], rates[1], rates[1] / rates[0] - 1)
    walls = sum(now.values()), sum(then.values())
    return Figure("run time", "s", walls[0], walls[1], walls[0] / walls[1] - 1 if walls[1] else 0.0)


def candidates(job: Job, plan: Plan, precisions: Sequence[str], cores: int, validation: int) -> Iterator[Change]:
    """Settings that could be others, each with one or two other values. `validation`: rows of that split."""
    section = job.train
    if section is None:
        return
    yield from _steps(job, section, plan, precisions, cores)
    yield from _interruptions(section, plan, validation)
    yield from _compression(job)
    yield from _learning(job, section, plan)


def _steps(job: Job, section: TrainSection, plan: Plan, precisions: Sequence[str], cores: int) -> Iterator[Change]:
    """What makes the same steps otherwise."""
    for precision in ("bf16", "fp32"):
        if precision != plan.precision and precision in precisions:
            yield Change(f"compute in {precision}", {"train.precision": precision})
    told = "do not compile the step" if plan.compile else "compile the step"
    yield Change(told, {"train.compile": str(not plan.compile).lower()})
    for threads in sorted({1, cores // plan.world_size} - {0, plan.threads}):
        yield Change(f"compute with {plural(threads, 'thread')} a rank", {"train.threads": str(threads)})
    sizes = divisors(per_rank(section))
    place = sizes.index(plan.micro_batch_size) if plan.micro_batch_size in sizes else -1
    for size in (*sizes[place - 1 : place], *sizes[place + 1 : place + 2]) if place >= 0 else ():
        yield Change(f"micro-batches of {plural(size, 'sample')}", {"train.micro_batch_size": str(size)})
    kind = job.model.kind if job.model is not None else ""
    for way in ATTENTION.get(kind, ()):
        if plan.attention not in ("auto", way):
            yield Change(f"compute attention by {way} kernels", {"train.attention": way})
    if kind in BLOCKS:
        told = "keep activations" if plan.recompute else "compute activations again instead of keeping them"
        yield Change(told, {"train.recompute": str(not plan.recompute).lower()})
    if section.world_size == 1 and cores > 1:
        yield Change("two data-parallel processes", {"train.world_size": "2", "train.threads": str(cores // 2)})
    elif section.world_size > 1:
        yield Change("one process on all cores", {"train.world_size": "1", "train.threads": str(cores)})


def _interruptions(section: TrainSection, plan: Plan, validation: int) -> Iterator[Change]:
    """What is done between steps."""
    if validation and plan.evaluate_every < plan.steps:
        yield Change("evaluate half as often", {"train.evaluate_every": str(2 * plan.evaluate_every)})
    if validation and section.evaluate_samples is None and judged_rows(section, plan.steps, plan.evaluate_every, 2) > 2:
        some = max(1, validation // 8)
        yield Change(
            f"judge {plural(some, 'sample')} while training, all at the end", {"train.evaluate_samples": str(some)}
        )
    if plan.checkpoint_every < plan.steps:
        yield Change("save half as often", {"train.checkpoint_every": str(2 * plan.checkpoint_every)})


def _compression(job: Job) -> Iterator[Change]:
    section = job.compress
    if section is None:
        return
    if tuple(section.variants) != ("fp32",):
        yield Change("keep the trained model, try no smaller ones", {"compress.variants": "fp32"})
    if section.samples >= 64:
        yield Change("judge variants on half as many samples", {"compress.samples": str(section.samples // 2)})


def _learning(job: Job, section: TrainSection, plan: Plan) -> Iterator[Change]:
    """What changes what is learnt."""
    for optimizer in ("adamw", "sgd", "muon"):
        if optimizer != section.optimizer:
            yield Change(f"update by {optimizer}", {"train.optimizer": optimizer}, changes_training=True)
    for batch in (2 * section.global_batch_size, section.global_batch_size // 2):
        if batch >= plan.world_size:
            told = f"{plural(batch, 'sample')} a step"
            yield Change(told, {"train.global_batch_size": str(batch)}, changes_training=True)
    if job.tokenizer is not None and section.sequence_length >= 64:
        length = section.sequence_length // 2
        told = f"rows of {plural(length, 'token')}"
        yield Change(told, {"train.sequence_length": str(length)}, changes_training=True)
    match job.model:
        case DecoderModel(layers=layers) if layers > 1:
            yield Change("half as many layers", {"model.layers": str(layers // 2)}, changes_training=True)
        case ResNetModel(width=width) if width >= 16:
            yield Change("half as many channels", {"model.width": str(width // 2)}, changes_training=True)
        case TextCNNModel(filters=filters) if filters >= 16:
            yield Change("half as many filters", {"model.filters": str(filters // 2)}, changes_training=True)
        case MLPModel(hidden=hidden) if hidden and min(hidden) >= 16:
            halved = ", ".join(str(width // 2) for width in hidden)
            yield Change("hidden layers half as wide", {"model.hidden": f"[{halved}]"}, changes_training=True)
