"""Runs that are stopped, killed and starved: nothing is lost, and what is resumed ends with the same bits."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.flow.conftest import TINY, Bench, kill

pytestmark = pytest.mark.slow

LONG = TINY.replace('"30 steps"', '"400 steps"').replace("evaluate_every = 10", "evaluate_every = 100")


def weights(result: dict[str, Any]) -> bytes:
    return Path(result["model"]).parent.joinpath("model", "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, dict[str, Any]]:
    """The run that nobody interrupts, and the caches that the others share with it."""
    bench = Bench(tmp_path_factory.mktemp("whole"))
    return bench, bench.done("run", bench.job(LONG), "--name", "whole")


def kill_and_resume(whole: tuple[Bench, dict[str, Any]], seed: int) -> None:
    """Kill at a random moment from the first step on: training, its checkpoints, compression, the answer. A run that
    was faster than that is not counted."""
    bench, reference = whole
    span = bench.events("whole", "end")[0]["t"] - bench.events("whole", "step")[0]["t"]
    draw = random.Random(seed)
    for attempt in range(5):
        name = f"killed-{seed}-{attempt}"
        process = bench.start("run", bench.job(LONG), "--name", name)
        bench.wait_for_run(process, name, "step")
        time.sleep(draw.random() * span)
        kill(process)
        if bench.done("runs", "show", name)["status"] == "killed":
            break
    bench.done("resume", name)
    result = bench.done("runs", "show", name)
    assert result["status"] == "done"
    assert result["loss"] == reference["loss"]
    assert bench.losses(name) == bench.losses("whole")
    assert weights(result) == weights(reference)
    assert bench.done("inspect", name, "--verify")["verified"]


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_a_random_moment(whole: tuple[Bench, dict[str, Any]], seed: int) -> None:
    kill_and_resume(whole, seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3, 33))
def test_killed_at_many_random_moments(whole: tuple[Bench, dict[str, Any]], seed: int) -> None:
    kill_and_resume(whole, seed)


def test_json_of_an_interrupted_run_is_its_whole_result(whole: tuple[Bench, dict[str, Any]]) -> None:
    bench, _ = whole
    process = bench.start("run", bench.job(LONG), "--name", "told", "--json")
    bench.wait_for_run(process, "told", "step", 5)
    process.send_signal(signal.SIGINT)
    stdout, _ = process.communicate(timeout=60)
    told = json.loads(stdout)
    assert told["status"] == "interrupted" and told["run"] == "told" and told["seconds"] > 0
    assert told["error"]["hint"] == "Resume with: fullbore resume told"
    assert told == bench.result("told")


def test_a_kill_in_a_resumed_session_shows(whole: tuple[Bench, dict[str, Any]]) -> None:
    bench, reference = whole
    process = bench.start("run", bench.job(LONG), "--name", "again")
    bench.wait_for_run(process, "again", "step", 5)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert bench.done("runs", "show", "again")["status"] == "interrupted"
    process = bench.start("resume", "again")
    bench.wait_for_run(process, "again", "session", 2)
    assert bench.done("runs", "show", "again")["status"] == "running"
    kill(process)
    shown = bench.done("runs", "show", "again")
    assert shown["status"] == "killed" and "error" not in shown
    assert bench.done("resume", "again")["loss"] == reference["loss"]


def test_a_resumed_run_tells_of_all_its_steps(whole: tuple[Bench, dict[str, Any]]) -> None:
    """Killed behind its last step: the session that goes on takes none, and the rate is still that of the steps."""
    bench, reference = whole
    process = bench.start("run", bench.job(LONG), "--name", "late")
    bench.wait_for_run(process, "late", "step", reference["steps"])
    kill(process)
    if bench.done("runs", "show", "late")["status"] == "killed":
        bench.done("resume", "late")
    steps = bench.events("late", "step")
    result = bench.result("late")
    assert result["tokens_per_second"] == pytest.approx(
        sum(step["units"] for step in steps) / sum(step["seconds"] for step in steps)
    )
    assert result["mfu"] > 0 and result["predicted"]["train_seconds"]["measured"] > 0


def test_killed_while_preparing(bench: Bench) -> None:
    process = bench.start("run", bench.job(), "--name", "early")
    bench.wait_for_run(process, "early", "stage")
    kill(process)
    assert bench.done("resume", "early")["status"] == "done"
    leftovers = list((bench.folder / "runs").rglob("*.tmp"))
    assert leftovers == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_saves_and_says_how_to_go_on(whole: tuple[Bench, dict[str, Any]], number: int) -> None:
    bench, reference = whole
    name = f"stopped-{number}"
    process = bench.start("run", bench.job(LONG), "--name", name)
    bench.wait_for_run(process, name, "step", 20)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"fullbore resume {name}" in stderr and "Traceback" not in stderr
    shown = bench.done("runs", "show", name)
    assert shown["status"] == "interrupted"
    result = bench.done("resume", name)
    assert result["loss"] == reference["loss"] and bench.losses(name) == bench.losses("whole")


def test_the_second_signal_ends_it_now(whole: tuple[Bench, dict[str, Any]]) -> None:
    bench, reference = whole
    process = bench.start("run", bench.job(LONG), "--name", "twice")
    bench.wait_for_run(process, "twice", "step", 5)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in stderr
    assert bench.done("resume", "twice")["loss"] == reference["loss"]


def test_a_checkpoint_cut_short_is_passed_over_and_said_so(whole: tuple[Bench, dict[str, Any]]) -> None:
    bench, reference = whole
    process = bench.start("run", bench.job(LONG), "--name", "cut")
    bench.wait_for_run(process, "cut", "checkpoint", 3)
    kill(process)
    checkpoints = sorted((bench.folder / "runs" / "cut" / "checkpoints").glob("step-*"))
    largest = max(checkpoints[-1].iterdir(), key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    outcome = bench.run("resume", "cut", "--json")
    assert outcome.code == 0, outcome.stderr
    assert checkpoints[-1].name in outcome.stderr
    assert outcome.answer["loss"] == reference["loss"]


def test_a_flipped_byte_is_named_and_the_shard_made_again(bench: Bench) -> None:
    first = bench.done("run", bench.job(), "--set", "train.budget=2 steps")
    shard = next(Path(first["model"]).parent.joinpath("shards").rglob("*.arrow"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    refused = bench.run("inspect", first["run"], "--verify")
    assert refused.code == 2 and shard.name in refused.stderr and "xxh3" in refused.stderr
    again = bench.run("run", bench.job(), "--set", "train.budget=2 steps", "--json")
    assert again.code == 0 and again.answer["loss"] == first["loss"]
    assert shard.name in again.stderr


def test_a_loss_that_is_not_finite_stops_the_run(bench: Bench) -> None:
    outcome = bench.run("run", bench.job(), "--set", "train.learning_rate=1e30", "--set", "train.clip=1e30", "--json")
    assert outcome.code == 1
    error = outcome.answer["error"]
    assert "loss is" in error["message"] or "norm" in error["message"], error
    assert "learning_rate" in error["hint"]
    assert bench.done("runs", "ls")["runs"][0]["status"] == "failed"


def test_two_processes_train_like_one(bench: Bench) -> None:
    one = bench.done("run", bench.job(), "--name", "one")
    two = bench.done("run", bench.job(), "--name", "two", "--set", "train.world_size=2")
    losses = bench.losses("one"), bench.losses("two")
    assert losses[0].keys() == losses[1].keys()
    for step, loss in losses[0].items():
        assert losses[1][step] == pytest.approx(loss, rel=2e-5), step
    assert two["metrics"]["bits_per_byte"] == pytest.approx(one["metrics"]["bits_per_byte"], rel=1e-4)
    states = two["ledger"]
    assert states["exposed communication"]["seconds"] > 0
    assert (bench.folder / "runs" / "two" / "events.rank1.jsonl").stat().st_size > 0
