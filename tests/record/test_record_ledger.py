"""The recorder's seconds add up to the wall time, exactly, on a clock that a test turns."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullbore.record import read, span
from fullbore.record.ledger import Ledger, State
from fullbore.record.sink import NoSink, Sink
from fullbore.record.span import Recorder, exec_time

TICK = 2.0**-10
EPOCH = 2.0**20


class Clock:
    """Stands for the module `time`. Its instants are multiples of a tick, so that sums of them are exact."""

    CLOCK_BOOTTIME = 0

    def __init__(self, cost: int = 0) -> None:
        """`cost`: ticks that pass whenever somebody reads it."""
        self.ticks = 0
        self._cost = cost

    def perf_counter(self) -> float:
        self.ticks += self._cost
        return self.ticks * TICK

    def time(self) -> float:
        return EPOCH + self.ticks * TICK


class Kept(NoSink):
    """A sink that keeps events in memory."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def put(self, event: dict[str, Any]) -> None:
        self.events.append(event)

    def summed(self, kind: str) -> dict[str, float]:
        total: dict[str, float] = {}
        for event in self.events:
            if event["kind"] == kind:
                for name, seconds in event["seconds"].items():
                    total[name] = total.get(name, 0.0) + seconds
        return total


def nonzero(seconds: Mapping[str, float]) -> dict[str, float]:
    return {str(name): value for name, value in seconds.items() if value}


STATES = st.sampled_from(list(State))
TICKS = st.integers(0, 3000)
DEED = st.one_of(
    st.tuples(st.just("enter"), STATES, TICKS),
    st.tuples(st.just("leave"), STATES, TICKS),
    st.tuples(st.just("split"), STATES, TICKS),
    st.tuples(st.just("account"), STATES, TICKS),
    st.tuples(st.just("hand over"), STATES, TICKS),
)


class Model:
    """What the ledger should say, kept the simple way: every tick is given to the state it passed in."""

    def __init__(self, began: int) -> None:
        self.ticks: dict[State, float] = dict.fromkeys(State, 0)
        self.ticks[State.START] = began
        self.stack = [State.OTHER]
        self.stretch = 0.0

    def passes(self, ticks: int) -> None:
        self.ticks[self.stack[-1]] += ticks
        self.stretch += ticks

    def seconds(self) -> dict[str, float]:
        return nonzero({state: ticks * TICK for state, ticks in self.ticks.items()})


def act(recorder: Recorder, clock: Clock, model: Model, kept: Kept, deed: tuple[str, State, int]) -> None:
    kind, state, ticks = deed
    if kind == "split":
        recorder.split(state, ticks * TICK / 2)
        moved = min(ticks / 2, model.stretch)
        model.ticks[model.stack[-1]] -= moved
        model.ticks[state] += moved
        model.stretch -= moved
    elif kind == "account":
        recorder.account()
        model.stretch = 0
    elif kind == "hand over":
        recorder.hand_over()
        clock.ticks += ticks
        child = {str(state): ticks // 2 * TICK, str(State.SERVE): ticks // 4 * TICK}
        kept.put({"kind": "ledger", "child": True, "seconds": child})
        recorder.take_back(Ledger(child))
        rest = ticks
        for name, seconds in child.items():
            model.ticks[State(name)] += int(seconds / TICK)
            rest -= int(seconds / TICK)
        model.ticks[State.START] += rest
        model.stretch = 0
    elif kind == "enter" or len(model.stack) == 1:
        recorder.state(state).__enter__()
        model.stack.append(state)
        model.stretch = 0
    else:
        recorder.state(model.stack.pop()).__exit__(None, None, None)
        model.stretch = 0


@given(st.integers(0, 5000), st.lists(st.tuples(DEED, TICKS), max_size=40))
def test_every_tick_is_in_the_state_it_passed_in_and_the_sum_is_the_wall_time(
    began: int, deeds: list[tuple[tuple[str, State, int], int]]
) -> None:
    clock, kept = Clock(), Kept()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(span, "time", clock)
        recorder = Recorder(kept, began=EPOCH - began * TICK)
        model = Model(began)
        for deed, ticks in deeds:
            act(recorder, clock, model, kept, deed)
            clock.ticks += ticks
            model.passes(ticks)
            assert recorder.ledger().seconds == model.seconds()
            assert recorder.ledger().wall == recorder.elapsed() == (clock.ticks + began) * TICK
        recorder.close()
    assert nonzero(kept.summed("ledger")) == model.seconds()


@given(st.lists(st.tuples(STATES, TICKS, st.booleans()), max_size=40))
def test_written_intervals_touch_and_hold_their_whole_length(deeds: list[tuple[State, int, bool]]) -> None:
    clock, kept = Clock(cost=1), Kept()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(span, "time", clock)
        recorder = Recorder(kept, began=EPOCH - 1, rank=3)
        for state, ticks, split in deeds:
            with recorder.state(State.FORWARD), recorder.state(state):
                clock.ticks += ticks
                if split:
                    recorder.split(State.STRAGGLER, 100 * TICK)
        recorder.close()
        end = clock.ticks
    ledgers = [event for event in kept.events if event["kind"] == "ledger"]
    moment = EPOCH - 1
    for event in ledgers:
        assert event["begin"] == moment
        assert sum(event["seconds"].values()) == event["end"] - event["begin"]
        assert all(seconds > 0 for seconds in event["seconds"].values())
        assert event["rank"] == 3
        moment = event["end"]
    assert moment == EPOCH + (end - 1) * TICK, "a tick passed between reading the one clock and the other"


def test_states_nest_and_leaving_returns_even_when_a_block_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(span, "time", clock)
    recorder = Recorder(began=EPOCH)
    with recorder.state(State.FORWARD):
        clock.ticks += 1
        with pytest.raises(KeyError), recorder.state(State.COPY), recorder.state(State.COPY):
            clock.ticks += 10
            raise KeyError
        clock.ticks += 100
    clock.ticks += 1000
    assert recorder.ledger().seconds == {"forward": 101 * TICK, "copy": 10 * TICK, "other": 1000 * TICK}


def test_a_child_that_counts_more_than_passed_never_takes_time_away(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(span, "time", clock)
    recorder = Recorder(began=EPOCH)
    recorder.hand_over()
    clock.ticks += 8
    recorder.take_back(Ledger({"forward": 10 * TICK}))
    assert recorder.ledger().seconds == {"forward": 10 * TICK}


def test_a_beginning_that_lies_ahead_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(span, "time", clock)
    recorder = Recorder(began=EPOCH + 100)
    clock.ticks += 2
    assert recorder.ledger().seconds == {"other": 2 * TICK}


def test_a_long_run_writes_few_intervals_however_often_it_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, kept = Clock(), Kept()
    monkeypatch.setattr(span, "time", clock)
    recorder = Recorder(kept, began=EPOCH)
    written: dict[int, int] = {}
    switches = 40_000
    for number in range(switches):
        with recorder.state(State.FORWARD):
            clock.ticks += 100
        written[number] = len(kept.events)
    seconds = switches * 100 * TICK
    assert len(kept.events) <= 1000 * (1 + math.log(seconds / 500)) + 1
    assert written[switches // 10] <= switches // 10 * 100 * TICK / 0.5 + 1
    recorder.close()
    assert nonzero(kept.summed("ledger")) == {"forward": seconds}


def test_a_thousand_switches_within_an_instant_write_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    monkeypatch.setattr(span, "time", Clock())
    recorder = Recorder(kept, began=EPOCH)
    for state in list(State) * 50:
        with recorder.state(state):
            pass
    assert kept.events == []


def test_what_the_file_says_is_what_the_recorder_says(tmp_path: Path) -> None:
    sink = Sink(tmp_path / "events.jsonl")
    recorder = Recorder(sink, began=time.time() - 100)
    for state in (State.READ, State.FORWARD, State.READ):
        with recorder.state(state), recorder.state(State.COPY):
            sum(range(20_000))
        recorder.account()
    recorder.busy("decode", 1.25)
    recorder.busy("decode", 0.5)
    recorder.busy("save", 3)
    recorder.close()
    written, told = read.ledger(tmp_path / "events.jsonl"), recorder.ledger()
    after = told.seconds["other"] - written.seconds["other"]
    assert after > 0, "the time since close"
    assert {**written.seconds, "other": 0} == pytest.approx({**told.seconds, "other": 0}, abs=1e-9)
    assert (
        {**written.busy, "recording": 0} == {**told.busy, "recording": 0} == {"decode": 1.75, "save": 3, "recording": 0}
    )
    assert written.busy["recording"] == told.busy["recording"] >= 0
    assert written.wall == pytest.approx(told.wall - after, abs=1e-9)
    assert written.seconds["start"] == pytest.approx(100, abs=1)


def test_a_session_s_ledger_leaves_out_those_before_it(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for seconds in (10, 20):
        with Sink(path) as sink:
            sink.put({"kind": "ledger", "t": float(seconds), "seconds": {"read": seconds, "other": 1}})
            sink.put({"kind": "busy", "t": float(seconds), "seconds": {"decode": seconds}})
            sink.put({"kind": "message", "t": float(seconds), "seconds": {"read": 99}})
    assert read.ledger(path) == Ledger({"read": 30, "other": 2}, {"decode": 30})
    assert read.ledger(path, since=15) == Ledger({"read": 20, "other": 1}, {"decode": 20})
    assert read.ledger(path, since=25) == read.ledger(tmp_path / "absent") == Ledger({})


SECONDS = st.dictionaries(STATES.map(str), st.floats(0, 1e9), max_size=20)


@given(SECONDS, st.dictionaries(st.text(max_size=8), st.floats(0, 1e9)))
def test_a_ledger_reads_back_from_its_json(seconds: dict[str, float], busy: dict[str, float]) -> None:
    ledger = Ledger(seconds, busy)
    found = Ledger.from_json(ledger.to_json(), ledger.busy)
    assert found == Ledger(nonzero(seconds), busy)
    assert list(ledger.to_json()) == [state for state, _ in ledger.ranked()]
    assert [value for _, value in ledger.ranked()] == sorted(nonzero(seconds).values(), reverse=True)
    if ledger.wall:
        assert sum(item["share"] for item in ledger.to_json().values()) == pytest.approx(1)


@given(SECONDS, SECONDS)
def test_ledgers_add_state_by_state(one: dict[str, float], two: dict[str, float]) -> None:
    total = Ledger(one, two) + Ledger(two, one)
    assert total.seconds == total.busy == {key: one.get(key, 0) + two.get(key, 0) for key in {**one, **two}}
    assert (Ledger(one) + Ledger({})).seconds == one


def test_the_table_ends_with_the_wall_time() -> None:
    lines = Ledger({"forward": 3.0, "data wait": 1.0, "copy": 0.0}).table().splitlines()
    assert [line.split() for line in lines] == [
        ["forward", "3", "s", "75.0%"], ["data", "wait", "1", "s", "25.0%"], ["total", "4", "s", "100.0%"],
    ]  # fmt: skip
    assert len({len(line) for line in lines}) == 1
    assert Ledger({}).table().split() == ["total", "0", "µs", "100.0%"]
    assert Ledger({}).share("forward") == 0


def test_a_process_knows_when_it_began() -> None:
    code = "from fullbore.record.span import exec_time; print(exec_time(), exec_time())"
    before = time.time()
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = time.time()
    times = [float(text) for text in child.stdout.split()]
    assert all(before - 0.1 <= moment <= after for moment in times)
    assert exec_time() < before


def test_events_say_their_kind_their_time_and_their_rank(tmp_path: Path) -> None:
    recorder = Recorder(Sink(tmp_path / "events.jsonl"), rank=2)
    recorder.event("step", loss=1.5, folder=tmp_path)
    recorder.settle()
    [event] = read.events(tmp_path / "events.jsonl", "step")
    assert event["kind"] == "step"
    assert event["rank"] == 2
    assert recorder.began <= event["t"] <= time.time()
    assert (event["loss"], event["folder"]) == (1.5, str(tmp_path))
    recorder.close()
    assert {event["kind"] for event in read.events(tmp_path / "events.jsonl")} == {"step", "ledger", "busy"}


def test_what_a_child_was_busy_with_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    recorder = Recorder(Sink(path))
    recorder.busy("feed", 1.0)
    recorder.hand_over()
    child = Recorder(Sink(path))
    child.busy("feed", 2.0)
    child.busy("checkpoint", 3.0)
    child.close()
    recorder.take_back(Ledger({}, {"feed": 2.0, "checkpoint": 3.0}))
    assert {**recorder.ledger().busy, "recording": 0} == {"feed": 3.0, "checkpoint": 3.0, "recording": 0}
    recorder.close()
    assert {**read.ledger(path).busy, "recording": 0} == {"feed": 3.0, "checkpoint": 3.0, "recording": 0}
