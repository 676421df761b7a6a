"""Counted language models: probabilities sum to one, known text is predicted, rows are never joined."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullbore.base.errors import InputError
from fullbore.models import ngram


def every(model: ngram.Ngram, *before: int) -> np.ndarray:
    """Windows that end in each token of the vocabulary."""
    return np.array([[*before, token] for token in range(model.vocabulary_size)])


@given(
    rows=st.lists(st.lists(st.integers(0, 6), min_size=5, max_size=5), min_size=1, max_size=20),
    context=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    order=st.sampled_from([2, 3]),
)
@settings(max_examples=100, deadline=None)
def test_probabilities_are_positive_and_sum_to_one(
    rows: list[list[int]], context: tuple[int, int], order: ngram.Literal[2, 3]
) -> None:
    model = ngram.fit(np.array(rows, np.uint16), order, 7)
    for length in range(order):
        chances = model.probability(every(model, *context[:length]))
        assert (chances > 0).all()
        assert chances.sum() == pytest.approx(1, abs=1e-9)


def test_modified_kneser_ney_by_hand() -> None:
    """Bigrams of one row: 0 1 0 1 0 2 over three tokens, every count of its own (Chen and Goodman 1998, 26 and 27)."""
    model = ngram.fit(np.array([[0, 1, 0, 1, 0, 2]]), 2, 3)
    # counts: 01 twice, 10 twice, 02 once: n1 = 1, n2 = 2, n3 = 0; Y = 1 / 5; D1 = 1 - 2 Y 2 = 0.2, D2 = 2 -> 1.9
    # lower order: 0, 1, 2 each follow one context: n1 = 3, n2 = 0; Y = 0.5, D1 = 1 - 0 = 1 -> 0.95
    unigram = (1 - 0.95) / 3 + 3 * 0.95 / 3 / 3
    assert model.probability(every(model)) == pytest.approx([unigram] * 3)
    spared = 0.2 + 1.9
    expected = [(0 + spared * unigram) / 3, (2 - 1.9 + spared * unigram) / 3, (1 - 0.2 + spared * unigram) / 3]
    assert model.probability(every(model, 0)) == pytest.approx(expected)
    assert model.probability(every(model, 2)) == pytest.approx([unigram] * 3)


def test_a_repeating_text_is_learned_and_noise_is_not() -> None:
    cycle = np.tile(np.arange(8), 2001)[:16000].reshape(250, 64)
    assert ngram.bits_per_byte(cycle, cycle, 3, 8, cycle[:, 1:].size) < 0.05
    noise = np.random.default_rng(0).integers(0, 8, (250, 64))
    for order in (2, 3):
        bits = ngram.bits_per_byte(noise[:200], noise[200:], order, 8, noise[200:, 1:].size)
        assert 2.9 < bits < 3.2


def test_a_trigram_sees_what_a_bigram_cannot() -> None:
    source = np.random.default_rng(1)
    rows = np.zeros((300, 40), np.int64)
    rows[:, :2] = source.integers(0, 10, (300, 2))
    for column in range(2, 40):
        rows[:, column] = (rows[:, column - 1] * 3 + rows[:, column - 2] * 7 + (source.random(300) < 0.2)) % 10
    judged = rows[250:]
    bigram, trigram = (ngram.bits_per_byte(rows[:250], judged, order, 10, judged[:, 1:].size) for order in (2, 3))
    assert trigram < 0.5 * bigram


def test_runs_never_cross_rows() -> None:
    model = ngram.fit(np.array([[1, 2, 3], [4, 5, 6]], np.uint16), 2, 8)
    assert model.levels[1].grams.tolist() == [(1 << 3) + 2, (2 << 3) + 3, (4 << 3) + 5, (5 << 3) + 6]
    flat = ngram.fit(np.array([1, 2, 3, 4, 5, 6], np.uint16), 2, 8)
    assert len(flat.levels[1].grams) == 5


def test_bits_are_those_of_every_target() -> None:
    source = np.random.default_rng(2)
    train, judged = (
        source.integers(0, 20, (50, 17)).astype(np.uint16),
        source.integers(0, 20, (5, 17)).astype(np.uint16),
    )
    model = ngram.fit(train, 3, 20)
    bits = 0.0
    for row in judged:
        for place in range(1, 17):
            bits -= math.log2(model.probability(row[max(0, place - 2) : place + 1][None])[0])
    assert ngram.bits_per_byte(train, judged, 3, 20, 123.0) == pytest.approx(bits / 123)


def test_large_vocabularies_and_short_rows_are_refused() -> None:
    with pytest.raises(InputError, match="too many"):
        ngram.fit(np.zeros((2, 8), np.uint32), 3, 1 << 22)
    with pytest.raises(InputError, match="expected at least 3"):
        ngram.fit(np.zeros((2, 2), np.uint32), 3, 100)
    assert (
        ngram.fit(np.full((2, 8), (1 << 21) - 1, np.uint32), 3, 1 << 21).probability(np.full((1, 3), (1 << 21) - 1))[0]
        > 0.5
    )
