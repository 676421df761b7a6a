from __future__ import annotations

import json
from pathlib import Path

import pytest

from fullbore.base.paths import RunPaths
from fullbore.perf.measure import ledger
from fullbore.record.ledger import Ledger, State
from fullbore.record.sink import Sink
from fullbore.record.span import Recorder


def write(path: Path, *events: dict[str, object]) -> None:
    path.write_text("".join(json.dumps(event) + "\n" for event in events))


def interval(begin: float, end: float, **seconds: float) -> dict[str, object]:
    named = {name.replace("_", " "): value for name, value in seconds.items()}
    return {"kind": "ledger", "t": end, "begin": begin, "end": end, "seconds": named}


def test_ranks_and_sessions_are_read_apart(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    session = lambda began: {"kind": "session", "t": began, "began": began}  # noqa: E731
    write(
        paths.events(0),
        session(100.0),
        interval(100, 105, start=5),
        interval(105, 110, forward=3, data_wait=2),
        session(200.0),
        interval(200, 207, start=7),
    )
    write(paths.events(1), interval(101, 111, forward=10))
    found = ledger.timeline(paths)
    assert set(found.ranks) == {0, 1} and found.wall == 107
    assert [i.begin for i in found.ranks[0]] == [100, 105, 200]
    assert [r.wall for r in ledger.ranks(paths)] == [17, 10]
    one, two = ledger.sessions(paths)
    assert (one.wall, one.ledger.wall, two.wall, two.ledger.wall) == (10, 10, 7, 7)
    assert one.ledger.seconds["data wait"] == 2
    assert ledger.sessions(paths, rank=1)[0].wall == 10
    assert ledger.sessions(paths, rank=7) == [] and ledger.timeline(RunPaths(tmp_path / "none")).wall == 0


def test_the_promise_is_checked_against_wall_time_from_outside() -> None:
    kept = Ledger({"forward": 99.2, "other": 0.5})
    assert ledger.check(kept, 100).sound
    assert ledger.check(kept, 100).accounted == pytest.approx(0.997)
    assert not ledger.check(kept, 105).sound
    assert not ledger.check(Ledger({"forward": 97.0, "other": 3.0}), 100).sound
    assert not ledger.check(kept, 0).sound


def test_a_recorder_accounts_for_all_of_its_process(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    recorder = Recorder(Sink(paths.events()))
    recorder.event("session", began=recorder.began)
    with recorder.state(State.FORWARD):
        sum(range(100000))
    recorder.close()
    (session,) = ledger.sessions(paths)
    assert ledger.check(session.ledger, session.wall).accounted == pytest.approx(1, abs=0.01)
