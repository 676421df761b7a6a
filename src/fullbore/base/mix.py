"""Chance as a pure function: 64 bits made to look random, on numpy's arrays of uint64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GOLDEN = 0x9E3779B97F4A7C15
"""What splitmix64 adds from one number to the next."""


def mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA 2014), a bijection: every input bit changes every output
    bit. 0 stays 0."""
    mixed: Any = words
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB
    result: NDArray[np.uint64] = mixed ^ (mixed >> 31)
    return result
