from __future__ import annotations

import random
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullbore.perf.measure import stats

values = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=60)


@given(values)
def test_the_interval_holds_the_median(samples: list[float]) -> None:
    low, high = stats.interval(samples)
    assert low <= median(samples) <= high


def test_intervals_cover_the_true_median_about_as_often_as_they_say() -> None:
    draw = random.Random(1)
    hits = 0
    for _ in range(400):
        low, high = stats.interval([draw.expovariate(1.0) for _ in range(25)])
        hits += low <= 0.6931 <= high
    assert hits >= 0.93 * 400


def test_no_values() -> None:
    with pytest.raises(ValueError, match="no values"):
        stats.interval([])
