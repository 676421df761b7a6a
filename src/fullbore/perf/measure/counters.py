"""A thread that samples what this process tree uses and what others leave it: `resource` events once a second."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from fullbore.perf.measure import proc
from fullbore.perf.measure.energy import Meter
from fullbore.record.span import Recorder


@dataclass(frozen=True)
class Reading:
    """Totals at one moment; the difference of two is a sample."""

    clock: float
    machine: proc.MachineTimes | None
    tree: proc.TreeTimes | None
    pressure: dict[str, float]
    joules: Mapping[str, float] = field(default_factory=dict)
    """By energy counter."""


def reading(tree: proc.Tree, meter: Meter | None = None) -> Reading:
    machine = proc.machine_times(proc.allowed_cores())
    joules = meter.joules() if meter is not None else {}
    return Reading(time.perf_counter(), machine, tree.times(), proc.pressure(), joules)


def sample(before: Reading, after: Reading, interval: float, cores: int) -> dict[str, Any]:
    """What happened between two readings. Keys that the kernel cannot answer are absent.

    seconds: length of the sample
    late: seconds by which it exceeds the `interval` asked for (a stopped or starved process cannot sample itself)
    cpu_self, cpu_others, steal, iowait, cpu_available: cores; cpu_available is what the others left to this tree
    cpu_waiting: threads of this tree that were ready to run and had no core
    rss, memory_available: bytes
    read_bytes_per_second, write_bytes_per_second, major_faults_per_second
    stopped: processes of the tree held by a signal; stopped_ranks: which ranks of a data-parallel run they are
    pressure: share of the time in which some task of the machine stalled for cpu, io, memory
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
            **({} if None in (one.waiting, two.waiting) else {"cpu_waiting": _grown(one, two) / seconds}),
            "rss": two.rss,
            "read_bytes_per_second": max(0, two.read_bytes - one.read_bytes) / seconds,
            "write_bytes_per_second": max(0, two.write_bytes - one.write_bytes) / seconds,
            "major_faults_per_second": max(0, two.major_faults - one.major_faults) / seconds,
            "stopped": len(two.stopped),
            "stopped_ranks": [rank for pid in two.stopped if (rank := proc.rank(pid)) is not None],
        }
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
    if after.joules:
        found["joules"] = {name: total - before.joules.get(name, 0.0) for name, total in after.joules.items()}
    return found


def _grown(one: proc.TreeTimes, two: proc.TreeTimes) -> float:
    return max(0.0, (two.waiting or 0.0) - (one.waiting or 0.0))


class Counters:
    """`with Counters(recorder):` samples this process and its children until the block ends.

    A sample costs some reads of /proc and /sys (well under a millisecond of one core) and one event. An `energy` event
    says first which energy counters there are.
    """

    def __init__(self, recorder: Recorder, interval: float = 1.0) -> None:
        """`interval`: seconds between samples."""
        self._recorder = recorder
        self._interval = interval
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Counters:
        """The first reading is made here: a block that keeps the interpreter busy would make the thread wait for it."""
        tree, meter = proc.Tree(os.getpid()), Meter()
        self._recorder.event("energy", counters=meter.names, problems=meter.problems)
        given = (tree, meter, reading(tree, meter))
        self._thread = threading.Thread(target=self._run, args=given, name="fullbore-counters", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, tree: proc.Tree, meter: Meter, before: Reading) -> None:
        cores, ended = proc.core_count(), False
        while not ended:
            ended = self._ended.wait(self._interval)
            after = reading(tree, meter)
            if ended and after.clock - before.clock < self._interval / 4:
                return
            self._recorder.event("resource", **sample(before, after, self._interval, cores))
            before = after
