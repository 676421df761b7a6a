"""Two local data-parallel processes: the losses of one, what they tell each other, exact resumption."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import small_training as small
from safetensors.torch import load_file

from fullbore.base.errors import RunFailed
from fullbore.engine.local import launch
from fullbore.record.span import Recorder
from fullbore.train.loop import run

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


def _launch(folder: Path, world_size: int = 2, **options: Any) -> None:
    folder.mkdir(exist_ok=True)
    plan = {**options.pop("plan", {}), "world_size": world_size}
    arguments = [str(folder), json.dumps({**options, "plan": plan})]
    launch("training_worker", arguments, world_size, environment={"PYTHONPATH": str(HERE)})


def _events(folder: Path, kind: str, rank: int = 0) -> list[dict[str, Any]]:
    lines = (folder / f"events.{rank}.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["kind"] == kind]


def _losses(events: list[dict[str, Any]]) -> list[float]:
    return [event["loss"] for event in events]


def _seconds(folder: Path, state: str, rank: int) -> float:
    return sum(event["seconds"].get(state, 0.0) for event in _events(folder, "ledger", rank))


def test_two_ranks_have_the_losses_of_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A batch of 9 in micro-batches of 2: rank 0 has three of them, rank 1 two; one parameter is never used."""
    plan: dict[str, Any] = {"global_batch_size": 9, "micro_batch_size": 2}
    kept = small.Kept()
    build = partial(small.network, unused=True)
    alone = run(small.setup(tmp_path / "one", small.plan(**plan), build=build, recorder=Recorder(kept)))
    _launch(tmp_path / "two", plan=plan, network={"unused": True})
    assert capfd.readouterr().err == ""
    steps = _events(tmp_path / "two", "step")
    assert _losses(steps) == pytest.approx(_losses(kept.of("step")), rel=1e-5)
    assert _losses(steps) == _losses(_events(tmp_path / "two", "step", rank=1))
    assert {event["samples"] for event in steps} == {9}
    assert steps[0]["gradient_norm"] == pytest.approx(kept.of("step")[0]["gradient_norm"], rel=1e-5)
    metrics = [{key: event[key] for key in ("step", "loss", "accuracy")} for event in kept.of("metric")]
    for mine, expected in zip(_events(tmp_path / "two", "metric"), metrics, strict=True):
        assert {key: mine[key] for key in expected} == pytest.approx(expected, rel=1e-5)
    weights = [load_file(tmp_path / "two" / f"weights.{rank}.safetensors") for rank in (0, 1)]
    assert small.same(*weights)
    for name, tensor in alone.module.state_dict().items():
        small.torch.testing.assert_close(weights[0][name], tensor, rtol=1e-4, atol=1e-5)
    for rank in (0, 1):
        assert _seconds(tmp_path / "two", "exposed communication", rank) > 0


def test_killed_rank_ends_the_run_and_resuming_is_bit_equal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"network": {"norm": True, "dropout": 0.2}, "plan": {"steps": 30}}
    _launch(tmp_path / "whole", **options)
    assert capfd.readouterr().err == ""
    folder = tmp_path / "killed"

    def kill_one() -> None:
        while not list((folder / "checkpoints").glob("step-*")):
            time.sleep(0.005)
        for process in Path("/proc").glob("[0-9]*"):
            try:
                environment = (process / "environ").read_bytes().split(b"\0")
                command = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if str(folder).encode() in command and b"RANK=1" in environment:
                os.kill(int(process.name), signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(RunFailed, match="rank 1 was killed by SIGKILL"):
        _launch(folder, **options, pause=0.05)
    killer.join()
    _launch(folder, **options, resume=True)
    for rank in (0, 1):
        one, two = (load_file(tmp_path / name / f"weights.{rank}.safetensors") for name in ("whole", "killed"))
        assert small.same(one, two)
    results = [json.loads((tmp_path / name / "result.0.json").read_text()) for name in ("whole", "killed")]
    assert results[0] == results[1]


def test_waiting_for_a_slow_rank_is_its_own_state(tmp_path: Path) -> None:
    _launch(tmp_path, plan={"steps": 10}, pause=[0.0, 0.1])
    fast, slow = (_seconds(tmp_path, "waiting for a straggler", rank) for rank in (0, 1))
    assert fast > 0.8
    assert slow < 0.1 * fast
    assert _seconds(tmp_path, "exposed communication", 0) < 0.5 * fast


def test_a_stop_asked_of_one_rank_stops_all(tmp_path: Path) -> None:
    def ask() -> None:
        while not list((tmp_path / "checkpoints").glob("step-*")):
            time.sleep(0.005)
        for process in Path("/proc").glob("[0-9]*"):
            try:
                found = b"RANK=1" in (process / "environ").read_bytes().split(b"\0")
                if found and str(tmp_path).encode() in (process / "cmdline").read_bytes():
                    os.kill(int(process.name), signal.SIGTERM)
            except OSError:
                continue

    asker = threading.Thread(target=ask)
    asker.start()
    _launch(tmp_path, plan={"steps": 500}, pause=0.02)
    asker.join()
    results = [json.loads((tmp_path / f"result.{rank}.json").read_text()) for rank in (0, 1)]
    assert [result["stopped"] for result in results] == ["interrupted"] * 2
    assert results[0]["steps"] == results[1]["steps"] < 500
    assert (tmp_path / "checkpoints" / f"step-{results[0]['steps']:08d}").is_dir()
