"""What `check` says of sources too large to be read whole before anybody asked for a run."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

from fullbore.flow import check as checks
from fullbore.spec.hardware import Ceilings
from fullbore.spec.job import Job
from fullbore.spec.load import load

ROWS = 20_000


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FULLBORE_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checks, "_WHOLE_BYTES", 0)
    monkeypatch.setattr(checks.probe, "probe", lambda folder: CEILINGS)


CEILINGS = Ceilings("host", "now", {"fp32": {1: 1e11}}, 1e10, 1e9, 1e9, jpeg_decode=1e8, tokenise=1e7)


def lines(path: Path, opened: Callable[..., Any]) -> Path:
    draw = random.Random(0)
    with opened(path, "wt") as file:
        for _ in range(ROWS):
            file.write(json.dumps({"text": draw.randbytes(draw.randint(100, 900)).hex()}) + "\n")
    return path


def pictures(folder: Path) -> Path:
    for name in ("cats", "dogs"):
        (folder / name).mkdir(parents=True)
    draw = np.random.default_rng(0)
    for number in range(300):
        content = simplejpeg.encode_jpeg(draw.integers(0, 255, (32, 32, 3), np.uint8))
        (folder / ("cats", "dogs")[number % 2] / f"{number}.jpg").write_bytes(content)
    return folder


def seen(source: Path, sample_bytes: int, monkeypatch: pytest.MonkeyPatch, **data: object) -> dict[str, Any]:
    monkeypatch.setattr(checks, "_SAMPLE_BYTES", sample_bytes)
    job = Job.model_validate({"name": "large", "data": {"source": str(source), "validation": 0.0, **data}})
    return dict(checks.check(load(job))["source"])


@pytest.mark.parametrize("opened", [open, gzip.open])
def test_lines_are_counted_by_the_share_that_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Callable[..., Any]
) -> None:
    path = lines(tmp_path / ("rows.jsonl" if opened is open else "rows.jsonl.gz"), opened)
    found = seen(path, path.stat().st_size * 3 // 4, monkeypatch)
    assert found["estimated"] and found["samples"]["train"] == pytest.approx(ROWS, rel=0.2)
    assert found["bytes"] == path.stat().st_size
    limited = seen(path, path.stat().st_size // 2, monkeypatch, limit=100)
    assert limited["samples"]["train"] == 100 and not limited["estimated"]


def test_pictures_are_counted_by_their_files_not_by_what_they_become(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = seen(pictures(tmp_path / "pictures"), 100_000, monkeypatch, image_size=8)
    assert found["estimated"] and found["samples"]["train"] == pytest.approx(300, rel=0.05)
