"""Steps whose warm-up, jitter and losses are known."""

from __future__ import annotations

from typing import Any

import pytest

from fullbore.perf.plan.steady import steady


def session(began: float, taken: list[float], states: list[dict[str, float]] | None = None) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = [{"kind": "session", "t": began}]
    now = began
    for index, seconds in enumerate(taken):
        spent = states[index] if states else {"forward": seconds}
        events.append({"kind": "ledger", "begin": now, "end": now + seconds, "seconds": spent})
        now += seconds
        events.append({"kind": "step", "t": now, "seconds": seconds})
    return events


def test_the_first_slow_steps_of_each_session_are_set_apart() -> None:
    calm = [0.1, 0.101, 0.099, 0.1] * 10
    found = steady([*session(0, [2.0, 0.4, *calm]), *session(1000, [1.5, *calm])])
    assert found is not None
    assert (found.warm_up, found.steps, found.slow) == (3, 80, 0)
    assert found.warm_up_seconds == pytest.approx(3.9 - 0.3) and found.median == pytest.approx(0.1)
    assert found.share == 0 and found.p99 == pytest.approx(0.101)
    assert "median and 5 deviations" in found.to_json()["rule"]


def test_slow_steps_are_counted_and_their_state_is_named() -> None:
    taken = [0.1] * 100
    taken[50] = taken[70] = 0.5
    states = [{"data wait": max(0.0, seconds - 0.1), "forward": 0.1} for seconds in taken]
    found = steady(session(0, taken, states))
    assert found is not None and (found.slow, found.warm_up) == (2, 0)
    assert found.slow_seconds == pytest.approx(0.8) and found.share == pytest.approx(0.8 / 10.8)
    assert list(found.lost_in) == ["data wait"] and found.lost_in["data wait"] == pytest.approx(0.8, rel=0.01)
    assert found.to_json()["jitter"] == pytest.approx(4.0)


def test_a_run_without_steps_or_with_strange_ones() -> None:
    assert (
        steady([{"kind": "session"}, {"kind": "step", "t": 1.0}, {"kind": "step", "seconds": None, "t": 1.0}]) is None
    )
    one = steady(session(0, [0.3]))
    assert one is not None and (one.steps, one.warm_up, one.median) == (1, 0, 0.3)
