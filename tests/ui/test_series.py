from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from fullbore.ui.series import POINTS, Sampler


def sampled(values: list[float], points: int = POINTS) -> Sampler:
    sampler = Sampler(points)
    for x, value in enumerate(values):
        sampler.add(x, value)
    return sampler


def test_short_series_are_kept_whole() -> None:
    series = sampled([3.0, 1.0, 2.0]).series()
    assert series.x == (0, 1, 2)
    assert series.low == series.mean == series.high == (3.0, 1.0, 2.0)
    assert not series.thinned and series.last == 2.0


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400), st.integers(6, 40))
def test_thinning_keeps_extremes_count_and_mean(values: list[float], points: int) -> None:
    series = sampled(values, points).series()
    stored = len(series.x) * (3 if series.thinned else 1)
    assert stored <= points + 3
    assert min(series.low) == min(values) and max(series.high) == max(values)
    assert series.count == len(values) and series.last == values[-1]
    assert list(series.x) == sorted(series.x)
    assert all(low <= high for low, high in zip(series.low, series.high, strict=True))


def test_a_hundred_thousand_values_are_under_a_thousand_points_and_keep_one_spike() -> None:
    values = [math.sin(index / 900) for index in range(100_000)]
    values[61_234] = 50.0
    series = sampled(values).series()
    assert 3 * len(series.x) <= 1000 and series.count == 100_000
    assert max(series.high) == 50.0


def test_rewind_forgets_what_is_done_again() -> None:
    sampler = sampled([float(x) for x in range(141)])
    sampler.rewind(100)
    for step in range(101, 301):
        sampler.add(step, -1.0)
    series = sampler.series()
    assert list(series.x) == list(range(301)) and series.mean[101] == -1.0 and series.mean[100] == 100.0


def test_no_values() -> None:
    assert not Sampler().series()
