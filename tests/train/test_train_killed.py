"""SIGKILL at any moment, then resume: the bits of the run that was left alone."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import small_training as small
from safetensors.torch import load_file
from training_worker import facts

from fullbore.train.loop import run

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
STEPS = 40
OPTIONS: dict[str, Any] = {
    "plan": {"steps": STEPS, "checkpoint_every": 3, "evaluate_every": 4, "micro_batch_size": 4},
    "network": {"dropout": 0.2, "width": 3000, "norm": True},
}


def _start(folder: Path, **options: Any) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "training_worker", str(folder), json.dumps({**OPTIONS, **options})]
    return subprocess.Popen(command, cwd=HERE, stderr=subprocess.PIPE)


def _finished(process: subprocess.Popen[bytes]) -> None:
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said.decode()


def _outcome(folder: Path) -> tuple[dict[str, Any], Any]:
    return json.loads((folder / "result.0.json").read_text()), load_file(folder / "weights.0.safetensors")


def _newest(checkpoints: Path) -> str:
    return max((path.name for path in checkpoints.glob("step-*")), default="")


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Any]:
    """The run that nobody disturbs, in this process."""
    folder = tmp_path_factory.mktemp("whole")
    build = partial(small.network, **OPTIONS["network"])
    result = run(small.setup(folder, small.plan(**OPTIONS["plan"]), build=build))
    return facts(result), small.tensors(result.module)


def _assert_bit_equal(folder: Path, whole: tuple[dict[str, Any], Any]) -> None:
    found, weights = _outcome(folder)
    assert found == whole[0]
    assert small.same(weights, whole[1])


def test_killed_at_three_random_moments(tmp_path: Path, whole: tuple[dict[str, Any], Any]) -> None:
    checkpoints = tmp_path / "checkpoints"
    for seed in (1, 2, 3):
        process = _start(tmp_path, pause=0.05, resume=seed > 1)
        before = _newest(checkpoints)
        while _newest(checkpoints) == before and process.poll() is None:
            time.sleep(0.001)
        time.sleep(random.Random(seed).uniform(0, 0.3))
        _kill(process)
    _finished(_start(tmp_path, resume=True))
    _assert_bit_equal(tmp_path, whole)


def test_killed_while_a_checkpoint_is_written_twice(tmp_path: Path, whole: tuple[dict[str, Any], Any]) -> None:
    checkpoints = tmp_path / "checkpoints"
    for resume in (False, True):
        process = _start(tmp_path, resume=resume)
        before = _newest(checkpoints)
        while _newest(checkpoints) == before or not list(checkpoints.glob(".step-*.tmp")):
            if process.poll() is not None:
                break
        _kill(process)
    _finished(_start(tmp_path, resume=True))
    assert not list(checkpoints.glob(".*"))
    _assert_bit_equal(tmp_path, whole)


def test_stopped_by_a_signal(tmp_path: Path, whole: tuple[dict[str, Any], Any]) -> None:
    process = _start(tmp_path, pause=0.02)
    while not list((tmp_path / "checkpoints").glob("step-*")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _finished(process)
    assert json.loads((tmp_path / "result.0.json").read_text())["stopped"] == "interrupted"
    _finished(_start(tmp_path, resume=True))
    _assert_bit_equal(tmp_path, whole)
