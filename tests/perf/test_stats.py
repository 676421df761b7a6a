from __future__ import annotations

import random
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullbore.perf.measure import stats

values = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=60)


@given(values, st.floats(0, 1))
def test_percentiles_lie_among_the_values_and_grow(samples: list[float], share: float) -> None:
    found = stats.percentile(samples, share)
    assert min(samples) <= found <= max(samples)
    assert stats.percentile(samples, 0) == min(samples) and stats.percentile(samples, 1) == max(samples)
    assert stats.percentile(samples, share / 2) <= found * (1 + 1e-12)


@given(values)
def test_the_interval_holds_the_median(samples: list[float]) -> None:
    low, high = stats.interval(samples)
    assert low <= median(samples) <= high
    assert stats.mad(samples) >= 0


@given(values)
def test_warm_up_is_a_prefix_and_at_most_half(samples: list[float]) -> None:
    kept = stats.steady(samples)
    assert kept == samples[len(samples) - len(kept) :]
    assert len(kept) >= len(samples) - len(samples) // 2


@given(values)
def test_nothing_differs_from_itself(samples: list[float]) -> None:
    assert not stats.differ(samples, samples)


def test_slow_first_steps_are_dropped() -> None:
    assert stats.steady([9.0, 4.0, 1.0, 1.1, 1.0, 0.9, 1.0, 1.0]) == [1.0, 1.1, 1.0, 0.9, 1.0, 1.0]
    assert stats.steady([9.0, 1.0]) == [9.0, 1.0]


def test_differences_beyond_the_noise_and_within() -> None:
    draw = random.Random(0)
    one = [1 + draw.gauss(0, 0.05) for _ in range(30)]
    assert stats.differ(one, [value * 1.2 for value in one])
    assert not stats.differ(one, [1 + draw.gauss(0, 0.05) for _ in range(30)])
    assert not stats.differ([1.0, 2.0], [5.0, 6.0])


def test_intervals_cover_the_true_median_about_as_often_as_they_say() -> None:
    draw = random.Random(1)
    hits = 0
    for _ in range(400):
        low, high = stats.interval([draw.expovariate(1.0) for _ in range(25)])
        hits += low <= 0.6931 <= high
    assert hits >= 0.93 * 400


def test_no_values() -> None:
    with pytest.raises(ValueError, match="no values"):
        stats.percentile([], 0.5)
    with pytest.raises(ValueError, match="no values"):
        stats.interval([])
