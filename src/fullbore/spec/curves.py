"""Seconds of a device's kernels by what they work on."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any


@dataclass(frozen=True)
class Curve:
    """Seconds of one call on a grid, from few to many of everything that they depend on.

    Between its points the logarithm of the seconds is linear in the logarithms of the sizes. Beyond the largest the
    last rate holds; below the smallest a call takes what the smallest takes.
    """

    axes: tuple[tuple[float, ...], ...]
    """Sizes, ascending, of each dimension."""
    seconds: tuple[float, ...]
    """In row-major order."""

    def at(self, sizes: Sequence[float]) -> float:
        beyond, places = 1.0, list[tuple[int, float]]()
        for axis, size in zip(self.axes, sizes, strict=True):
            inside = min(max(size, axis[0]), axis[-1])
            beyond *= max(1.0, size / axis[-1])
            low = max(0, min(bisect_right(axis, inside) - 1, len(axis) - 2))
            places.append((low, math.log(inside / axis[low]) / math.log(axis[low + 1] / axis[low])))
        total = 0.0
        for corner in product((0, 1), repeat=len(places)):
            weight, index = 1.0, 0
            for up, (low, share), axis in zip(corner, places, self.axes, strict=True):
                weight *= share if up else 1 - share
                index = index * len(axis) + low + up
            total += weight * math.log(self.seconds[index]) if weight else 0.0
        return beyond * math.exp(total)


@dataclass(frozen=True)
class Curves:
    """What is known of a device's kernels."""

    source: str
    """Who measured them, on what."""
    kernels: Mapping[str, Curve]
    """By `<name>/<dtype>/<threads>`: names and sizes are those of `spec.work.Launch`; one size: bytes moved."""
    launching: Mapping[str, float] = field(default_factory=dict)
    """Seconds that a launch costs besides, in a network's forward and backward pass, by
    `<forward|backward>/<precision>/<threads>`."""
    sustained: Mapping[str, float] = field(default_factory=dict)
    """What a kernel takes in a network over what it takes alone: `<precision>/<threads>`, of convolutions
    `convolution/<precision>/<threads>`."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Curves:
        kernels = {
            name: Curve(tuple(tuple(axis) for axis in curve["axes"]), tuple(curve["seconds"]))
            for name, curve in value["kernels"].items()
        }
        return cls(**{**value, "kernels": kernels})
