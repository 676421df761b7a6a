"""Runs that were killed, moved, starved or given no time, explained by the real program: it says what it knows and what
is missing."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.flow.conftest import TINY, Bench, kill
from tests.flow.faults import remove_group

pytestmark = pytest.mark.slow

TRAINING = TINY.split("[compress]")[0].replace('baselines = ["bigram", "trigram"]\n', "")
LONG = TRAINING.replace('"30 steps"', '"2000 steps"').replace("evaluate_every = 10", "evaluate_every = 500")
OTHER = ("ONEDNN_MAX_CPU_ISA", "AVX2")
"""Makes this machine another: what it is measured by changes with it."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """What is prepared and measured once."""
    bench = Bench(tmp_path_factory.mktemp("explained"))
    bench.done("run", bench.job(TRAINING), "--set", "train.budget=2 steps", "--name", "first")
    return bench


@pytest.mark.parametrize(
    ("kind", "count", "missing"),
    [
        ("session", 1, "it ended before its plan was made"),
        ("condition", 1, "it ended before its plan was made"),
        ("step", 20, "it is not at its end"),
    ],
)
def test_a_run_that_was_killed_is_explained_as_far_as_it_came(
    prepared: Bench, kind: str, count: int, missing: str
) -> None:
    name = f"killed-{kind}"
    process = prepared.start("run", prepared.job(LONG, "long.toml"), "--name", name)
    prepared.wait_for_run(process, name, kind, count)
    kill(process)
    found = prepared.done("explain", name)
    assert found["status"] == "killed" and found["error"] is None
    assert any(missing in note for note in found["notes"]), found["notes"]
    assert found["seconds"] == pytest.approx(sum(item["seconds"] for item in found["ledger"].values()))
    assert found["verdict"]["sentence"] and found["verdict"]["limit"] != "nothing"
    assert (found["steady"] is not None) == (found["predicted"] != {}) == (kind == "step")
    assert any("it was killed: its last session has no events after" in note for note in found["notes"])
    shown = prepared.run("explain", name)
    assert shown.code == 0 and missing in shown.stdout and "Traceback" not in shown.stderr
    assert prepared.run("report", name).code == 0


def test_a_run_that_was_killed_at_once_says_so(prepared: Bench) -> None:
    """Before its first event was written; and with an events file that is torn or empty."""
    process = prepared.start("run", prepared.job(LONG, "long.toml"), "--name", "at-once")
    prepared.wait_for_run(process, "at-once", "session")
    kill(process)
    events = prepared.folder / "runs" / "at-once" / "events.jsonl"
    for content in (b"", b'{"kind": "ledger", "t": 1.0, "begin"', b"\x00" * 4096):
        events.write_bytes(content)
        outcome = prepared.run("explain", "at-once")
        assert outcome.code == 2 and "no events" in outcome.stderr and "resume" in outcome.stderr, outcome.stderr


def test_a_budget_shorter_than_the_start(prepared: Bench) -> None:
    outcome = prepared.run("run", prepared.job(TRAINING), "--set", "train.budget=0.2s", "--name", "hasty", "--json")
    assert outcome.code == 0, outcome.stderr
    result = outcome.answer
    assert result["status"] == "done" and result["steps"] >= 1 and result["loss"] is not None
    warned = [text for text in result["warnings"] if text.startswith("train.budget of ")]
    assert len(warned) == 1 and "it buys" in warned[0] and warned[0] in outcome.stderr
    assert result["verdict"]["limit"] in ("start-up", "planning"), result["verdict"]
    assert "Starting" in result["verdict"]["sentence"] or "Planning" in result["verdict"]["sentence"]


def test_a_machine_that_changed_between_doctor_and_run(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    before = bench.done("doctor", "--brief")["machine"]["fingerprint"]
    monkeypatch.setenv(*OTHER)
    outcome = bench.run("run", bench.job(TRAINING), "--set", "train.budget=2 steps", "--name", "moved", "--json")
    assert outcome.code == 0, outcome.stderr
    ceilings = json.loads((bench.folder / "runs" / "moved" / "ceilings.json").read_text())
    assert ceilings["fingerprint"] != before, "the other machine's were not taken for this one's"
    assert f"is not the one that was measured before ({before}): it is measured now" in outcome.stderr


def test_a_machine_that_changed_before_resume_and_before_explain(
    prepared: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = prepared.start(
        "run", prepared.job(LONG, "long.toml"), "--set", "train.budget=300 steps", "--name", "away"
    )
    prepared.wait_for_run(process, "away", "checkpoint", 2)
    kill(process)
    plan = (prepared.folder / "runs" / "away" / "plan.json").read_bytes()
    monkeypatch.setenv(*OTHER)
    said = "another machine than"
    found = prepared.done("explain", "away")
    assert any(note.startswith(f"it ran on {said} this one") for note in found["notes"]), found["notes"]
    outcome = prepared.run("resume", "away", "--json")
    assert outcome.code == 0, outcome.stderr
    assert any(text.startswith(f"this is {said} the run began on") for text in outcome.answer["warnings"])
    assert (prepared.folder / "runs" / "away" / "plan.json").read_bytes() == plan, "frozen"
    notes = prepared.done("explain", "away")["notes"]
    assert any("it was resumed on another machine" in note for note in notes), notes
    monkeypatch.undo()
    assert not any(said in note for note in prepared.done("explain", "first")["notes"])


def little_memory() -> None:
    """2.5 GB of addresses: the libraries take most of them."""
    resource.setrlimit(resource.RLIMIT_AS, (2_500_000_000, 2_500_000_000))


LARGE = TRAINING.replace("width = 32", "width = 256").replace("sequence_length = 32", "sequence_length = 512")
LARGE = LARGE.replace("global_batch_size = 8", "global_batch_size = 64")


def test_out_of_memory_is_no_fault_of_the_program(bench: Bench) -> None:
    """In a trial of the plan or in a step: whoever asks for too much is told so, and what to change."""
    outcome = bench.run(
        "run", bench.job(LARGE), "--set", "train.micro_batch_size=64", "--set", "train.budget=2 steps",
        "--name", "starved", preexec_fn=little_memory,
    )  # fmt: skip
    assert outcome.code in (1, 3), outcome.stderr
    assert "memory" in outcome.stderr and "train.micro_batch_size" in outcome.stderr, outcome.stderr
    assert "Traceback" not in outcome.stderr and "fault of fullbore" not in outcome.stderr
    assert bench.done("explain", "starved")["status"] == "failed"


HOG = "held = bytearray(300_000_000)\nheld[::4096] = b'1' * len(held[::4096])"


@pytest.mark.skipif(not os.access("/sys/fs/cgroup/memory/tasks", os.W_OK), reason="needs cgroups of version 1, as root")
def test_a_run_killed_for_want_of_memory_says_so(prepared: Bench) -> None:
    """A limit leaves it 8 MB, and a neighbour in its cgroup wants more: the kernel kills the larger of the two."""
    group, name = Path(f"/sys/fs/cgroup/memory/fullbore-killed-{os.getpid()}"), "choked"
    group.mkdir()

    def enter() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    process = prepared.start("run", prepared.job(LONG, "long.toml"), "--name", name, preexec_fn=enter)
    started: list[subprocess.Popen[Any]] = [process]
    try:
        prepared.wait_for_run(process, name, "step", 20)
        own = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())["total_rss"]
        (group / "memory.limit_in_bytes").write_text(str(int(own) + 8_000_000))
        while process.poll() is None and not any("memory_limit" in e for e in prepared.events(name, "resource")[-1:]):
            time.sleep(0.1)
        started.append(subprocess.Popen([sys.executable, "-S", "-c", HOG], preexec_fn=enter))
        process.communicate(timeout=120)
    finally:
        for each in started:
            each.kill()
            each.communicate()
        remove_group(group)
    assert process.returncode == -signal.SIGKILL
    found = prepared.done("explain", name)
    assert found["status"] == "killed"
    assert any("were left of the limit of" in note and "memory" in note for note in found["notes"]), found["notes"]
