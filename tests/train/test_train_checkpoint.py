"""Checkpoints: the newest intact one is found, damaged ones are named, a full disk costs nothing that was there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import small_training as small
import torch
from safetensors.torch import load_file

from fullbore.record import artifact
from fullbore.record.span import Recorder
from fullbore.train.loop import run

HERE = Path(__file__).parent


def _trained(folder: Path, steps: int = 12, **changes: Any) -> small.Kept:
    kept = small.Kept()
    section = small.section(keep=changes.pop("keep", 2))
    run(small.setup(folder, small.plan(steps=steps), recorder=Recorder(kept), section=section, **changes))
    return kept


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize(("keep", "left"), [(1, [12]), (2, [10, 12]), (9, [5, 10, 12])])
def test_the_newest_are_kept(tmp_path: Path, keep: int, left: list[int]) -> None:
    kept = _trained(tmp_path, keep=keep)
    assert _names(tmp_path) == ["best.json", *(f"step-{step:08d}" for step in left)]
    events = kept.of("checkpoint")
    assert [event["step"] for event in events] == [5, 10, 12]
    assert all(event["bytes"] > 0 and event["seconds_background"] > 0 for event in events)


def test_the_best_weights_are_where_best_json_says(tmp_path: Path) -> None:
    kept = small.Kept()
    setup = small.setup(tmp_path, small.plan(steps=30, evaluate_every=3), recorder=Recorder(kept))
    result = run(setup)
    said = json.loads((tmp_path / "checkpoints" / "best.json").read_text())
    assert (said["step"], said["value"]) == (result.best_step, result.metrics["accuracy"])
    assert small.same(load_file(tmp_path / "checkpoints" / said["file"]), small.tensors(result.module))


def _cut(path: Path) -> str:
    file = path / "model.safetensors"
    os.truncate(file, file.stat().st_size - 10)
    return "truncated"


def _flip(path: Path) -> str:
    file = path / "optimizer.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    return "its bytes were changed"


def _lose(path: Path) -> str:
    (path / "state.json").unlink()
    return "missing"


def _blank(path: Path) -> str:
    (path / "manifest.json").write_text("")
    return "not a manifest"


@pytest.mark.parametrize("damage", [_cut, _flip, _lose, _blank])
def test_a_damaged_checkpoint_is_skipped_and_said(
    tmp_path: Path, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    whole = small.Kept()
    expected = run(small.setup(tmp_path / "whole", small.plan(), recorder=Recorder(whole)))
    _trained(tmp_path)
    newest = tmp_path / "checkpoints" / "step-00000012"
    reason = damage(newest)
    kept = small.Kept()
    result = run(small.setup(tmp_path, small.plan(), recorder=Recorder(kept), resume=True))
    resumed = kept.of("resume")[0]
    assert resumed["step"] == 10
    assert reason in resumed["skipped"][0]
    assert str(newest) in resumed["skipped"][0]
    assert reason in kept.of("message")[0]["text"]
    assert str(newest) in caplog.text
    assert "damaged-step-00000012" in _names(tmp_path)
    assert small.same(small.tensors(result.module), small.tensors(expected.module))


def test_with_nothing_intact_it_begins_again(tmp_path: Path) -> None:
    _trained(tmp_path)
    for path in (tmp_path / "checkpoints").glob("step-*"):
        _cut(path)
    kept = small.Kept()
    result = run(small.setup(tmp_path, small.plan(), recorder=Recorder(kept), resume=True))
    assert result.steps_here == 12
    assert len(kept.of("resume")[0]["skipped"]) == 2


def test_drafts_of_the_dead_are_removed(tmp_path: Path) -> None:
    _trained(tmp_path, steps=3)
    process = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    draft = tmp_path / "checkpoints" / f".step-00000099.{process.stdout.strip()}.tmp"
    draft.mkdir()
    (draft / "model.safetensors").write_bytes(b"half")
    run(small.setup(tmp_path, small.plan(), resume=True))
    assert not draft.exists()


def test_torch_distributed_checkpoint_opens_them(tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    _trained(tmp_path)
    path = tmp_path / "checkpoints" / "step-00000012"
    stored = load_file(path / "model.safetensors")
    loaded = {name: torch.zeros_like(tensor) for name, tensor in stored.items()}
    alone = tmp_path / "alone"
    alone.mkdir()
    os.link(path / "model.safetensors", alone / "model.safetensors")
    with pytest.warns(UserWarning, match="torch.distributed is disabled"):
        dcp.load(loaded, storage_reader=HuggingFaceStorageReader(str(alone)), no_dist=True)
    assert small.same(loaded, stored)


def _worker(folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "training_worker", str(folder), json.dumps(options)]
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=120)


def _events(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "events.0.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["kind"] == kind]


@pytest.mark.slow
def test_a_full_disk_stops_the_run_at_the_second_failure(tmp_path: Path) -> None:
    """A limit on the size of files is what a full disk looks like: the checkpoint's files reach it, events do not."""
    options: dict[str, Any] = {"network": {"width": 2000}, "plan": {"steps": 30, "checkpoint_every": 3}}
    first = _worker(tmp_path, **{**options, "plan": {**options["plan"], "steps": 3}})
    assert first.returncode == 0, first.stderr
    full = _worker(tmp_path, **options, file_bytes=100_000, resume=True)
    assert full.returncode == 1
    assert "error: the checkpoint of step 9 could not be written" in full.stderr
    assert "make room on the disk" in full.stderr
    warnings = [event["text"] for event in _events(tmp_path, "message") if "could not be written" in event["text"]]
    assert [text.split(" could")[0] for text in warnings] == [f"the checkpoint of step {step}" for step in (6, 9)]
    assert _names(tmp_path) == ["best.json", "step-00000003"]
    assert artifact.verify(artifact.read(tmp_path / "checkpoints" / "step-00000003")) == []
    after = _worker(tmp_path, **options, resume=True)
    assert after.returncode == 0, after.stderr
    assert json.loads((tmp_path / "result.0.json").read_text())["steps"] == 30
