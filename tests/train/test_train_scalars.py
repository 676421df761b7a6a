"""TensorBoard's files: written beside the training, which never hears of their trouble."""

from __future__ import annotations

import logging
import resource
from pathlib import Path

import pytest

from fullbore.train.journal import Scalars


def read(folder: Path) -> dict[int, float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return {scalar.step: scalar.value for scalar in EventAccumulator(str(folder)).Reload().Scalars("train/loss")}


def test_a_resumed_session_overwrites_the_steps_that_were_lost(tmp_path: Path) -> None:
    for first, steps in ((0, range(1, 10)), (5, range(6, 12))):
        scalars = Scalars(tmp_path / "scalars", first)
        for step in steps:
            scalars.put(step, {"train/loss": step + first})
        scalars.close()
    assert len(list((tmp_path / "scalars").iterdir())) == 2
    assert read(tmp_path / "scalars") == {**{step: step for step in range(1, 6)}, **{s: s + 5 for s in range(6, 12)}}


def test_a_full_disk_is_told_once_and_without_a_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with caplog.at_level(logging.WARNING):
            scalars = Scalars(tmp_path / "scalars", 0)
            for step in range(1, 1000):
                scalars.put(step, {"train/loss": float(step)})
            scalars.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [record.getMessage().split(": ")[-1] for record in caplog.records] == ["[Errno 27] File too large"]
    assert "Traceback" not in capfd.readouterr().err
    written = read(tmp_path / "scalars")
    assert len(written) > 10 and written == {step: step for step in range(1, len(written) + 1)}


def test_a_folder_that_cannot_be_made_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "scalars").write_text("a file")
    scalars = Scalars(tmp_path / "scalars", 0)
    scalars.put(1, {"train/loss": 1.0})
    scalars.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
