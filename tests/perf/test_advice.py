"""What is advised is told of what the job is judged by, and predicted changes stand for general advice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fullbore.perf.plan.advise import Advice, ranked
from fullbore.perf.plan.facts import Usage
from fullbore.perf.plan.verdict import verdict
from tests.perf.test_verdict import PLAN, TRAIN, facts

HUNGRY = Usage(900, cpu_self=1.3, cpu_others=0.7, cpu_waiting=0.65)
CROWDED = facts(TRAIN, usage={"forward": HUNGRY, "backward": HUNGRY}, plan=replace(PLAN, precision="fp32"))
FASTER = Advice(
    "compute in bf16", "--set train.precision=bf16", 1.5, 0.1, "training rate", 8000.0, 20000.0, "tokens/s"
)  # fmt: skip


def test_a_neighbour_costs_rate_where_the_budget_is_time_and_else_the_run() -> None:
    phase = sum(seconds for state, seconds in TRAIN.items() if state != "start")
    plain = verdict(CROWDED).advice[0]
    assert plain.figure == "", "of a loop nobody said what it is judged by"
    gain = plain.predicted_gain or 0.0
    rated = verdict(replace(CROWDED, timed=True)).advice[0]
    assert (rated.figure, rated.unit, rated.predicted_gain) == ("training rate", "tokens/s", gain) and gain > 0.3
    assert rated.now == pytest.approx(32000 * 256 / phase) and rated.then == pytest.approx(rated.now * (1 + gain))
    shorter = verdict(replace(CROWDED, timed=False)).advice[0]
    assert (shorter.figure, shorter.now, shorter.unit) == ("run time", pytest.approx(phase + 3), "s")
    assert shorter.then == pytest.approx(phase + 3 - phase * gain / (1 + gain)), "less what the neighbour took"
    assert shorter.predicted_gain == pytest.approx(shorter.now / shorter.then - 1)


def test_what_is_predicted_of_this_run_stands_for_what_is_said_in_general() -> None:
    plain = [item.set for item in verdict(replace(CROWDED, timed=True)).advice]
    assert "--set train.precision=bf16" in plain
    told = verdict(replace(CROWDED, timed=True), [FASTER]).advice
    assert [item for item in told if item.set == FASTER.set] == [FASTER] and told[0] == FASTER
    assert any(item.change.startswith("stop or move the other processes") for item in told), "no setting does that"


def test_what_changes_the_training_comes_after_what_does_not() -> None:
    other = replace(FASTER, change="half as many layers", predicted_gain=9.0, changes_training=True)
    small, slower = replace(FASTER, change="a", predicted_gain=0.02), replace(FASTER, change="b", predicted_gain=-0.2)
    assert [item.change for item in ranked([other, slower, small, FASTER])] == [
        "compute in bf16",
        "a",
        "half as many layers",
    ]
