"""What a network launches is traced once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fullbore.base.paths import machine_cache
from fullbore.flow import work as remembered
from fullbore.models.build import Sizes
from fullbore.spec.model import MLPModel, TaskSection
from fullbore.spec.work import Work

SIZES = Sizes(features=8, classes=3)
TASK = TaskSection(kind="classification")


def model(width: int = 16) -> MLPModel:
    return MLPModel(kind="mlp", hidden=(width,))


def test_a_network_is_traced_once_until_something_of_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made: list[str] = []
    trace = remembered.works.work

    def counted(section: MLPModel, task: TaskSection, sizes: Sizes, *, launched: bool) -> Work:
        made.append(f"{section.hidden} {sizes.features}")
        return trace(section, task, sizes, launched=launched)

    monkeypatch.setattr(remembered.works, "work", counted)
    first = remembered.work(model(), TASK, SIZES, launched=True)
    assert first.launches and remembered.work(model(), TASK, SIZES, launched=True) == first
    assert made == ["(16,) 8"]
    remembered.work(model(32), TASK, SIZES, launched=True)
    remembered.work(model(), TASK, Sizes(features=9, classes=3), launched=True)
    assert made[1:] == ["(32,) 8", "(16,) 9"]
    kept = sorted(machine_cache().glob("work-*.json"))
    assert len(kept) == 3
    for path in kept:
        path.write_text(json.dumps({"schema": 1})[:-3])
    assert remembered.work(model(), TASK, SIZES, launched=True) == first
    assert len(made) == 4
