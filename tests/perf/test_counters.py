from __future__ import annotations

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
from fullbore.perf.measure.counters import Counters, reading, sample
from fullbore.record.read import events
from fullbore.record.sink import Sink
from fullbore.record.span import Recorder

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
