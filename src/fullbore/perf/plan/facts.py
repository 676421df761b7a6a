"""What is known of a run after it, as plain data: all that a verdict sees. Gathered from its events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fullbore.record.ledger import Ledger, State
from fullbore.spec.hardware import Ceilings
from fullbore.spec.plan import Plan
from fullbore.spec.work import Work

TRAINING = (
    State.DATA_WAIT,
    State.COPY,
    State.FORWARD,
    State.BACKWARD,
    State.OPTIMIZER,
    State.COMMUNICATION,
    State.BUBBLE,
    State.STRAGGLER,
    State.CHECKPOINT,
    State.EVALUATE,
    State.COMPILE,
)
"""The states of the training phase."""


@dataclass(frozen=True)
class Usage:
    """What was used while the main thread was in a state: averages in cores or bytes/s, weighted by time."""

    seconds: float
    """Of that state that samples cover."""
    cpu_self: float = 0.0
    cpu_others: float = 0.0
    steal: float = 0.0
    iowait: float = 0.0
    read_rate: float = 0.0
    write_rate: float = 0.0
    cpu_waiting: float | None = None
    """Threads of ours that were ready to run and had no core; none: this kernel does not tell."""
    io_pressure: float | None = None
    """Share of the time in which some task of the machine waited for a disk; none: this kernel does not tell."""
    main_waiting: float | None = None
    """Share of the time in which the accounted thread was ready to run and had no core; none: this kernel does not
    tell."""
    idle: float = 0.0
    """Share of the time in which none of our threads ran, wanted to run, or was stopped."""
    disk: float = 0.0
    """What of `idle` the machine waited for a disk in while we moved bytes to or from one."""
    fetching: float = 0.0
    """What of `idle` much was read from a disk in, whatever the machine says of waiting."""
    thrashing: float = 0.0
    """Share of the time that went into giving memory up under a limit and reading it again."""
    held: float = 0.0
    """Seconds in which the process did not run although nobody else kept it from it: stopped by a signal."""
    watts: Mapping[str, float] = field(default_factory=dict)
    """By energy counter, over the time that it was read."""


@dataclass(frozen=True)
class Facts:
    ledger: Ledger
    """Of rank 0, all sessions of the run together."""
    cores: int
    usage: Mapping[str, Usage] = field(default_factory=dict)
    """By state."""
    ranks: tuple[Ledger, ...] = ()
    """Of every rank, if there are several."""
    stopped: Mapping[int, float] = field(default_factory=dict)
    """Seconds in which a rank was stopped by a signal."""
    plan: Plan | None = None
    ceilings: Ceilings | None = None
    work: Work | None = None
    samples: float = 0.0
    """Trained on, over all ranks."""
    steps: int = 0
    step_seconds: float = 0.0
    """Of all steps, with what they waited for."""
    source: str | None = None
    """Where the data come from, for people."""
    unreadable: tuple[str, ...] = ()
    """Energy counters that are there and could not be read, and why."""
    memory_limit: int = 0
    """Bytes that its cgroup allowed it, the least of all samples; 0: no limit."""
    optimizer: str = "adamw"
    """Update rule."""
    timed: bool | None = None
    """Whether the job's budget is time, so that its training rate is what counts; none: nobody said."""

    def seconds(self, *states: str) -> float:
        return sum(self.ledger.seconds.get(state, 0.0) for state in states)

    def used(self, states: Iterable[str]) -> Usage:
        """The averages over several states."""
        return _average([self.usage[state] for state in states if state in self.usage])


def gather(
    ledger: Ledger,
    events: Iterable[Mapping[str, Any]],
    plan: Plan | None = None,
    ceilings: Ceilings | None = None,
    *,
    work: Work | None = None,
    ranks: Sequence[Ledger] = (),
    source: str | None = None,
    timed: bool | None = None,
    optimizer: str = "adamw",
) -> Facts:
    """From the events of rank 0: its `ledger` intervals, `resource` samples and `step`s."""
    intervals: list[Mapping[str, Any]] = []
    samples: list[Mapping[str, Any]] = []
    steps, step_seconds = 0, 0.0
    unreadable: tuple[str, ...] = ()
    for event in events:
        if event["kind"] == "ledger":
            intervals.append(event)
        elif event["kind"] == "energy":
            unreadable = tuple(event["problems"])
        elif event["kind"] == "resource":
            samples.append(event)
        elif event["kind"] == "step":
            steps += 1
            step_seconds += float(event.get("seconds", 0.0))
    cores = int(samples[-1]["cores"]) if samples else max(1, plan.threads * plan.world_size if plan else 1)
    return Facts(
        ledger=ledger,
        cores=cores,
        usage=usage_by_state(intervals, samples),
        ranks=tuple(ranks),
        stopped=_stopped(samples),
        plan=plan,
        ceilings=ceilings,
        work=work,
        samples=float(steps * plan.global_batch_size) if plan else 0.0,
        steps=steps,
        step_seconds=step_seconds,
        source=source,
        unreadable=unreadable,
        memory_limit=min((int(sample["memory_limit"]) for sample in samples if "memory_limit" in sample), default=0),
        timed=timed,
        optimizer=optimizer,
    )


def _stopped(samples: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    found: dict[int, float] = {}
    for sample in samples:
        for rank in sample.get("stopped_ranks", ()):
            found[rank] = found.get(rank, 0.0) + float(sample["seconds"])
    return found


def usage_by_state(intervals: Iterable[Mapping[str, Any]], samples: Iterable[Mapping[str, Any]]) -> dict[str, Usage]:
    """Lay resource samples over ledger intervals: what was used in each state. Both are closed stretches of time;
    within an interval its states are taken to be mixed evenly, but where nothing ran, it was in states that can wait:
    who computes runs, or is ready to."""
    spans = sorted((float(event["begin"]), float(event["end"]), event["seconds"]) for event in intervals)
    found: dict[str, list[Usage]] = {}
    first = 0
    for sample in _in_their_place(sorted(samples, key=lambda event: float(event["t"]))):
        end, length = float(sample["t"]), float(sample["seconds"])
        begin = end - length
        while first < len(spans) and spans[first][1] <= begin:
            first += 1
        weights: dict[str, float] = {}
        for span_begin, span_end, seconds in spans[first:]:
            if span_begin >= end:
                break
            shared = min(end, span_end) - max(begin, span_begin)
            if shared <= 0 or span_end <= span_begin:
                continue
            for state, spent in seconds.items():
                weights[str(state)] = weights.get(str(state), 0.0) + shared * float(spent) / (span_end - span_begin)
        able = sum(weight for state, weight in weights.items() if state not in _COMPUTING)
        covered = sum(weights.values())
        for state, weight in weights.items():
            usage = _usage(sample, weight, weight / length)
            found.setdefault(state, []).append(_waited(usage, state, able / covered if covered else 1.0))
    return {state: _average(parts) for state, parts in found.items()}


def _in_their_place(samples: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Samples whose stopped seconds do not exceed their length: the rest, heard of late, is of the one before."""
    settled, excess = list[Mapping[str, Any]](), 0.0
    for sample in reversed(samples):
        held = float(sample.get("held", 0.0)) + excess
        excess = max(0.0, held - float(sample["seconds"]))
        settled.append({**sample, "held": held - excess} if held else sample)
    return settled[::-1]


_COMPUTING = (State.FORWARD, State.BACKWARD, State.OPTIMIZER, State.EVALUATE, State.COPY)


def _waited(usage: Usage, state: str, able: float) -> Usage:
    """`usage`, of a sample that was in states which can wait for the share `able` of its time, in one of its states."""
    if not usage.idle or not 0 < able < 1:
        return usage
    waiting = min(1.0, usage.idle / able)
    idle = max(0.0, usage.idle - able) / (1 - able) if state in _COMPUTING else waiting
    share = idle / usage.idle
    return replace(usage, idle=idle, disk=usage.disk * share, fetching=usage.fetching * share)


_MOVING = 64e3
"""Bytes/s of a disk below which a run's own traffic is its bookkeeping."""
_FETCHING = 1e6
"""Bytes/s read from a disk from which on a program waits for them."""
_THRASHING = 1e6
"""Bytes/s read again under a memory limit, from which on that is more than its first adjustment."""


def _usage(sample: Mapping[str, Any], seconds: float, share: float) -> Usage:
    pressure: Mapping[str, float] = sample.get("pressure") or {}
    cpu, system = float(sample.get("cpu_self", 0.0)), float(sample.get("cpu_system", 0.0))
    iowait, read = float(sample.get("iowait", 0.0)), float(sample.get("read_bytes_per_second", 0.0))
    written = float(sample.get("write_bytes_per_second", 0.0))
    held = _held(sample)
    idle = max(0.0, 1 - cpu - float(sample.get("cpu_waiting", 0.0)) - held / float(sample["seconds"]))
    disk = min(idle, max(pressure.get("io", 0.0), iowait)) if read + written > _MOVING else 0.0
    again = float(sample.get("refaulted_bytes_per_second", 0.0))
    part = min(1.0, again / max(read, again)) if again > _THRASHING else 0.0
    return Usage(
        seconds=seconds,
        cpu_self=cpu,
        cpu_others=float(sample.get("cpu_others", 0.0)),
        steal=float(sample.get("steal", 0.0)),
        iowait=iowait,
        read_rate=read,
        write_rate=written,
        cpu_waiting=sample.get("cpu_waiting"),
        main_waiting=sample.get("main_waiting"),
        io_pressure=pressure.get("io"),
        idle=idle,
        disk=disk,
        fetching=idle if read > _FETCHING else 0.0,
        thrashing=part * min(1.0, idle + system),
        held=share * held,
        watts={name: joules / float(sample["seconds"]) for name, joules in (sample.get("joules") or {}).items()},
    )


def _held(sample: Mapping[str, Any]) -> float:
    """Seconds of a sample in which the process, or one of its children, was stopped."""
    return float(sample["seconds"] if sample.get("stopped") else sample.get("held", 0.0))


def _average(parts: Sequence[Usage]) -> Usage:
    total = sum(part.seconds for part in parts)
    if not total:
        return Usage(0.0)

    def mean(values: Iterable[float]) -> float:
        return sum(part.seconds * value for part, value in zip(parts, values, strict=True)) / total

    def known(values: Sequence[float | None]) -> float | None:
        present = [value for value in values if value is not None]
        return mean([value or 0.0 for value in values]) if present else None

    return Usage(
        seconds=total,
        cpu_self=mean(part.cpu_self for part in parts),
        cpu_others=mean(part.cpu_others for part in parts),
        steal=mean(part.steal for part in parts),
        iowait=mean(part.iowait for part in parts),
        read_rate=mean(part.read_rate for part in parts),
        write_rate=mean(part.write_rate for part in parts),
        cpu_waiting=known([part.cpu_waiting for part in parts]),
        main_waiting=known([part.main_waiting for part in parts]),
        io_pressure=known([part.io_pressure for part in parts]),
        idle=mean(part.idle for part in parts),
        disk=mean(part.disk for part in parts),
        fetching=mean(part.fetching for part in parts),
        thrashing=mean(part.thrashing for part in parts),
        held=sum(part.held for part in parts),
        watts=_watts(parts),
    )


def _watts(parts: Sequence[Usage]) -> dict[str, float]:
    """By counter, the mean over the parts that it was read in."""
    seconds: dict[str, float] = {}
    joules: dict[str, float] = {}
    for part in parts:
        for name, watts in part.watts.items():
            seconds[name] = seconds.get(name, 0.0) + part.seconds
            joules[name] = joules.get(name, 0.0) + watts * part.seconds
    return {name: joules[name] / spent for name, spent in seconds.items() if spent}
