"""Names of runs, and where they and their files lie."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullbore.base import names
from fullbore.base.names import run_name
from fullbore.base.paths import RunPaths, machine_cache, runs_root, stage_cache

READABLE = re.compile(r"([a-z]+-[a-z]+)-([1-9][0-9]*)")


def test_a_name_is_two_words_and_a_number() -> None:
    found = {run_name([]) for _ in range(200)}
    assert all(READABLE.fullmatch(name) for name in found)
    assert all(name.endswith("-1") for name in found)
    assert len(found) > 100


@given(st.sets(st.integers(1, 30)))
def test_the_number_is_the_first_that_is_free(taken: set[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(names, "_ADJECTIVES", ["calm"])
        patch.setattr(names, "_ANIMALS", ["otter"])
        name = run_name(iter([*(f"calm-otter-{number}" for number in taken), "calm-otter", "wolf-1"]))
    assert name == f"calm-otter-{min(set(range(1, 32)) - taken)}"


def test_the_words_are_plain_and_none_is_there_twice() -> None:
    for words in (names._ADJECTIVES, names._ANIMALS):
        assert len(words) == len(set(words)) >= 40
        assert all(re.fullmatch(r"[a-z]{2,8}", word) for word in words)


def test_runs_and_their_cache_lie_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FULLBORE_RUNS", raising=False)
    assert runs_root() == tmp_path / "runs"
    monkeypatch.setenv("FULLBORE_RUNS", "else/where")
    assert runs_root() == tmp_path / "else" / "where"
    assert stage_cache() == tmp_path / "else" / "where" / ".cache"


def test_what_is_measured_lies_in_the_user_s_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for empty in (None, ""):
        if empty is None:
            monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        else:
            monkeypatch.setenv("XDG_CACHE_HOME", empty)
        assert machine_cache() == tmp_path / ".cache" / "fullbore"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert machine_cache() == tmp_path / "x" / "fullbore"


def test_no_two_files_of_a_run_share_a_name(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    own = [value for name in dir(RunPaths) if isinstance(value := getattr(paths, name), Path) and value != tmp_path]
    own += [paths.events(rank) for rank in range(12)]
    assert len(own) == len(set(own)) > 20
    assert {path.parent for path in own} == {tmp_path}
    assert paths.artifact("model") == tmp_path / "artifacts" / "model"
