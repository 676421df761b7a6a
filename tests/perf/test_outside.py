"""Slowness that comes from outside a real program, caused for real and measured by its own records."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fullbore.perf.plan.facts import Facts, gather
from fullbore.perf.plan.verdict import verdict
from fullbore.record import read
from fullbore.spec.plan import Plan

pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name("worker.py")
NEIGHBOUR = "import time\nwhile time.process_time() < 60: pass"
PLAN = Plan(
    world_size=1, global_batch_size=1, micro_batch_size=1, accumulation=1, steps=1, precision="fp32",
    compile=False, threads=2, evaluate_every=1, checkpoint_every=1, warmup_steps=0,
)  # fmt: skip


@contextmanager
def worker(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """The program, past its imports."""
    process = subprocess.Popen([sys.executable, str(WORKER), *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


def facts_of(events: Path, **more: object) -> Facts:
    found = list(read.events(events))
    assert any(event["kind"] == "resource" for event in found)
    return gather(read.ledger(events), found, PLAN, **more)  # type: ignore[arg-type]


def test_a_stopped_process_is_named(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    with worker("train", events, 1.0) as process:
        time.sleep(0.4)
        process.send_signal(signal.SIGSTOP)
        time.sleep(4)
        process.send_signal(signal.SIGCONT)
    found = verdict(facts_of(events))
    assert found.limit == "a stopped process", found
    assert found.share > 0.3
    assert "used no CPU" in found.evidence[0]


def test_a_neighbour_on_our_cores_is_named(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    cores = os.sched_getaffinity(0)
    neighbours = [subprocess.Popen([sys.executable, "-c", NEIGHBOUR]) for _ in cores]
    try:
        for core, neighbour in zip(cores, neighbours, strict=True):
            os.sched_setaffinity(neighbour.pid, {core})
        with worker("train", events, 1.5):
            pass
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()
    facts = facts_of(events)
    found = verdict(facts)
    assert found.limit == "a neighbour", found
    assert found.evidence[0].startswith("other processes used ")
    assert found.advice[0].set == "" and found.advice[0].predicted_gain


def test_a_slow_source_is_named(tmp_path: Path) -> None:
    events, pipe = tmp_path / "events.jsonl", tmp_path / "pipe"
    os.mkfifo(pipe)
    with worker("read", events, pipe), open(pipe, "wb", buffering=0) as file:
        for _ in range(20):
            file.write(bytes(1000))
            time.sleep(0.1)
    found = verdict(facts_of(events, source="pipe://slow"))
    assert found.limit == "a slow source", found
    assert "pipe://slow" in found.sentence and "cores" in found.evidence[0]


def test_a_slow_target_of_checkpoints_is_named(tmp_path: Path) -> None:
    events, pipe = tmp_path / "events.jsonl", tmp_path / "pipe"
    os.mkfifo(pipe)
    with worker("save", events, pipe), open(pipe, "rb", buffering=0) as file:
        while file.read(1 << 16):
            time.sleep(0.06)
    found = verdict(facts_of(events))
    assert found.limit == "a slow disk", found
    assert "checkpoint" in found.sentence
