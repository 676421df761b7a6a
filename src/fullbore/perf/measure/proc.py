"""What the kernel says of this machine and of a process tree: Linux's /proc and cgroups, read cheaply.

Every function answers with less where a file is missing (another kernel, a locked-down container); none of them raises.
Source: proc(5), Documentation/accounting/psi.rst, Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def read(path: str) -> str:
    """The file's text, or an empty string where it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def allowed_cores() -> frozenset[int]:
    """Numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def core_count() -> int:
    """Cores that this process may use: its affinity, cut by a cgroup's quota (rounded up)."""
    count = len(allowed_cores())
    fields = read("/sys/fs/cgroup/cpu.max").split()
    if len(fields) == 2 and fields[0].isdigit():
        return max(1, min(count, -(-int(fields[0]) // int(fields[1]))))
    return count


def memory_fields() -> dict[str, int]:
    """/proc/meminfo as bytes by name."""
    found = {}
    for line in read("/proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if words and words[0].isdigit():
            found[name] = int(words[0]) * 1024
    return found


def memory_total() -> int:
    """Bytes of memory that this process could ever have: the machine's, cut by the limits of its cgroups."""
    limits = (limit for group in _memory_groups() if (limit := _limit(group)))
    return min(filter(None, (memory_fields().get("MemTotal", 0), *limits)), default=0)


def memory_available() -> int:
    """Bytes that can be had now without swapping, under the limits of its cgroups too; pages of files that nobody has
    used lately can be had."""
    found = [memory_fields().get("MemAvailable", 0)]
    for group in _memory_groups():
        used = read(f"{group}/memory.current").strip() or read(f"{group}/memory.usage_in_bytes").strip()
        if (limit := _limit(group)) and used.isdigit():
            idle = _memory_stat(group, "inactive_file")
            found.append(max(0, limit - max(0, int(used) - idle)))
    return min(found)


def memory_in_reach() -> int:
    """Bytes that this process may come to hold: what it holds of its own now, and what can be had."""
    own = (line.split() for line in read("/proc/self/status").splitlines() if line.startswith("RssAnon:"))
    return memory_available() + sum(int(fields[1]) * 1024 for fields in own)


@dataclass(frozen=True)
class MemoryLimit:
    """What a limit on memory has done to the cgroup of this process, since that was made."""

    limit: int
    """Bytes; 0 if there is none."""
    reclaims: int
    """How often pages had to be found before one could be had."""
    refaulted: int
    """Bytes of files that were read again soon after they had been given up."""
    killed: int
    """Processes that were killed for want of memory."""


def memory_limit() -> MemoryLimit | None:
    """Of the nearest cgroup that has a limit, else of this process's own; none if it has no cgroup."""
    groups = _memory_groups()
    group = next((each for each in groups if _limit(each)), groups[0] if groups else None)
    if group is None:
        return None
    events = dict(line.split() for line in read(f"{group}/memory.events").splitlines())
    reclaims = read(f"{group}/memory.failcnt").strip() or events.get("max", "0")
    control = dict(line.split() for line in read(f"{group}/memory.oom_control").splitlines())
    killed = events.get("oom_kill") or control.get("oom_kill", "0")
    refaulted = _memory_stat(group, "workingset_refault_file") * _PAGE
    return MemoryLimit(_limit(group), int(reclaims), refaulted, int(killed))


def reset_peak_memory() -> None:
    """Forget the process's peak memory (Linux: proc(5), clear_refs) and give free memory back."""
    gc.collect()
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """The most resident bytes of this process since `reset_peak_memory`; 0 where nobody tells. A child inherits what
    getrusage(2) tells of its parent; this it does not."""
    for line in read("/proc/self/status").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _memory_groups() -> list[str]:
    """Folders of the cgroups that count this process's memory, its own first: of version 1 if it has them, else of 2.
    In a container these may all look like the root."""
    for line in read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return _upwards("/sys/fs/cgroup/memory", path)
    found = re.search("^0::(.*)$", read("/proc/self/cgroup"), re.MULTILINE)
    return _upwards("/sys/fs/cgroup", found[1]) if found else []


def _upwards(root: str, path: str) -> list[str]:
    names = [name for name in path.split("/") if name not in ("", "..")]
    return ["/".join([root, *names[:count]]) for count in range(len(names), -1, -1)]


def _limit(group: str) -> int:
    """Bytes; 0 for none."""
    text = read(f"{group}/memory.max").strip() or read(f"{group}/memory.limit_in_bytes").strip()
    return int(text) if text.isdigit() and int(text) < 1 << 60 else 0


def _memory_stat(group: str, name: str) -> int:
    """A figure of a cgroup with its descendants."""
    fields = dict(line.split() for line in read(f"{group}/memory.stat").splitlines())
    return int(fields.get(f"total_{name}", fields.get(name, 0)))


@dataclass(frozen=True)
class MachineTimes:
    """Core-seconds since boot, summed over some cores."""

    busy: float
    iowait: float
    steal: float


def machine_times(cores: Iterable[int]) -> MachineTimes | None:
    """What the given cores have spent; none where the kernel does not tell."""
    wanted = {f"cpu{core}" for core in cores}
    busy = iowait = steal = 0
    seen = False
    for line in read("/proc/stat").splitlines():
        fields = line.split()
        if fields and fields[0] in wanted:
            seen = True
            user, nice, system, _, waiting, irq, softirq, stolen = map(int, fields[1:9])
            busy += user + nice + system + irq + softirq
            iowait += waiting
            steal += stolen
    return MachineTimes(busy / _TICKS, iowait / _TICKS, steal / _TICKS) if seen else None


class Neighbours:
    """What other processes use of the cores that this one may run on, from now on."""

    def __init__(self) -> None:
        self._machine, self._own, self._began = machine_times(allowed_cores()), time.process_time(), time.perf_counter()

    def cores(self) -> float:
        """Cores used on average since then; zero where the kernel does not tell."""
        now, seconds = machine_times(allowed_cores()), time.perf_counter() - self._began
        if now is None or self._machine is None or not seconds:
            return 0.0
        return max(0.0, (now.busy - self._machine.busy - (time.process_time() - self._own)) / seconds)


@dataclass(frozen=True)
class TreeTimes:
    """What a process and its living descendants have used; what ended and was waited for is counted in its parent."""

    cpu: float
    """Core-seconds."""
    system: float
    """Of them, in the kernel."""
    waiting: float | None
    """Thread-seconds ready to run without a core to run on (living threads only); none: this kernel does not tell."""
    major_faults: int
    rss: int
    """Bytes resident; memory that processes share counts once each."""
    read_bytes: int
    write_bytes: int
    processes: int
    stopped: tuple[int, ...]
    """Ids of the processes that a signal or a tracer has stopped."""


class Tree:
    """A process and its descendants; who is whose parent is read once per process, so that asking again is cheap."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._parents: dict[int, int] = {}

    def members(self) -> list[int]:
        """The living processes of the tree, the root first."""
        try:
            living = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        except OSError:
            return []
        self._parents = {pid: self._parents.get(pid) or _parent(pid) for pid in living}
        members = {self._root}
        grown = True
        while grown:
            found = {pid for pid, parent in self._parents.items() if parent in members} - members
            members |= found
            grown = bool(found)
        return sorted(members, key=lambda pid: pid != self._root)

    def times(self) -> TreeTimes | None:
        """Sums over the tree; none where there is no /proc."""
        cpu = system = waiting = faults = rss = read_bytes = write_bytes = processes = 0
        stopped: list[int] = []
        for pid in self.members():
            fields = _stat(pid)
            if len(fields) < 22:
                continue
            processes += 1
            if fields[0] in ("T", "t"):
                stopped.append(pid)
            faults += int(fields[9]) + int(fields[10])
            cpu += sum(map(int, fields[11:15]))
            system += int(fields[12]) + int(fields[14])
            rss += int(fields[21]) * _PAGE
            waiting += _waiting(pid)
            for line in read(f"/proc/{pid}/io").splitlines():
                name, _, value = line.partition(": ")
                if name == "read_bytes":
                    read_bytes += int(value)
                elif name == "write_bytes":
                    write_bytes += int(value)
        if not processes:
            return None
        delayed = waiting / 1e9 if waiting else None
        return TreeTimes(
            cpu / _TICKS, system / _TICKS, delayed, faults, rss, read_bytes, write_bytes, processes, tuple(stopped)
        )


@dataclass(frozen=True)
class ThreadTimes:
    """Seconds since it began."""

    ran: float
    stood_ready: float
    """Without a core to run on."""


def thread_times(thread: int) -> ThreadTimes | None:
    """Of a thread of this process, by its native id; none where the kernel does not tell."""
    fields = read(f"/proc/self/task/{thread}/schedstat").split()
    return ThreadTimes(int(fields[0]) / 1e9, int(fields[1]) / 1e9) if len(fields) == 3 else None


def bytes_from_disk() -> int:
    """Bytes that this process has had to fetch from a disk, by reading or by touching mapped files."""
    found = re.search(r"^read_bytes: (\d+)", read("/proc/self/io"), re.MULTILINE)
    return int(found[1]) if found else 0


def rank(pid: int) -> int | None:
    """The rank that a process was started as, if it is one of a data-parallel run: `RANK` of its environment."""
    found = re.search(r"(?:^|\0)RANK=(\d+)\0", read(f"/proc/{pid}/environ"))
    return int(found[1]) if found else None


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the third (state) on."""
    return read(f"/proc/{pid}/stat").rpartition(")")[2].split()


def _waiting(pid: int) -> int:
    """Nanoseconds on run queues, summed over a process's threads (Documentation/scheduler/sched-stats.rst)."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return 0
    fields = (read(f"/proc/{pid}/task/{thread}/schedstat").split() for thread in threads)
    return sum(int(each[1]) for each in fields if len(each) == 3)


def _parent(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if len(fields) > 1 else 0


def pressure() -> dict[str, float]:
    """Seconds since boot in which some task stalled for `cpu`, `io` and `memory` (PSI), where the kernel has it."""
    stalled = {}
    for resource in ("cpu", "io", "memory"):
        _, found, rest = read(f"/proc/pressure/{resource}").partition("total=")
        if found:
            stalled[resource] = int(rest.split()[0]) / 1e6
    return stalled
