"""What pairs of measurements tell: known answers, coverage counted on made noise, and the words."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullbore.perf.measure import stats
from fullbore.perf.plan.difference import difference

values = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=25)


def noisy(draw: random.Random, pairs: int, factor: float) -> tuple[list[float], list[float]]:
    """Times of two things in ABBA order, the first `factor` times as long: heavy tails, spikes, a drift over all."""
    first, second = [], []
    for pair in range(pairs):
        drift = 1 + 0.5 * pair / pairs
        one, two = (drift * math.exp(0.03 * draw.gauss(0, 1)) for _ in range(2))
        spikes = [3.0 if draw.random() < 0.1 else 1.0 for _ in range(2)]
        first.append(one * spikes[0] * factor)
        second.append(two * spikes[1])
    return first, second


@given(values, st.floats(0.01, 100))
def test_a_constant_ratio_is_found(second: list[float], factor: float) -> None:
    found = stats.ratio([factor * value for value in second], second)
    assert found.value == pytest.approx(factor) and found.pairs == len(second)
    assert (found.interval is None) == (len(second) < stats.FEWEST_PAIRS)


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=6, max_size=20))
def test_the_interval_holds_the_ratio_and_turns_with_it(pairs: list[tuple[float, float]]) -> None:
    first, second = zip(*pairs, strict=True)
    found, turned = stats.ratio(first, second), stats.ratio(second, first)
    assert found.interval is not None and turned.interval is not None
    assert found.interval[0] <= found.value <= found.interval[1]
    assert turned.interval == pytest.approx((1 / found.interval[1], 1 / found.interval[0]))


def test_ranks_are_those_of_the_tables() -> None:
    """Critical values of the signed-rank statistic at 2.5 % a side (Wilcoxon and Wilcox, 1964): 0, 2, 3, 5, 8, 52."""
    table = {6: 0, 7: 2, 8: 3, 9: 5, 10: 8, 20: 52}
    assert {pairs: stats._outside(pairs) - 1 for pairs in table} == table
    assert stats._outside(5) == 0
    assert abs(stats._outside(61) - stats._outside(60) - 20) <= 5, "the approximation goes on where counting ends"


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_intervals_hold_the_truth_as_often_as_they_say(factor: float) -> None:
    draw, held, told = random.Random(7), 0, 0
    for _ in range(400):
        found = stats.ratio(*noisy(draw, 20, factor))
        assert found.interval is not None
        held += found.interval[0] <= factor <= found.interval[1]
        told += found.differs
    assert held >= 0.93 * 400
    assert told <= 0.07 * 400 if factor == 1 else told >= 0.75 * 400


def test_as_many_pairs_as_are_said_tell_the_difference_four_times_in_five() -> None:
    draw, told = random.Random(3), 0

    def times(pairs: int, factor: float) -> list[float]:
        return [factor * math.exp(0.03 * draw.gauss(0, 1)) for _ in range(pairs)]

    for _ in range(20):
        needed = stats.pairs_to_tell(stats.ratio(times(15, 1), times(15, 1)), 0.025)
        assert needed is not None and needed >= stats.FEWEST_PAIRS
        told += sum(stats.ratio(times(needed, 1.025), times(needed, 1)).differs for _ in range(20))
    assert 0.7 * 400 <= told <= 0.95 * 400


def test_no_pairs() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        stats.ratio([], [])


ONES = [1.0, 1.01, 0.99, 1.02, 0.98, 1.0, 1.015, 0.985]


@pytest.mark.parametrize(
    ("metric", "first", "sentence", "faster"),
    [
        ("seconds", 2.0, "B is 2.00x as fast as A", "B"),
        ("seconds", 0.5, "A is 2.00x as fast as B", "A"),
        ("tokens_per_second", 2.0, "A is 2.00x as fast as B", "A"),
        ("figures.step_seconds", 2.0, "B is 2.00x as fast as A", "B"),
        ("cpu_seconds", 0.5, "cpu_seconds of B is 2.00x that of A", None),
        ("loss", 2.0, "loss of A is 2.00x that of B", None),
    ],
)
def test_the_words_of_a_difference(metric: str, first: float, sentence: str, faster: str | None) -> None:
    found = difference(metric, [first * value for value in ONES], ONES[1:] + ONES[:1])
    assert found.sentence.startswith(f"{sentence} (95 % interval ") and found.differs and found.faster == faster


def test_the_words_of_none() -> None:
    equal = difference("seconds", ONES, ONES)
    assert equal.sentence == "no difference: the same in 8 pairs" and not equal.differs and equal.more_pairs == 0
    few = difference("seconds", [2.0] * 5, [1.0] * 5)
    assert few.sentence == "no difference can be told from 5 pairs: at least 6 are needed" and not few.differs
    rough = difference("seconds", [1.0, 1.3, 0.8, 1.1, 0.9, 1.2], [1.1, 0.9, 1.2, 1.0, 1.1, 0.8])
    assert rough.sentence.startswith("no difference can be told: A is ") and rough.more_pairs
    assert f"; {rough.more_pairs:,} more pairs would be needed to tell 2 %" in rough.sentence
    turned = [*ONES[3:], *ONES[:3]]
    fine = difference("seconds", (ONES + turned) * 10, (turned + ONES) * 10)
    assert "so that any is below" in fine.sentence and fine.more_pairs == 0 and fine.faster is None


def test_the_words_of_noise() -> None:
    found = difference("seconds", ONES, ONES[1:] + ONES[:1], same=True)
    assert found.sentence.startswith("noise: two runs of the same differ by ") and "8 pairs tell" in found.sentence
    assert not difference("seconds", [2.0] * 8, [1.0] * 8, same=True).differs
    assert "at least 6 pairs" in difference("seconds", [1.0], [1.0], same=True).sentence
