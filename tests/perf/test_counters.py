from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fullbore.perf.measure import proc
from fullbore.perf.measure.counters import Beat, Counters, Stops, reading, sample
from fullbore.record.read import events
from fullbore.record.sink import Sink
from fullbore.record.span import Recorder, exec_time

SPIN = "import time\nwhile time.process_time() < 30: pass"
DETACHED = (
    "import subprocess, sys\n"
    "spin = [sys.executable, '-c', sys.argv[1]]\n"
    "print(subprocess.Popen(spin, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)"
)


@contextmanager
def child(code: str) -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


@contextmanager
def stranger() -> Iterator[int]:
    """A busy process that is not of our tree: its parent has left, so that init has it."""
    out = subprocess.run([sys.executable, "-c", DETACHED, SPIN], capture_output=True, check=True, text=True, timeout=20)
    pid = int(out.stdout)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)


def measured(seconds: float = 1.0) -> dict[str, float]:
    tree = proc.Tree(os.getpid())
    before = reading(tree)
    time.sleep(seconds)
    return sample(before, reading(tree), seconds, proc.core_count())


def test_children_are_ours_and_strangers_are_not() -> None:
    with child(SPIN) as pid:
        assert pid in proc.Tree(os.getpid()).members()
        ours = measured()
    with stranger() as pid:
        assert pid not in proc.Tree(os.getpid()).members()
        theirs = measured()
    assert ours["cpu_self"] > 5 * theirs["cpu_self"]
    assert theirs["cpu_others"] > 0.2
    assert theirs["cpu_available"] <= max(0.0, theirs["cores"] - theirs["cpu_others"]) + 1e-9


def test_what_a_child_used_stays_counted_when_it_has_ended() -> None:
    tree = proc.Tree(os.getpid())
    before = tree.times()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.4: pass"], check=True)
    after = tree.times()
    assert before and after and after.cpu - before.cpu >= 0.35


def test_a_stopped_child_is_seen() -> None:
    with child("import time; time.sleep(60)") as pid:
        os.kill(pid, signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)
        found = measured(0.05)
        os.kill(pid, signal.SIGCONT)
    assert (found["stopped"], found["stopped_ranks"]) == (1, [])


def test_a_stopped_rank_is_known_by_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "7")
    monkeypatch.setenv("RANK", "3")
    with child("import time; time.sleep(60)") as pid:
        os.kill(pid, signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)
        found = measured(0.05)
        os.kill(pid, signal.SIGCONT)
    assert found["stopped_ranks"] == [3]


def test_written_and_read_bytes_of_the_disk(tmp_path: Path) -> None:
    tree = proc.Tree(os.getpid())
    before = tree.times()
    with open(tmp_path / "file", "wb") as file:
        file.write(os.urandom(2**20))
        os.fsync(file.fileno())
    after = tree.times()
    assert before and after
    assert after.write_bytes - before.write_bytes >= 2**20 or after.write_bytes == 0


def test_samples_are_events_and_the_thread_ends(tmp_path: Path) -> None:
    recorder = Recorder(Sink(tmp_path / "events.jsonl"))
    with Counters(recorder, interval=0.1):
        time.sleep(0.55)
    recorder.close()
    found = list(events(tmp_path / "events.jsonl", "resource"))
    assert 3 <= len(found) <= 6
    assert all(event["cores"] >= 1 and event["rss"] > 2**20 and event["seconds"] > 0 for event in found)
    assert all(0 <= share <= 1 for event in found for share in event.get("pressure", {}).values())
    assert "fullbore-counters" not in [thread.name for thread in threading.enumerate()]


def test_a_machine_without_proc_gives_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "read", lambda path: "")
    found = measured(0.01)
    assert set(found) == {"seconds", "late", "cores"}
    assert proc.core_count() >= 1 and proc.memory_available() == 0


def beat(clock: float, *, ran: float = 0.0, ready: float = 0.0, cpu: float = 0.0, **disk: float) -> Beat:
    values = {"from_disk": 0, "stalled": 0.0, "continued": 0, **disk}
    read, continued = int(values["from_disk"]), int(values["continued"])
    return Beat(clock, proc.ThreadTimes(ran, ready), cpu, read, values["stalled"], continued)


def stopped(*beats: Beat, listens: bool = True) -> float:
    counted = Stops(beat(0.0), 2, listens)
    return sum(counted.add(each) for each in beats)


def test_only_what_neither_ran_nor_stood_ready_was_stopped() -> None:
    assert stopped(beat(0.12)) == 0, "in time"
    assert stopped(beat(4.1)) == pytest.approx(4)
    assert stopped(beat(4.1, ran=0.1, cpu=0.2)) == pytest.approx(4), "both threads ran until it was stopped"
    assert stopped(beat(4.1, ran=0.3, ready=3.8)) == 0, "without a core"
    assert stopped(beat(4.1, cpu=4.0)) == pytest.approx(0.2, abs=0.21), "another thread kept the interpreter"
    assert stopped(beat(4.1, stalled=3.9)) == pytest.approx(4), "others waited for the disk"


def test_what_may_have_waited_for_a_disk_was_stopped_if_it_was_told_to_continue() -> None:
    much = {"from_disk": 10**8, "stalled": 0.5}
    assert stopped(beat(4.1, **much)) == 0
    assert stopped(beat(4.1, **much, continued=1)) == pytest.approx(3.5)
    assert stopped(beat(4.1, **much), beat(4.2, **much, continued=1)) == pytest.approx(3.5), "heard a little later"
    assert stopped(beat(4.1, **much), beat(4.2, **much), beat(9.9, **much, continued=1)) == pytest.approx(5.6)
    assert stopped(beat(4.1, from_disk=4096)) == pytest.approx(4), "a page is nothing to wait for"


def test_a_stop_is_timed_though_others_keep_the_disk_busy(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom fullbore.record.sink import Sink\n"
        "from fullbore.record.span import Recorder, exec_time\nfrom fullbore.perf.measure.counters import Counters\n"
        "recorder = Recorder(Sink(Path(sys.argv[1])))\n"
        "with Counters(recorder):\n    print('ready', flush=True)\n    sys.stdin.read()\nrecorder.close()\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "events.jsonl")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    while time.monotonic() - began < 1.5:
        with open(tmp_path / "file", "wb") as file:
            file.write(os.urandom(2**20))
            os.fsync(file.fileno())
    process.send_signal(signal.SIGCONT)
    stopped = time.monotonic() - began
    process.communicate("", timeout=20)
    seen = sum(event["held"] for event in events(tmp_path / "events.jsonl", "resource"))
    assert stopped - 0.3 <= seen <= stopped + 0.3


def test_samples_from_before_there_was_a_place_for_them(tmp_path: Path) -> None:
    with Counters(interval=0.1) as counters:
        time.sleep(0.25)
        recorder = Recorder(Sink(tmp_path / "events.jsonl"))
        counters.attach(recorder)
        counters.settle()
    recorder.close()
    found = list(events(tmp_path / "events.jsonl"))
    assert [event["kind"] for event in found].count("energy") == 1
    assert [event["kind"] for event in found].count("resource") >= 2
    samples = [event for event in found if event["kind"] == "resource"]
    ends = [event["t"] for event in samples]
    assert ends == sorted(ends) and sum(event["seconds"] for event in samples[1:]) > 0.2
    assert samples[0]["seconds"] == pytest.approx(samples[0]["t"] - exec_time(), abs=0.1)
    assert recorder.ledger().busy["recording"] > 0


STARTED = """
import json, os, threading
from fullbore.perf.measure.counters import since_exec
print(json.dumps(since_exec(threading.get_native_id(), 2)))
"""


def test_a_stop_before_the_first_sample_is_seen() -> None:
    process = subprocess.Popen([sys.executable, "-c", STARTED], stdout=subprocess.PIPE, text=True)
    process.send_signal(signal.SIGSTOP)
    time.sleep(1.5)
    process.send_signal(signal.SIGCONT)
    found = json.loads(process.communicate(timeout=20)[0])
    assert 1.2 <= found["held"] <= found["seconds"] or found["read_bytes_per_second"] * found["seconds"] > 2**20


def test_a_cgroups_limit_counts_wherever_the_process_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/meminfo": "MemTotal: 4000000 kB\nMemAvailable: 3000000 kB\n",
        "/proc/self/cgroup": "5:memory,hugetlb:/a/b\n0::/x/y\n",
        "/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": "9223372036854771712",
        "/sys/fs/cgroup/memory/a/memory.limit_in_bytes": "1000000000",
        "/sys/fs/cgroup/memory/a/memory.usage_in_bytes": "700000000",
        "/sys/fs/cgroup/memory/a/memory.stat": "total_inactive_file 100000000\ntotal_workingset_refault_file 3\n",
        "/sys/fs/cgroup/memory/a/memory.failcnt": "12",
        "/sys/fs/cgroup/memory/a/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2",
    }
    monkeypatch.setattr(proc, "read", lambda path: files.get(path, ""))
    page = os.sysconf("SC_PAGE_SIZE")
    assert proc.memory_total() == 10**9 and proc.memory_available() == 4 * 10**8
    files["/proc/self/status"] = "VmRSS:\t  300000 kB\nRssAnon:\t  200000 kB\nRssFile:\t 100000 kB\n"
    assert proc.memory_in_reach() == 4 * 10**8 + 200_000 * 1024, "what it holds already is its own"
    assert proc.memory_limit() == proc.MemoryLimit(10**9, 12, 3 * page, 2)
    second = {
        **{"/proc/meminfo": files["/proc/meminfo"], "/proc/self/cgroup": "0::/x/y\n"},
        "/sys/fs/cgroup/x/y/memory.max": "500000000",
        "/sys/fs/cgroup/x/y/memory.current": "450000000",
        "/sys/fs/cgroup/x/y/memory.stat": "inactive_file 0\nworkingset_refault_file 5\n",
        "/sys/fs/cgroup/x/y/memory.events": "low 0\nhigh 1\nmax 7\noom 1\noom_kill 1\n",
    }
    monkeypatch.setattr(proc, "read", lambda path: second.get(path, ""))
    assert proc.memory_available() == 5 * 10**7
    assert proc.memory_limit() == proc.MemoryLimit(5 * 10**8, 7, 5 * page, 1)
