"""What the program itself spends its time on, and how near that comes to what the machine was measured to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fullbore.base.units import format_seconds, format_share
from fullbore.perf.model import compute
from fullbore.perf.plan.advise import Advice, decided_by_measuring, gain, of_compute, of_interval
from fullbore.perf.plan.cause import COMPUTE, OF_STATE, Cause, Limit
from fullbore.perf.plan.facts import Facts
from fullbore.perf.plan.outside import lost_to_others
from fullbore.record.ledger import State


def inside(facts: Facts, states: Sequence[str]) -> list[Cause]:
    """What the program itself spends these states on; the seconds that others took from a state are not counted."""
    found = []
    if State.FORWARD in states:
        found += [_compute(facts, states), _data(facts, states)]
    for state in states:
        if state not in (*COMPUTE, State.DATA_WAIT):
            found.append(_state(facts, state, states))
    return [cause for cause in found if cause.seconds > 0]


def own_seconds(facts: Facts, state: str) -> float:
    """Seconds of a state that nothing from outside accounts for. What saving and batches wait for stays: how often one
    saves, and what one reads, is the program's own."""
    usage = facts.usage.get(state)
    if usage is None:
        return facts.seconds(state)
    waited = (
        usage.idle
        if state == State.READ
        else usage.fetching
        if state not in (State.CHECKPOINT, State.DATA_WAIT)
        else 0.0
    )
    elsewhere = max(waited, usage.thrashing) * facts.seconds(state)
    return max(0.0, facts.seconds(state) - lost_to_others(facts, state) - usage.held - elsewhere)


def undisturbed(facts: Facts, states: Sequence[str]) -> bool:
    """Whether these states' time was the program's own but for a tenth of it at most."""
    seconds, steal = facts.seconds(*states), facts.used(states).steal
    return sum(own_seconds(facts, state) for state in states) >= 0.9 * seconds and steal < 0.1 * facts.cores


@dataclass(frozen=True)
class Efficiency:
    """What the seconds of forward, backward and optimizer reached of what the machine was measured to do (shares of 1),
    whoever else had the cores in them."""

    arithmetic: float
    bandwidth: float


def efficiency(facts: Facts) -> Efficiency | None:
    """None if the work, the ceilings or the steps are not known. A rate that was reached is a ceiling, too: what the
    probe found at most is then too low."""
    plan, ceilings, work = facts.plan, facts.ceilings, facts.work
    seconds = facts.seconds(*COMPUTE)
    if plan is None or ceilings is None or work is None or not facts.samples or not seconds:
        return None
    peak = ceilings.peak(plan.precision, plan.threads * plan.world_size)
    size = 2 if plan.precision == "bf16" else 4
    moved = compute.training_bytes(work, plan.micro_batch_size, size) * facts.samples / plan.micro_batch_size
    moved += 40.0 * work.parameters * facts.steps * plan.world_size
    return Efficiency(
        arithmetic=min(1.0, work.training_flops * facts.samples / seconds / peak),
        bandwidth=min(1.0, moved / seconds / ceilings.memory_bandwidth),
    )


@dataclass(frozen=True)
class Reached:
    """Model FLOPs utilisation: the FLOPs of forward and backward of what was trained on, as the model needs them at
    least, over the seconds of all steps with what they waited for, over the peak that was measured of the host."""

    flops_per_second: float
    peak_flops_per_second: float
    """Of the number format and the cores in use; what was reached is a ceiling, too."""
    dtype: str
    threads: int

    @property
    def share(self) -> float:
        return self.flops_per_second / self.peak_flops_per_second

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "share": self.share}


def mfu(facts: Facts) -> Reached | None:
    """None if the work, the ceilings or the steps are not known."""
    plan, ceilings, work = facts.plan, facts.ceilings, facts.work
    if plan is None or ceilings is None or work is None or not facts.step_seconds:
        return None
    threads = plan.threads * plan.world_size
    rate = work.training_flops * facts.samples / facts.step_seconds
    return Reached(rate, max(ceilings.peak(plan.precision, threads), rate), plan.precision, threads)


def _compute(facts: Facts, states: Sequence[str]) -> Cause:
    seconds = sum(own_seconds(facts, state) for state in COMPUTE)
    phase = facts.seconds(*states)
    advice = tuple(of_compute(facts, phase, seconds))
    reached = efficiency(facts)
    parts = ", ".join(f"{state} {format_seconds(facts.seconds(state))}" for state in COMPUTE if facts.seconds(state))
    if reached is None or facts.plan is None:
        return Cause(Limit.COMPUTE, seconds, "model compute", (parts,), advice)
    dtype = facts.plan.precision
    told = f"computing at {format_share(reached.arithmetic)} of the measured {dtype} peak"
    bandwidth = f"memory at {format_share(reached.bandwidth)} of its measured bandwidth meanwhile (estimated traffic)"
    evidence = (parts, told, bandwidth)
    if reached.arithmetic >= 0.25 or reached.arithmetic >= reached.bandwidth >= 0.15:
        return Cause(Limit.COMPUTE, seconds, f"model compute: {told}", evidence, advice)
    if reached.bandwidth >= 0.4:
        return Cause(Limit.BANDWIDTH, seconds, f"memory bandwidth: {bandwidth}", evidence, advice)
    because = f"small operations: {told}, the rest is what starting and moving around each operation costs"
    return Cause(Limit.SMALL, seconds, because, evidence, (*advice, *_larger(facts)))


def _larger(facts: Facts) -> list[Advice]:
    plan = facts.plan
    if plan is None:
        return []
    if plan.accumulation > 1 and not decided_by_measuring(plan, "train.micro_batch_size"):
        change = "larger micro-batches: fewer, larger operations for the same step"
        samples = plan.micro_batch_size * plan.accumulation
        larger = next(size for size in range(plan.micro_batch_size + 1, samples + 1) if samples % size == 0)
        return [Advice(change, f"--set train.micro_batch_size={larger}", None)]
    change = "a larger global batch does more work in each operation (it changes the training)"
    return [Advice(change, f"--set train.global_batch_size={plan.global_batch_size * 2}", None)]


def _data(facts: Facts, states: Sequence[str]) -> Cause:
    """Waiting for batches: the feed was waiting for bytes, or for a core to make them with."""
    seconds = own_seconds(facts, State.DATA_WAIT)
    busy, cpu = facts.ledger.busy.get("feed", 0.0), facts.ledger.busy.get("feed cpu", 0.0)
    removed = gain(facts.seconds(*states), seconds)
    if not busy:
        return Cause(Limit.DATA, seconds, "waiting for data", (), (Advice("make the data arrive sooner", "", removed),))
    idle = max(0.0, 1 - cpu / busy)
    evidence = (f"the feed was busy {format_seconds(busy)} and used {format_seconds(cpu)} of CPU in it",)
    if idle > 0.5:
        because = f"reading the shards: the feed waited for bytes {format_share(idle)} of its time"
        advice = Advice("put the shards on a faster disk, or make them fit in memory", "", removed)
        return Cause(Limit.SHARDS, seconds, because, evidence, (advice,))
    because = f"making batches (decode, collate), {format_seconds(cpu / max(1, facts.steps))} of a core per step"
    advice = Advice("make each sample cheaper to decode: pack it smaller or at its final size", "", removed)
    return Cause(Limit.BATCHES, seconds, because, evidence, (advice,))


_BECAUSE: dict[str, str] = {
    State.START: "starting: importing libraries and building the model",
    State.PROBE: "measuring the machine and trying settings",
    State.READ: "reading and cleaning the source on the CPU",
    State.TOKENISE: "tokenising",
    State.PACK: "packing shards",
    State.COMPILE: "compiling the model",
    State.COPY: "copying batches",
    State.COMMUNICATION: "exchanging gradients",
    State.BUBBLE: "the pipeline's bubble",
    State.STRAGGLER: "waiting for the slowest rank",
    State.CHECKPOINT: "saving checkpoints",
    State.EVALUATE: "evaluating",
    State.COMPRESS: "making and judging compressed variants",
    State.SERVE: "serving",
    State.REPORT: "writing the report",
    State.OTHER: "what no state accounts for",
}


def _state(facts: Facts, state: str, states: Sequence[str]) -> Cause:
    seconds, phase = own_seconds(facts, state), facts.seconds(*states)
    usage = facts.usage.get(state)
    evidence = (f"{usage.cpu_self:.1f} of {facts.cores} cores used meanwhile",) if usage else ()
    advice: list[Advice] = []
    if state == State.EVALUATE:
        advice = of_interval(facts, phase, seconds, "evaluate_every", "evaluate")
    elif state == State.CHECKPOINT:
        advice = of_interval(facts, phase, seconds, "checkpoint_every", "save")
    elif state == State.COMPILE:
        advice = [
            Advice("do not compile: the run is too short for it", "--set train.compile=false", gain(phase, seconds))
        ]
    elif state in (State.READ, State.TOKENISE, State.PACK):
        advice = [Advice("prepared data are kept: the same job does not prepare them again", "", None)]
    return Cause(OF_STATE[state], seconds, _BECAUSE[state], evidence, tuple(advice))
