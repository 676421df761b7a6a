"""A thread that samples what this process tree uses and what others leave it: `resource` events once a second."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from fullbore.perf.measure import proc
from fullbore.perf.measure.energy import Meter
from fullbore.record.span import RECORDING, Recorder, exec_time


@dataclass(frozen=True)
class Reading:
    """Totals at one moment; the difference of two is a sample."""

    clock: float
    machine: proc.MachineTimes | None
    tree: proc.TreeTimes | None
    pressure: dict[str, float]
    thread: proc.ThreadTimes | None = None
    """Of the thread whose time is accounted for."""
    limit: proc.MemoryLimit | None = None
    joules: Mapping[str, float] = field(default_factory=dict)
    """By energy counter."""


def reading(tree: proc.Tree, meter: Meter | None = None, thread: int = 0) -> Reading:
    """`thread`: native id of the thread whose time is accounted for."""
    return Reading(
        time.perf_counter(),
        proc.machine_times(proc.allowed_cores()),
        tree.times(),
        proc.pressure(),
        proc.thread_times(thread),
        proc.memory_limit(),
        meter.joules() if meter is not None else {},
    )


def sample(before: Reading, after: Reading, interval: float, cores: int) -> dict[str, Any]:
    """What happened between two readings. Keys that the kernel cannot answer are absent.

    seconds: length of the sample
    late: seconds by which it exceeds the `interval` asked for (a stopped or starved process cannot sample itself)
    cpu_self, cpu_others, steal, iowait, cpu_available: cores; cpu_available is what the others left to this tree
    cpu_system: what of cpu_self the kernel used
    cpu_waiting: threads of this tree that were ready to run and had no core
    main_cpu, main_waiting: the same of the one thread whose time is accounted for
    rss, memory_available: bytes
    read_bytes_per_second, write_bytes_per_second, major_faults_per_second
    stopped: processes of the tree held by a signal; stopped_ranks: which ranks of a data-parallel run they are
    pressure: share of the time in which some task of the machine stalled for cpu, io, memory
    memory_limit: bytes, of the cgroup, if it has one
    reclaims_per_second, refaulted_bytes_per_second: what that limit did: pages given up, and read again soon after
    held: seconds in which the process was stopped (added by `Counters`)
    joules: by energy counter
    """
    seconds = max(after.clock - before.clock, 1e-9)
    found: dict[str, Any] = {"seconds": seconds, "late": max(0.0, seconds - interval), "cores": cores}
    one, two = before.tree, after.tree
    used = 0.0
    if one and two:
        used = max(0.0, two.cpu - one.cpu) / seconds
        found |= {
            "cpu_self": used,
            "cpu_system": max(0.0, two.system - one.system) / seconds,
            **({} if None in (one.waiting, two.waiting) else {"cpu_waiting": _grown(one, two) / seconds}),
            "rss": two.rss,
            "read_bytes_per_second": max(0, two.read_bytes - one.read_bytes) / seconds,
            "write_bytes_per_second": max(0, two.write_bytes - one.write_bytes) / seconds,
            "major_faults_per_second": max(0, two.major_faults - one.major_faults) / seconds,
            "stopped": len(two.stopped),
            "stopped_ranks": [rank for pid in two.stopped if (rank := proc.rank(pid)) is not None],
        }
    if before.thread and after.thread:
        found["main_cpu"] = (after.thread.ran - before.thread.ran) / seconds
        found["main_waiting"] = (after.thread.stood_ready - before.thread.stood_ready) / seconds
    if before.machine and after.machine:
        others = max(0.0, (after.machine.busy - before.machine.busy) / seconds - used)
        steal = (after.machine.steal - before.machine.steal) / seconds
        found |= {
            "cpu_others": others,
            "steal": steal,
            "iowait": max(0.0, after.machine.iowait - before.machine.iowait) / seconds,
            "cpu_available": max(0.0, cores - others - steal),
        }
    if available := proc.memory_available():
        found["memory_available"] = available
    if after.pressure:
        found["pressure"] = {
            resource: min(1.0, (total - before.pressure.get(resource, total)) / seconds)
            for resource, total in after.pressure.items()
        }
    if before.limit and after.limit and (limit := after.limit.limit or before.limit.limit):
        found |= {
            "memory_limit": limit,
            "reclaims_per_second": max(0, after.limit.reclaims - before.limit.reclaims) / seconds,
            "refaulted_bytes_per_second": max(0, after.limit.refaulted - before.limit.refaulted) / seconds,
        }
    if after.joules:
        found["joules"] = {name: total - before.joules.get(name, 0.0) for name, total in after.joules.items()}
    return found


def _grown(one: proc.TreeTimes, two: proc.TreeTimes) -> float:
    return max(0.0, (two.waiting or 0.0) - (one.waiting or 0.0))


_BEAT_SECONDS = 0.1
_ROUNDING = 0.01
"""Seconds that a sample may be shorter than it was asked to be."""
_GAP_SECONDS = 0.25
"""A beat that comes later than this is asked for its reason."""


_FETCHED = 2**20
"""Bytes from a disk beyond which a process that idled meanwhile may have waited for them."""
_HEARD_SECONDS = 5.0
"""Within so long after a gap a signal is heard that ended it: importing a library keeps the interpreter busy."""


@dataclass(frozen=True)
class Beat:
    """Little enough to be read ten times a second: what tells a process that was stopped from one that was busy, had no
    core, or waited for a disk."""

    clock: float
    thread: proc.ThreadTimes | None
    cpu: float
    from_disk: int
    stalled: float
    continued: int = 0
    """Times that the process was sent SIGCONT, as far as it listens."""


def _beat(thread: int, continued: int = 0) -> Beat:
    times, stalled = proc.thread_times(thread), proc.pressure().get("io", 0.0)
    return Beat(time.perf_counter(), times, time.process_time(), proc.bytes_from_disk(), stalled, continued)


def held(before: Beat, after: Beat, cores: int) -> float:
    """Seconds between two beats in which the process may have been stopped: beyond those that a beat takes, none of its
    threads ran and the accounted one did not stand ready for a core. What the machine waited for a disk meanwhile,
    while bytes came from it, is not among them."""
    late = after.clock - before.clock - _BEAT_SECONDS
    if late < _GAP_SECONDS:
        return 0.0
    active = after.cpu - before.cpu - cores * _BEAT_SECONDS
    if before.thread and after.thread:
        ready = after.thread.stood_ready - before.thread.stood_ready
        active = max(active, after.thread.ran - before.thread.ran + ready - _BEAT_SECONDS)
    disk = after.stalled - before.stalled if fetched(before, after) else 0.0
    return max(0.0, late - max(0.0, active) - disk)


def fetched(before: Beat, after: Beat) -> bool:
    """Whether so much came from a disk that it may be what the process waited for."""
    return after.from_disk - before.from_disk > _FETCHED


class Stops:
    """Adds up how long the process was stopped, beat by beat. Where it may have waited for a disk instead, with the
    interpreter locked, it was stopped only if SIGCONT ended that: which is heard when the interpreter comes to it."""

    def __init__(self, first: Beat, cores: int, listens: bool) -> None:
        self._before, self._cores, self._listens = first, cores, listens
        self._doubtful, self._until, self._heard = 0.0, 0.0, first.continued

    def add(self, now: Beat) -> float:
        """Seconds stopped that are known since the last beat."""
        gap = held(self._before, now, self._cores)
        certain = gap if not fetched(self._before, now) else 0.0
        if gap and not certain and self._listens:
            self._doubtful, self._until = gap, now.clock + _HEARD_SECONDS
        if now.continued > self._heard and now.clock < self._until:
            certain, self._until = certain + self._doubtful, 0.0
        self._before, self._heard = now, now.continued
        return certain


def since_exec(thread: int, cores: int) -> dict[str, Any]:
    """A sample of the time until now, of what the kernel has counted for this process since it began; what the machine
    did meanwhile nobody knows, so idling is taken for the disk if much was read from one, else for being stopped."""
    now, age = _beat(thread), time.time() - exec_time()
    none = proc.ThreadTimes(0.0, 0.0)
    first = Beat(now.clock - age, none if now.thread else None, 0.0, now.from_disk, now.stalled)
    ready = now.thread.stood_ready / age if now.thread else 0.0
    found: dict[str, Any] = {"seconds": age, "late": 0.0, "cores": cores, "cpu_self": now.cpu / age}
    found |= {"cpu_waiting": ready, "main_waiting": ready} if now.thread else {}
    found["read_bytes_per_second"] = now.from_disk / age
    if now.from_disk > _FETCHED:
        return {**found, "held": 0.0, "iowait": max(0.0, 1 - now.cpu / age - ready)}
    return {**found, "held": held(first, now, cores)}


class Counters:
    """`with Counters(recorder):` samples this process and its children until the block ends.

    A sample costs some reads of /proc and /sys (well under a millisecond of one core) and one event; between two there
    are some beats, which see when the process is stopped. An `energy` event says first which energy counters there are.
    The thread that enters the block is the one whose time is accounted for. Without a recorder, as when the process has
    only begun and there is no place for events yet, they wait for `attach`; the first is of the time since exec.
    """

    def __init__(self, recorder: Recorder | None = None, interval: float = 1.0) -> None:
        """`interval`: seconds between samples."""
        self._recorder = recorder
        self._interval = interval
        self._early: deque[tuple[str, dict[str, Any]]] = deque()
        self._attaching = threading.Lock()
        self._ended, self._asked, self._answered = threading.Event(), threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._continued, self._listens = 0, False

    def __enter__(self) -> Counters:
        """The first reading and beat are made here: a block that keeps the interpreter busy, or lets go of it often and
        shortly, makes the thread wait for it, to the end if need be, where the last ones are made."""
        if self._recorder is None and threading.current_thread() is threading.main_thread():
            self._listens = hasattr(signal, "SIGCONT") and signal.getsignal(signal.SIGCONT) == signal.SIG_DFL
            if self._listens:
                signal.signal(signal.SIGCONT, self._was_continued)
        tree, meter, accounted = proc.Tree(os.getpid()), Meter(), threading.get_native_id()
        self._tell("energy", counters=meter.names, problems=meter.problems)
        if self._recorder is None:
            self._tell("resource", **since_exec(accounted, proc.core_count()))
        given = (tree, meter, accounted, reading(tree, meter, accounted), _beat(accounted, self._continued))
        self._thread = threading.Thread(target=self._run, args=given, name="fullbore-counters", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def _was_continued(self, *_: object) -> None:
        self._continued += 1

    def end(self) -> None:
        """Take the last sample."""
        if self._listens:
            signal.signal(signal.SIGCONT, signal.SIG_DFL)
            self._listens = False
        self._ended.set()
        self._asked.set()
        if self._thread is not None:
            self._thread.join()

    def attach(self, recorder: Recorder) -> None:
        """From now on, and what was sampled until now, to `recorder`."""
        with self._attaching:
            self._recorder = recorder
            while self._early:
                kind, fields = self._early.popleft()
                recorder.event(kind, **fields)

    def settle(self) -> None:
        """Return when there is a sample of the time until now."""
        if self._thread is not None and self._thread.is_alive():
            self._answered.clear()
            self._asked.set()
            self._answered.wait()

    def _tell(self, kind: str, **fields: Any) -> None:
        with self._attaching:
            if self._recorder is None:
                self._early.append((kind, {"t": time.time(), **fields}))
            else:
                self._recorder.event(kind, **fields)

    def _run(self, tree: proc.Tree, meter: Meter, accounted: int, before: Reading, beat: Beat) -> None:
        cores, stopped, used = proc.core_count(), 0.0, time.thread_time()
        stops, ended = Stops(beat, cores, self._listens), False
        while not ended:
            due = before.clock + self._interval - time.perf_counter()
            asked = self._asked.wait(max(0.0, min(_BEAT_SECONDS, due)))
            ended = self._ended.is_set()
            now = _beat(accounted, self._continued)
            stopped += stops.add(now)
            if asked or now.clock - before.clock >= self._interval - _ROUNDING:
                self._asked.clear()
                after = reading(tree, meter, accounted)
                self._tell("resource", **sample(before, after, self._interval, cores), held=stopped)
                before, stopped = after, 0.0
                if self._recorder is not None:
                    earlier, used = used, time.thread_time()
                    self._recorder.busy(RECORDING, used - earlier)
                self._answered.set()
        self._answered.set()
