"""Faults from outside a real run, of random size and at random moments, and what each cost by the injector's own clock.

Nothing here asks the program: the stopped time and the withheld lines are timed by who stops and withholds; what cannot
be timed so (neighbours, a disk, a cold cache, a limit on memory) is the time from exec to exit beyond that of the same
job left alone, less what the other fault cost. Disks and memory are limited by cgroups of version 1, as root.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import fullbore
from tests.flow.conftest import TINY, Bench

SOURCE, NEIGHBOURS, STOPPED, RANK = "slow source", "neighbours", "stopped", "stopped rank"
DISK, MEMORY, COLD = "throttled disk", "memory limit", "cold cache"
KINDS = (SOURCE, NEIGHBOURS, STOPPED, RANK, DISK, MEMORY, COLD)
TIMED = (SOURCE, STOPPED, RANK)
"""What the injector times itself."""
NAMES = {
    SOURCE: {"a slow source"},
    NEIGHBOURS: {"a neighbour"},
    STOPPED: {"a stopped process"},
    RANK: {"a slow rank", "a stopped process"},
    DISK: {"a slow disk"},
    MEMORY: {"a memory limit"},
    COLD: {"a cold cache"},
}
"""What a verdict may call each."""

LINES = 60
_GROUPS = Path("/sys/fs/cgroup")
_SPIN = "while True: pass"


@dataclass(frozen=True)
class Fault:
    kind: str
    seconds: float = 0.0
    """That lines are withheld, a process is stopped, or neighbours stay."""
    at: float = 0.0
    """Seconds after exec when it begins; of a rank: after it began; of a limit on memory: after the run had its plan,
    which heeds limits."""
    processes: int = 0
    rate: int = 0
    """Bytes/s of the disk."""
    room: int = 0
    """Bytes that a limit on memory leaves for files, beside what the processes hold of their own."""


def draw(seed: int) -> tuple[Fault, ...]:
    """One fault or two."""
    chance = random.Random(seed)
    kinds = chance.sample(KINDS, chance.choice((1, 2)))
    if STOPPED in kinds and RANK in kinds:
        kinds.remove(RANK)
    return tuple(_draw(kind, chance) for kind in kinds)


def _draw(kind: str, chance: random.Random) -> Fault:
    match kind:
        case "slow source":
            return Fault(kind, seconds=chance.uniform(1.5, 6))
        case "stopped" | "stopped rank":
            return Fault(kind, seconds=chance.uniform(1.5, 6), at=chance.uniform(0.3, 4.5))
        case "neighbours":
            return Fault(
                kind, seconds=chance.uniform(5, 10), at=chance.uniform(0, 2), processes=chance.choice((2, 3, 4))
            )
        case "throttled disk":
            return Fault(kind, rate=int(chance.uniform(3e6, 12e6)))
        case "memory limit":
            room = int(chance.uniform(5e6, 40e6))
            return Fault(kind, seconds=chance.uniform(3, 8), at=chance.uniform(0.2, 1.5), room=room)
        case _:
            return Fault(kind, rate=int(chance.uniform(40e6, 150e6)))


@dataclass
class Observed:
    """A run, as it looks from outside. Seconds."""

    run: str
    code: int
    wall: float
    """From before exec to after exit."""
    background: float
    """Cores that neither the run, nor its injected neighbours, nor the test used."""
    spans: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """When lines were withheld and processes stopped."""
    error: str = ""


def apart(one: list[tuple[float, float]], other: list[tuple[float, float]]) -> float:
    """Seconds of `one` that lie outside `other`."""
    shared = sum(max(0.0, min(b, d) - max(a, c)) for a, b in one for c, d in other)
    return total(one) - shared


def total(spans: list[tuple[float, float]]) -> float:
    return sum(end - begin for begin, end in spans)


class Lab:
    """A bench whose jobs read a pipe, so that each prepares its data anew; what is measured of the host is kept."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        training = TINY.split("[compress]")[0].replace('baselines = ["bigram", "trigram"]\n', "")
        for old, new in (
            ('source = "python://stdlib"', 'source = "lines.jsonl"'),
            ('format = "text"', 'format = "jsonl"'),
            ('include = ["json/*.py", "email/*.py", "http/*.py"]\n', ""),
            ('"30 steps"', '"300 steps"'),
        ):
            assert old in training
            training = training.replace(old, new)
        self.job = bench.job(training)
        self.pipe = bench.folder / "lines.jsonl"
        if not self.pipe.exists():
            os.mkfifo(self.pipe)
        self._lines = _lines()
        self._base: dict[int, list[float]] = {}
        self._cold: dict[int, float] = {}

    def base(self, ranks: int) -> list[float]:
        """Seconds of runs that nobody disturbs, the first (which measures the host) left out."""
        if ranks not in self._base:
            runs = [self.observe((), ranks) for _ in range(5)][1:]
            calm = sorted(runs, key=lambda run: run.background)[:3]
            self._base[ranks] = [run.wall for run in calm]
        return self._base[ranks]

    def cold(self, ranks: int) -> float:
        """Seconds that a run loses to what `evict` takes from it, at the disk's own pace: a limit on memory needs that
        done, so that its cgroup pays for the pages."""
        if ranks not in self._cold:
            runs = [self.observe((Fault(COLD, rate=10**10),), ranks).wall for _ in range(3)]
            self._cold[ranks] = statistics.median(runs) - statistics.median(self.base(ranks))
        return self._cold[ranks]

    def observe(self, faults: tuple[Fault, ...], ranks: int = 1) -> Observed:
        """Run the job with these faults from outside."""
        given = {fault.kind: fault for fault in faults}
        with ExitStack() as stack:
            enter = stack.enter_context(_limits(given)) if {DISK, MEMORY, COLD} & given.keys() else None
            arguments = ["run", str(self.job), "--json", "--set", f"train.world_size={ranks}"]
            out, err = (stack.enter_context(open(self.bench.folder / name, "w+")) for name in ("out", "err"))
            spans: dict[str, list[tuple[float, float]]] = {kind: [] for kind in given}
            relay = threading.Thread(target=self._relay, args=(given.get(SOURCE), spans), daemon=True)
            relay.start()
            busy, own, began = _busy(), time.process_time(), time.perf_counter()
            process = subprocess.Popen(
                [str(Path(sys.executable).with_name("fullbore")), *arguments],
                cwd=self.bench.folder, env=self.bench.environment, stdout=out, stderr=err, preexec_fn=enter,
            )  # fmt: skip
            hungry: list[float] = []
            injectors = [
                threading.Thread(target=_neighbours, args=(given[NEIGHBOURS], process.pid, hungry))
                for _ in range(NEIGHBOURS in given)
            ]
            if MEMORY in given:
                injectors.append(threading.Thread(target=self._tighten, args=(given[MEMORY], process.pid)))
            for kind in {STOPPED, RANK} & given.keys():
                injectors.append(threading.Thread(target=_stop, args=(given[kind], process.pid, spans[kind])))
            for thread in injectors:
                thread.start()
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - began
            process.returncode = os.waitstatus_to_exitcode(status)
            for thread in injectors:
                thread.join()
            used = usage.ru_utime + usage.ru_stime + sum(hungry) + time.process_time() - own
            background = max(0.0, _busy() - busy - used) / wall
            out.seek(0)
            err.seek(0)
            told, error = out.read().splitlines(), err.read()
        name = json.loads(told[-1]).get("run", "") if told else ""
        return Observed(name, process.returncode, wall, background, spans, error[-500:] if process.returncode else "")

    def _relay(self, fault: Fault | None, spans: dict[str, list[tuple[float, float]]]) -> None:
        """Write the lines, those of a slow source one after the other."""
        try:
            with open(self.pipe, "wb", buffering=0) as file:
                for line in self._lines:
                    file.write(line)
                    if fault is not None:
                        began = time.perf_counter()
                        time.sleep(fault.seconds / len(self._lines))
                        spans[SOURCE].append((began, time.perf_counter()))
        except BrokenPipeError:
            pass

    def _tighten(self, fault: Fault, pid: int) -> None:
        """Limit a run's memory for a while to what it holds of its own and a little more."""
        group, before = _group("memory"), set(self._plans())
        while _running(pid) and not set(self._plans()) - before:
            time.sleep(0.02)
        time.sleep(fault.at)
        ended = time.perf_counter() + fault.seconds
        for more in range(0, 100_000_000, 5_000_000):
            if _running(pid) and _limited(group, fault.room + more):
                break
        while time.perf_counter() < ended and _running(pid):
            time.sleep(0.02)
        (group / "memory.limit_in_bytes").write_text("-1")

    def _plans(self) -> list[Path]:
        return list((self.bench.folder / "runs").glob("*/plan.json"))


def _limited(group: Path, room: int) -> bool:
    """Whether the kernel could take enough pages at once."""
    own = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())["total_rss"]
    try:
        (group / "memory.limit_in_bytes").write_text(str(int(own) + room))
    except OSError:
        return False
    return True


def _lines() -> list[bytes]:
    """Of the standard library's own source."""
    files = sorted(Path(sysconfig.get_path("stdlib"), "email").glob("*.py"))
    text = "".join(path.read_text() for path in files)
    size = len(text) // LINES
    return [json.dumps({"text": text[at * size : (at + 1) * size]}).encode() + b"\n" for at in range(LINES)]


def _busy() -> float:
    """Core-seconds that the machine has used (proc(5))."""
    fields = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def _neighbours(fault: Fault, pid: int, used: list[float]) -> None:
    """Programs that want a core each, until they have been there long enough or the run is over."""
    time.sleep(fault.at)
    hungry = [subprocess.Popen([sys.executable, "-S", "-c", _SPIN]) for _ in range(fault.processes)]
    ended = time.perf_counter() + fault.seconds
    while time.perf_counter() < ended and _running(pid):
        time.sleep(0.02)
    for each in hungry:
        each.kill()
        usage = os.wait4(each.pid, 0)[2]
        each.returncode = -signal.SIGKILL
        used.append(usage.ru_utime + usage.ru_stime)


def _running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _stop(fault: Fault, pid: int, spans: list[tuple[float, float]]) -> None:
    if fault.kind == RANK:
        while (found := rank_process(pid, 1)) is None and _running(pid):
            time.sleep(0.02)
        pid = found or pid
    time.sleep(fault.at)
    if not _running(pid):
        return
    began = time.perf_counter()
    os.kill(pid, signal.SIGSTOP)
    time.sleep(fault.seconds)
    os.kill(pid, signal.SIGCONT)
    spans.append((began, time.perf_counter()))


def rank_process(parent: int, rank: int) -> int | None:
    """The process of a rank, found as anybody can: by its parent and its environment."""
    for entry in Path("/proc").iterdir():
        try:
            ours = entry.name.isdigit() and f"PPid:\t{parent}\n" in (entry / "status").read_text()
            if ours and f"RANK={rank}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                return int(entry.name)
        except OSError:
            continue
    return None


@contextmanager
def _limits(faults: dict[str, Fault]) -> Iterator[Callable[[], None]]:
    """Cgroups with the faults' limits; yields what a child calls to enter them."""
    disk, memory = _group("blkio"), _group("memory")
    device = Path(fullbore.__file__).stat().st_dev
    for group in (disk, memory):
        group.mkdir(exist_ok=True)
    try:
        rates = {"read": faults.get(COLD), "write": faults.get(DISK)}
        for way, fault in rates.items():
            if fault is not None:
                line = f"{os.major(device)}:{os.minor(device)} {fault.rate}"
                (disk / f"blkio.throttle.{way}_bps_device").write_text(line)
        if {COLD, MEMORY} & faults.keys():
            evict()

        def enter() -> None:
            for group in (disk, memory):
                (group / "cgroup.procs").write_text(str(os.getpid()))

        yield enter
    finally:
        for group in (disk, memory):
            remove_group(group)


def remove_group(group: Path) -> None:
    """The kernel keeps a group for a moment after its last process has ended."""
    for _ in range(100):
        try:
            return group.rmdir()
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"{group} has processes still")


def _group(controller: str) -> Path:
    return _GROUPS / controller / f"fullbore-{os.getpid()}"


def evict() -> None:
    """Take the programs and libraries of this environment out of the page cache, as far as nobody has them mapped. A
    limited cgroup pays for the pages that it brings in itself."""
    for root in {sysconfig.get_path("platlib"), sysconfig.get_path("stdlib"), str(Path(fullbore.__file__).parent)}:
        for folder, _, names in os.walk(root):
            for name in names:
                try:
                    descriptor = os.open(Path(folder, name), os.O_RDONLY)
                except OSError:
                    continue
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)


def costs(
    faults: tuple[Fault, ...],
    seen: Observed,
    base: list[float],
    alone: Callable[[Fault], Observed],
    cold: Callable[[], float],
) -> dict[str, tuple[float, float]]:
    """Seconds that each fault cost, at least and at most.

    `alone`: the run with one of them only, asked for if neither is timed: what a fault costs alone and what it adds to
    the other differ where they meet. `cold`: what a limit on memory costs by what is evicted before it, which is a
    fault of its own.
    """
    kinds = [fault.kind for fault in faults]
    timed = {kind: seen.spans[kind] for kind in kinds if kind in TIMED}
    extra = seen.wall - statistics.median(base)
    found: dict[str, tuple[float, float]] = {}
    for kind, spans in timed.items():
        others = [span for other, theirs in timed.items() if other != kind for span in theirs]
        found[kind] = (apart(spans, others), total(spans))
    rest = [fault for fault in faults if fault.kind not in TIMED]
    if len(rest) == 1:
        left = extra - sum(low for low, _ in found.values())
        found[rest[0].kind] = (left, left)
    elif rest:
        one, two = (alone(fault).wall - statistics.median(base) for fault in rest)
        found |= {rest[0].kind: _between(one, extra - two), rest[1].kind: _between(two, extra - one)}
    if MEMORY in kinds and COLD not in kinds:
        side, (low, high) = cold(), found[MEMORY]
        found |= {MEMORY: (low - side, high - side), COLD: (side, side)}
    return found


def _between(one: float, other: float) -> tuple[float, float]:
    return min(one, other), max(one, other)


def row(seed: int, faults: tuple[Fault, ...], seen: Observed, cost: dict[str, tuple[float, float]]) -> dict[str, Any]:
    """What is kept of a run."""
    applied = [{key: value for key, value in asdict(fault).items() if value} for fault in faults]
    shown = {kind: [round(low, 2), round(high, 2)] for kind, (low, high) in cost.items()}
    return {"seed": seed, "faults": applied, "cost": shown, "wall": round(seen.wall, 2),
            "background": round(seen.background, 2), "run": seen.run}  # fmt: skip
