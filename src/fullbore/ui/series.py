"""Series of any length in bounded memory: what is thinned keeps its lowest, mean and highest values."""

from __future__ import annotations

from dataclasses import dataclass

POINTS = 960
"""A series is drawn from at most this many values: all of them, or a third as many buckets of three."""


@dataclass(frozen=True)
class Series:
    """One measured quantity: bucket i stands for the values between its neighbours' `x`."""

    x: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    last: float = 0.0
    """The newest value, as it was recorded."""
    count: int = 0
    """How many values were recorded."""

    @property
    def thinned(self) -> bool:
        return self.count > len(self.x)

    def __bool__(self) -> bool:
        return self.count > 0


class Sampler:
    """Takes values one by one; when its buckets are full, neighbours merge and each holds twice as many."""

    def __init__(self, points: int = POINTS) -> None:
        self._points = points
        self._stride = 1
        self._last = 0.0
        self._buckets: list[
            tuple[int, float, float, float, float, float]
        ] = []  # count, first x, last x, low, high, sum

    def add(self, x: float, value: float) -> None:
        """`x` must not decrease; call `rewind` first where it does."""
        self._last = value
        one = (1, x, x, value, value, value)
        if self._buckets and self._buckets[-1][0] < self._stride:
            self._buckets[-1] = _merged(self._buckets[-1], one)
            return
        while len(self._buckets) >= (self._points if self._stride == 1 else self._points // 3):
            odd = self._buckets[len(self._buckets) // 2 * 2 :]
            pairs = zip(self._buckets[::2], self._buckets[1::2], strict=False)
            self._buckets = [*(_merged(left, right) for left, right in pairs), *odd]
            self._stride *= 2
        self._buckets.append(one)

    def rewind(self, x: float) -> None:
        """Forget what lies beyond `x`: a resumed run does those steps again."""
        while self._buckets and self._buckets[-1][1] > x:
            self._buckets.pop()

    def series(self) -> Series:
        count, first, last, low, high, total = zip(*self._buckets, strict=True) if self._buckets else ((),) * 6
        return Series(
            x=tuple((a + b) / 2 for a, b in zip(first, last, strict=True)),
            low=low,
            mean=tuple(s / n for s, n in zip(total, count, strict=True)),
            high=high,
            last=self._last,
            count=sum(count),
        )


def _merged(
    one: tuple[int, float, float, float, float, float], two: tuple[int, float, float, float, float, float]
) -> tuple[int, float, float, float, float, float]:
    return one[0] + two[0], one[1], two[2], min(one[3], two[3]), max(one[4], two[4]), one[5] + two[5]
