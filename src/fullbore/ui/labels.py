"""Where a label of a horizontal line is in nobody's way: at which end, above the line or below it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import product

Curve = Sequence[tuple[float, float, float]]
"""(x, lowest, highest) in order of x, all in percent of the plot."""

_CHARACTER = 1.7
_HEIGHT = 10.0
"""Percent of a plot that a character is wide and a line of text high, in the narrow columns of a report."""
_LOOKS = 12
_LINE, _LABEL, _EDGE = 4, 2 * _LOOKS, 1
"""What another line through it, another label under it and the edge of the plot weigh, against one look at a curve."""


def place_labels(marks: Sequence[tuple[str, float]], curves: Sequence[Curve]) -> list[str]:
    """For each (label, height in percent): `right above`, `right below`, `left above` or `left below` its line.

    The first of these that covers least: curves, the lines of other labels, the labels that have a place already.
    """
    taken: list[tuple[float, float, float, float]] = []
    found = []
    for index, (label, height) in enumerate(marks):
        others = [other for at, (_, other) in enumerate(marks) if at != index]
        boxes = {
            f"{side} {edge}": _box(len(label) * _CHARACTER, height, side, edge)
            for side, edge in product(("right", "left"), ("above", "below"))
        }
        place = min(boxes, key=lambda name: _covered(boxes[name], curves, others, taken))
        taken.append(boxes[place])
        found.append(place)
    return found


def _box(width: float, height: float, side: str, edge: str) -> tuple[float, float, float, float]:
    left = 100 - width if side == "right" else 0.0
    bottom = height if edge == "above" else height - _HEIGHT
    return left, left + width, bottom, bottom + _HEIGHT


def _covered(
    box: tuple[float, float, float, float],
    curves: Sequence[Curve],
    lines: Sequence[float],
    taken: Sequence[tuple[float, float, float, float]],
) -> float:
    left, right, bottom, top = box
    looks = [left + (right - left) * look / (_LOOKS - 1) for look in range(_LOOKS)]
    spans = [span for curve in curves for x in looks if (span := _at(curve, x)) is not None]
    hidden = sum(low < top and high > bottom for low, high in spans)
    hidden += _LINE * sum(bottom < line < top for line in lines)
    hidden += _LABEL * sum(a < right and b > left and c < top and d > bottom for a, b, c, d in taken)
    return hidden + _EDGE * max(0.0, top - 100, -bottom)


def _at(curve: Curve, x: float) -> tuple[float, float] | None:
    """A curve's lowest and highest at `x`, on straight lines between its points; none beyond its ends."""
    after = bisect_left(curve, x, key=lambda point: point[0])
    if after == len(curve) or (after == 0 and curve[0][0] > x):
        return None
    if after == 0:
        return curve[0][1], curve[0][2]
    (x0, low0, high0), (x1, low1, high1) = curve[after - 1], curve[after]
    share = (x - x0) / (x1 - x0) if x1 > x0 else 1.0
    return low0 + share * (low1 - low0), high0 + share * (high1 - high0)


def apart(heights: Sequence[float], distance: float, low: float, high: float) -> list[float]:
    """Heights near the given ones, in their order, at least `distance` from each other and between `low` and `high` as
    far as there is room."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    found = list(heights)
    floor = low
    for index in order:
        found[index] = floor = max(found[index], floor)
        floor += distance
    ceiling = high
    for index in reversed(order):
        found[index] = ceiling = min(found[index], ceiling)
        ceiling -= distance
    return found
