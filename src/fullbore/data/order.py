"""The order plane: which sample stands at which position of the endless stream, as a pure function.

Position p belongs to epoch p // rows; within an epoch the samples are permuted by a Feistel network over Z_a × Z_b
(Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002), a·b just above `rows`, and values outside
[0, rows) walk the cycle until they fall inside. Nothing is stored per sample, any position is answered at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fullbore.base.errors import InputError
from fullbore.base.mix import GOLDEN, mix

_ROUNDS = 8
_ODD = np.uint64(0xD1342543DE82EF95)
_MASK = (1 << 64) - 1

Words = NDArray[np.uint64]


@dataclass(frozen=True)
class Order:
    """The order of `rows` samples under `seed`. Raises InputError when there are none."""

    seed: int
    rows: int

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise InputError(
                "no rows to put in order", hint="the split is empty: give more data or a smaller share to it"
            )

    def ids(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sample ids (int64, same shape) at `positions` (int64, ≥ 0) of the endless stream."""
        positions = np.asarray(positions, np.int64)
        flat = positions.ravel()
        epochs, places = np.divmod(flat, self.rows)
        keys = self._keys(epochs.astype(np.uint64))
        ids = self._permute(places.astype(np.uint64), keys)
        while len(outside := np.flatnonzero(ids >= self.rows)):
            ids[outside] = self._permute(ids[outside], keys[outside])
        return ids.astype(np.int64).reshape(positions.shape)

    def _keys(self, epochs: Words) -> Words:
        seed = np.full(1, (self.seed * GOLDEN + GOLDEN) & _MASK, np.uint64)
        return mix(mix(seed) + epochs * np.uint64(GOLDEN))

    def _permute(self, values: Words, keys: Words) -> Words:
        width = math.isqrt(self.rows - 1) + 1
        a, b = np.uint64(width), np.uint64(-(-self.rows // width))
        left, right = values // b, values % b
        for number in range(_ROUNDS):
            key = keys + np.uint64((number + 1) * GOLDEN & _MASK)
            if number % 2 == 0:
                left = (left + mix(right * _ODD + key) % a) % a
            else:
                right = (right + mix(left * _ODD + key) % b) % b
        return left * b + right
