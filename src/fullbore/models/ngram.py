"""Language models by counting, the standard a trained one must beat: interpolated modified Kneser-Ney.

Source: Chen and Goodman (1998), An Empirical Study of Smoothing Techniques for Language Modeling, section 3: absolute
discounts by count (1, 2, 3 and more), lower orders from the number of different contexts a word follows, interpolated
down to the uniform distribution, so that every token has a probability and they sum to one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fullbore.base.errors import InputError

Tokens = NDArray[Any]
Keys = NDArray[np.uint64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Level:
    """Counts of one order. Grams are the words before and the word, packed; contexts are what comes before the word."""

    grams: Keys
    discounted: Floats
    contexts: Keys
    totals: Floats
    spared: Floats
    """What the discounts took from each context, for the order below."""

    def weighed(self, grams: Keys, contexts: Keys, below: Floats) -> Floats:
        """p(word | context) for rows of grams, given the order below's."""
        place, known = _find(self.contexts, contexts)
        total = np.where(known, self.totals[place], 1.0)
        spared = np.where(known, self.spared[place], 1.0)
        where, seen = _find(self.grams, grams)
        own = np.where(seen & known, self.discounted[where], 0.0)
        weighed: Floats = (own + spared * below) / total
        return weighed


def _find(keys: Keys, wanted: Keys) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return place, keys[place] == wanted


@dataclass(frozen=True)
class Ngram:
    """Levels from the unigram up; `vocabulary_size` tokens."""

    levels: tuple[_Level, ...]
    vocabulary_size: int
    bits: int

    def probability(self, windows: Tokens) -> Floats:
        """p(last | those before) for rows of `windows` [n, k], k up to the order: a shorter row uses a lower order."""
        chance = np.full(len(windows), 1.0 / self.vocabulary_size)
        for length, level in enumerate(self.levels[: windows.shape[1]], start=1):
            grams = _pack(windows[:, windows.shape[1] - length :], self.bits)
            chance = level.weighed(grams, grams >> np.uint64(self.bits), chance)
        return chance


def _pack(windows: Tokens, bits: int) -> Keys:
    """Rows of tokens [n, k] as integers; the last token is in the lowest bits."""
    packed = windows[:, 0].astype(np.uint64)
    for column in range(1, windows.shape[1]):
        packed = (packed << np.uint64(bits)) | windows[:, column].astype(np.uint64)
    return packed


def _windows(rows: Tokens, length: int) -> Tokens:
    """All runs of `length` tokens inside the rows: [n, length]."""
    return np.lib.stride_tricks.sliding_window_view(rows, length, axis=1).reshape(-1, length)


def _level(grams: Keys, counts: NDArray[np.int64], bits: int) -> _Level:
    """Modified Kneser-Ney of sorted grams and their counts (equations 26 and 27)."""
    of = [int((counts == times).sum()) for times in range(1, 5)]
    base = of[0] / (of[0] + 2 * of[1]) if of[0] and of[1] else 0.5
    steps = [
        min(max(times - (times + 1) * base * of[times] / of[times - 1], 0.05), times * 0.95) if of[times - 1] else 0.5
        for times in (1, 2, 3)
    ]
    taken = np.array([0.0, *steps])[np.minimum(counts, 3)]
    contexts, starts = np.unique(grams >> np.uint64(bits), return_index=True)
    return _Level(
        grams=grams,
        discounted=counts - taken,
        contexts=contexts,
        totals=np.add.reduceat(counts.astype(np.float64), starts),
        spared=np.add.reduceat(taken, starts),
    )


def fit(train_tokens: Tokens, order: Literal[2, 3], vocabulary_size: int) -> Ngram:
    """Count the rows of `train_tokens` [n, T+1]; a one-dimensional array is one row. No run crosses the rows' ends.

    Raises InputError if the rows are shorter than `order` or the vocabulary too large to pack (2^21 for trigrams).
    """
    rows = np.atleast_2d(train_tokens)
    bits = max(1, int(vocabulary_size - 1).bit_length())
    if bits * order > 63:
        raise InputError(f"baselines: {vocabulary_size} tokens are too many to count runs of {order}")
    if rows.size == 0 or rows.shape[1] < order:
        raise InputError(f"baselines: found rows of {rows.shape[-1]} tokens, expected at least {order}")
    grams, counts = np.unique(_pack(_windows(rows, order), bits), return_counts=True)
    levels = [_level(grams, counts, bits)]
    for length in range(order - 1, 0, -1):
        shorter = grams & np.uint64((1 << bits * length) - 1)
        grams, counts = np.unique(shorter, return_counts=True)
        levels.insert(0, _level(grams, counts, bits))
    return Ngram(tuple(levels), vocabulary_size, bits)


def bits_per_byte(
    train_tokens: Tokens, judged_tokens: Tokens, order: Literal[2, 3], vocabulary_size: int, judged_bytes: float
) -> float:
    """Bits per byte of the targets in `judged_tokens` [m, T+1], every token of a row but its first, under the model
    counted from `train_tokens` [n, T+1] (uint16 or uint32).

    A target sees the tokens before it in its own row, as the trained model does. `judged_bytes`: bytes of text that
    the targets stand for.
    """
    model = fit(train_tokens, order, vocabulary_size)
    rows = np.atleast_2d(judged_tokens)
    bits = 0.0
    for length in range(2, min(order, rows.shape[1]) + 1):
        windows = _windows(rows, length) if length == order else rows[:, :length]
        bits -= float(np.log2(model.probability(windows)).sum())
    return bits / judged_bytes if judged_bytes else math.inf
