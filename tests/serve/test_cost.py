"""The learned cost of a batch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from fullbore.serve.cost import Cost


def test_a_line_is_found() -> None:
    cost = Cost()
    for tokens in (1, 7, 100, 30, 8):
        cost = cost.observe(tokens, 0.02 + 0.001 * tokens)
    assert cost.predict(50) == pytest.approx(0.07)
    assert cost.predict(1000) == pytest.approx(1.02)


def test_batches_of_one_size_predict_their_mean() -> None:
    cost = Cost().observe(8, 0.5).observe(8, 0.5)
    assert cost.predict(8) == pytest.approx(0.5)
    assert cost.predict(64) == pytest.approx(0.5)


def test_new_batches_count_more_than_old_ones() -> None:
    cost = Cost()
    for _ in range(50):
        cost = cost.observe(10, 1.0)
    for _ in range(50):
        cost = cost.observe(10, 2.0)
    assert cost.predict(10) == pytest.approx(2.0, rel=0.01)


def test_nothing_observed_predicts_nothing() -> None:
    with pytest.raises(ValueError, match="nothing observed"):
        Cost().predict(1)


@given(some.lists(some.tuples(some.integers(1, 100_000), some.floats(0, 1000)), min_size=1, max_size=30))
def test_a_prediction_is_never_negative(seen: list[tuple[int, float]]) -> None:
    cost = Cost()
    for tokens, seconds in seen:
        cost = cost.observe(tokens, seconds)
    assert cost.predict(1) >= 0
    assert cost.predict(1_000_000) >= 0
