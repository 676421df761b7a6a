"""What limits a run from outside the program: signals, neighbours, the host, disks and what is not yet read from them,
limits on memory, sources, a slow rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from fullbore.base.units import format_bytes, format_seconds
from fullbore.perf.plan.advise import Advice, gain
from fullbore.perf.plan.cause import COMPUTE, Cause, Limit
from fullbore.perf.plan.facts import TRAINING, Facts, Usage
from fullbore.record.ledger import Ledger, State

_WAITING = (State.COMMUNICATION, State.STRAGGLER)


def outside(facts: Facts, states: Sequence[str]) -> list[Cause]:
    """What other programs, people, the host or a device took from these states. A stopped process that other ranks wait
    for is told as the straggler that it is."""
    held, straggler = _held(facts, states), _straggler(facts, states)
    of_machine = (_neighbour, _steal, _disk, _cold, _memory, _source)
    found = [cause(facts, states) for cause in of_machine]
    if straggler and held.seconds and straggler.seconds > held.seconds / 2:
        found += [replace(straggler, evidence=(*straggler.evidence, *held.evidence))]
    else:
        found += [held, straggler]
    return [cause for cause in found if cause and cause.seconds > 0]


def _held(facts: Facts, states: Sequence[str]) -> Cause:
    usage = facts.used(states)
    told = format_seconds(usage.held)
    change = "let the process run: something sends it SIGSTOP (a debugger, a terminal's Ctrl-Z, a batch system)"
    return Cause(
        Limit.STOPPED,
        usage.held,
        f"the process being stopped for {told}",
        (f"for {told} its threads used no CPU and asked for none: it was not allowed to run",),
        (Advice(change, "", gain(facts.seconds(*states), usage.held)),),
    )


def wanted_cores(facts: Facts, state: str, usage: Usage) -> float:
    """Cores that the work of a state could use: the plan's threads, else as many threads as ran or wanted to."""
    if state in COMPUTE and facts.plan is not None:
        return min(facts.cores, facts.plan.threads * facts.plan.world_size)
    return max(1.0, min(facts.cores, math.ceil(usage.cpu_self + (usage.cpu_waiting or 0.0) - 0.15)))


def lost_to_others(facts: Facts, state: str) -> float:
    """Seconds of a state in which its work stood ready and other processes had the cores.

    Where the kernel counts how long our threads stood ready, that is it, as far as others used so much: the accounted
    thread's own, or, where several threads compute together or make the data that it waits for, their mean. Elsewhere:
    all cores were taken, and ours were fewer than the work could use.
    """
    usage = facts.usage.get(state)
    if usage is None or usage.cpu_others < 0.15:
        return 0.0
    wanted = wanted_cores(facts, state, usage)
    if usage.cpu_waiting is not None:
        alone = usage.main_waiting if facts.plan is None or facts.plan.world_size == 1 else None
        together = state == State.DATA_WAIT or (state in COMPUTE and wanted > 1)
        shared = usage.cpu_waiting / wanted if together or alone is None else 0.0
        lost = min(max(alone or 0.0, shared), usage.cpu_others)
    elif usage.cpu_self + usage.cpu_others + usage.steal < 0.85 * facts.cores:
        return 0.0
    else:
        lost = min(1 - usage.cpu_self / wanted, usage.cpu_others / wanted)
    return min(1.0, max(0.0, lost)) * facts.seconds(state)


def _neighbour(facts: Facts, states: Sequence[str]) -> Cause | None:
    lost = {state: lost_to_others(facts, state) for state in states}
    hit = [state for state, seconds in lost.items() if seconds > 0]
    total, seconds = facts.seconds(*states), sum(lost.values())
    if not hit:
        return None
    usage = facts.used(hit)
    wanted = max(wanted_cores(facts, state, facts.usage[state]) for state in hit)
    evidence = [
        f"other processes used {usage.cpu_others:.1f} of {facts.cores} cores, "
        f"this run had {usage.cpu_self:.1f} of the {wanted:.0f} that it could use"
    ]
    if usage.cpu_waiting is not None:
        evidence.append(f"{usage.cpu_waiting:.1f} of its threads stood ready without a core, on average")
    change = f"stop or move the other processes: they use {usage.cpu_others:.1f} of {facts.cores} cores"
    because = f"other processes on the same cores ({usage.cpu_others:.1f} of {facts.cores})"
    return Cause(Limit.NEIGHBOUR, seconds, because, tuple(evidence), (Advice(change, "", gain(total, seconds)),))


def _steal(facts: Facts, states: Sequence[str]) -> Cause | None:
    usage = facts.used(states)
    if usage.steal < 0.1:
        return None
    seconds = facts.seconds(*states) * usage.steal / facts.cores
    return Cause(
        Limit.HOST,
        seconds,
        f"the virtual machine's host, which gave {usage.steal:.1f} of {facts.cores} cores to others",
        (f"steal time: {usage.steal:.2f} cores",),
        (Advice("use a host that is not oversold", "", gain(facts.seconds(*states), seconds)),),
    )


_DATA = (State.READ, State.PACK, State.TOKENISE, State.CHECKPOINT, State.DATA_WAIT)
"""The states that read or write what the job is about."""


def _disk(facts: Facts, states: Sequence[str]) -> Cause | None:
    """Time in states that read or write in which our threads had nothing to do because a disk was waited for: told by
    the kernel, or, where we write and nothing else is waited for, by being idle (remote and FUSE file systems)."""
    waits: dict[str, float] = {}
    for state in _DATA:
        usage = facts.usage.get(state)
        if state not in states or usage is None:
            continue
        share = usage.idle if state in (State.PACK, State.CHECKPOINT) and usage.idle > 0.5 else usage.disk
        if share - usage.thrashing > 0.2:
            waits[state] = facts.seconds(state) * (share - usage.thrashing)
    if not waits:
        return None
    seconds, usage = sum(waits.values()), facts.used(list(waits))
    evidence = (f"{usage.cpu_self:.2f} of {facts.cores} cores used meanwhile", _rates(facts, usage))
    worst = max(waits, key=lambda state: waits[state])
    advice = Advice("put the runs folder and the data on a faster disk", "", gain(facts.seconds(*states), seconds))
    return Cause(Limit.DISK, seconds, f"the disk, waited for in {worst}", evidence, (advice,))


def _rates(facts: Facts, usage: Usage) -> str:
    rates = (
        f"{format_bytes(usage.read_rate)}/s read, {format_bytes(usage.write_rate)}/s written while it was waited for"
    )
    if facts.ceilings is not None:
        rates += f"; measured before: {format_bytes(facts.ceilings.disk_read)}/s and "
        rates += f"{format_bytes(facts.ceilings.disk_write)}/s"
    return rates


def _cold(facts: Facts, states: Sequence[str]) -> Cause | None:
    """Being idle while much is read from a disk, in states that handle no data and so wait for nothing else: programs
    and libraries were not in memory yet."""
    waits = {
        state: max(0.0, usage.fetching - usage.thrashing) * facts.seconds(state)
        for state, usage in facts.usage.items()
        if state in states and state not in _DATA and usage.fetching > 0
    }
    seconds = sum(waits.values())
    if seconds < 0.1:
        return None
    usage, worst = facts.used(list(waits)), max(waits, key=lambda state: waits[state])
    read = format_bytes(sum(facts.usage[state].read_rate * facts.seconds(state) for state in waits))
    told = f"{read} read from the disk outside the data, {format_seconds(seconds)} of waiting for it"
    change = "run it again while they are in memory, or put the Python environment on a faster disk"
    because = f"a cold cache: programs and libraries were read from the disk, mostly in {worst}"
    advice = Advice(change, "", gain(facts.seconds(*states), seconds))
    return Cause(Limit.COLD, seconds, because, (told, _rates(facts, usage)), (advice,))


def _memory(facts: Facts, states: Sequence[str]) -> Cause | None:
    """A limit on memory that is too low for the program and its files: it gives up pages that it soon needs again."""
    lost = {state: facts.usage[state].thrashing * facts.seconds(state) for state in states if state in facts.usage}
    seconds = sum(lost.values())
    if seconds < 0.1:
        return None
    worst = max(lost, key=lambda state: lost[state])
    limit = format_bytes(facts.memory_limit)
    read = format_bytes(sum(facts.usage[state].read_rate * facts.seconds(state) for state in lost if lost[state]))
    evidence = (f"{read} read again, mostly in {worst}, since the limit of {limit} left no room to keep them",)
    advice = Advice(f"raise the limit on memory ({limit})", "", gain(facts.seconds(*states), seconds))
    return Cause(Limit.MEMORY, seconds, f"its limit of {limit} on memory", evidence, (advice,))


def _source(facts: Facts, states: Sequence[str]) -> Cause | None:
    """Reading in which neither our cores nor the local disk were busy: whoever delivers the data is slow."""
    usage = facts.usage.get(State.READ)
    if State.READ not in states or usage is None:
        return None
    seconds = facts.seconds(State.READ) * max(0.0, usage.idle - max(usage.disk, usage.thrashing))
    if seconds < 0.1:
        return None
    name = facts.source or "the source"
    evidence = (
        f"while reading, this run used {usage.cpu_self:.2f} of {facts.cores} cores and the disk was not waited for"
    )
    change = f"copy {name} to a local disk once" if facts.source else "copy the source to a local disk once"
    setting = "--set data.source=<the copy>"
    advice = Advice(change, setting, gain(facts.seconds(*states), seconds))
    return Cause(Limit.SOURCE, seconds, f"{name}, which delivers too slowly", (evidence,), (advice,))


def _straggler(facts: Facts, states: Sequence[str]) -> Cause | None:
    """What ranks wait for the slowest beyond what all of them wait: the one that waits least is waited for, or the one
    that was stopped (if that happened while they exchanged gradients, it seems to wait like all others)."""
    if len(facts.ranks) < 2 or State.FORWARD not in states:
        return None
    waited = [_seconds(ledger, _WAITING) for ledger in facts.ranks]
    explicit = max(_seconds(ledger, (State.STRAGGLER,)) for ledger in facts.ranks)
    slow, seconds = waited.index(min(waited)), max(max(waited) - min(waited), explicit)
    stopped = max(facts.stopped, key=lambda rank: facts.stopped[rank], default=slow)
    if stopped < len(waited) and facts.stopped.get(stopped, 0.0) > seconds / 2:
        slow, seconds = stopped, max(seconds, facts.stopped[stopped])
    working = [_seconds(ledger, TRAINING) - wait for ledger, wait in zip(facts.ranks, waited, strict=True)]
    others = sum(work for rank, work in enumerate(working) if rank != slow) / (len(working) - 1)
    evidence = (
        f"rank {slow} worked {format_seconds(working[slow])}, the others {format_seconds(others)} and waited for it"
    )
    advice = Advice(
        f"find what slows rank {slow}: its core, its share of the data", "", gain(facts.seconds(*states), seconds)
    )
    return Cause(Limit.STRAGGLER, seconds, f"rank {slow}, which the others wait for", (evidence,), (advice,))


def _seconds(ledger: Ledger, states: Sequence[str]) -> float:
    return sum(ledger.seconds.get(state, 0.0) for state in states)
