"""TensorBoard's files: written beside the training, which never hears of their trouble."""

from __future__ import annotations

import subprocess
import sys
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


_FULL = """
import logging, resource, sys
from pathlib import Path
from fullbore.train.journal import Scalars
logging.basicConfig(level=logging.WARNING, format="%(message)s")
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
scalars = Scalars(Path(sys.argv[1]), 0)
for step in range(1, 1000):
    scalars.put(step, {"train/loss": float(step)})
scalars.close()
"""


def test_a_full_disk_is_told_once_and_without_a_traceback(tmp_path: Path) -> None:
    """As on a full disk, in a process whose files may hold 2,000 bytes."""
    done = subprocess.run([sys.executable, "-c", _FULL, tmp_path / "scalars"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line.split(": ")[-1] for line in done.stderr.splitlines()] == ["[Errno 27] File too large"]
    written = read(tmp_path / "scalars")
    assert len(written) > 10 and written == {step: step for step in range(1, len(written) + 1)}


def test_a_folder_that_cannot_be_made_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "scalars").write_text("a file")
    scalars = Scalars(tmp_path / "scalars", 0)
    scalars.put(1, {"train/loss": 1.0})
    scalars.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
