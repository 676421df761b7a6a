from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from made_data import Prepare

from fullbore.data.prepare import prepare
from fullbore.record.artifact import Artifact
from fullbore.record.progress import no_progress
from fullbore.record.span import Recorder
from fullbore.spec.data import DataSection
from fullbore.spec.model import TaskSection

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")


@pytest.fixture
def make(tmp_path: Path) -> Prepare:
    """`make(source, task kind, **settings of [data])`: the corpus at tmp_path/corpus."""

    def call(source: Path | str, kind: str | None = None, **section: object) -> Artifact:
        task = TaskSection.model_validate({"kind": kind}) if kind else None
        data = DataSection.model_validate({"source": str(source), **section})
        return prepare(data, task, tmp_path / "corpus", recorder=Recorder(), progress=no_progress)

    return call


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """A folder of 200 short Chinese and English documents."""
    folder = tmp_path / "documents"
    folder.mkdir()
    for number in range(200):
        (folder / f"{number:03d}.txt").write_text(f"第{number}篇文章。Document {number}!\n" * (number % 7 + 1))
    return folder
