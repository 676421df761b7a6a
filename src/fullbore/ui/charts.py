"""Charts as strings: the drawing is an SVG that stretches to any width, its text is HTML and keeps its size.

Every function is pure. Whatever is drawn has a `<title>`, every axis has its unit, and lines carry what `report.js`
needs to read them out. Colours are CSS values, normally `var(--...)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from fullbore.base.units import format_bytes, format_count, format_seconds
from fullbore.ui.labels import Curve, place_labels
from fullbore.ui.series import Series

_SPAN = 1000
"""Drawings are this many units wide and high, whatever they show."""


@dataclass(frozen=True)
class Line:
    """One curve; a thinned one is drawn as its mean in the band of its lowest and highest values."""

    label: str
    colour: str
    series: Series
    dots: bool = False


@dataclass(frozen=True)
class Layer:
    """One band of a stack: a value per interval."""

    label: str
    colour: str
    values: Sequence[float]


@dataclass(frozen=True)
class Mark:
    """A horizontal line at a value that others are judged by: a baseline, a limit."""

    label: str
    value: float


@dataclass(frozen=True)
class Point:
    """One dot of a scatter chart; `low` and `high` span its interval."""

    label: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    emphasis: bool = False


@dataclass(frozen=True)
class Part:
    """A share of a whole; `ink` is the colour of text on it."""

    label: str
    share: float
    said: str
    colour: str
    ink: str


@dataclass(frozen=True)
class Scale:
    """From values to the 0-1000 of a drawing, with round ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        return round(_SPAN * (value - self.low) / (self.high - self.low), 1)

    def percent(self, value: float) -> float:
        return round(100 * (value - self.low) / (self.high - self.low), 2)


def ticks(low: float, high: float, count: int = 5) -> tuple[float, ...]:
    """About `count` round numbers (1, 2, 2.5, 5 times a power of ten) that enclose `low` and `high`."""
    if not high > low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / max(1, count - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(float(f"{index * step:.12g}") for index in range(first, last + 1))


def scale(values: Sequence[float], *, count: int = 5, tight: bool = False) -> Scale:
    """A scale that holds all `values`; `tight`: ends at the values, not at the next tick."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    marks = ticks(low, high, count)
    if tight and high > low:
        return Scale(low, high, tuple(mark for mark in marks if low <= mark <= high))
    return Scale(marks[0], marks[-1], marks)


def plain(value: float) -> str:
    """A figure with up to four significant digits, large ones as 12k or 3.4M."""
    return format_count(value) if abs(value) >= 10_000 else f"{value:.4g}"


def clock(seconds: float) -> str:
    """A moment on a time axis: `45 s`, `2:30`, `1:05:00`."""
    whole = round(seconds)
    if seconds < 60:
        return f"{seconds:.3g} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def step_scale(steps: int) -> Scale:
    """From zero to `steps`, ticks at whole steps."""
    found = scale((0.0, float(max(1, steps))), tight=True)
    return Scale(found.low, found.high, tuple(tick for tick in found.ticks if tick == int(tick)))


def time_scale(seconds: float) -> Scale:
    """From zero to `seconds`, ticks at round seconds, minutes or hours."""
    end = max(seconds, 1e-3)
    steps = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)
    step = next((step for step in steps if end / step <= 5), 86400 * math.ceil(end / 86400 / 5))
    if end < 2:
        return scale((0.0, end), count=4, tight=True)
    return Scale(0.0, end, tuple(float(tick) for tick in range(0, math.floor(end) + 1, step)))


FORMATS: dict[str, Callable[[float], str]] = {
    "": plain, "bytes": format_bytes, "clock": clock, "seconds": format_seconds,
    "share": lambda value: f"{value * 100:.3g} %",
}  # fmt: skip
"""How a unit's figures are written on axes and read out by `report.js`, by name."""


def line_chart(
    name: str,
    lines: Sequence[Line],
    *,
    unit: str,
    x: Scale | None = None,
    x_unit: str = "step",
    y_format: str = "",
    x_format: str = "",
    marks: Sequence[Mark] = (),
    include: Sequence[float] = (),
    short: bool = False,
) -> str:
    """Curves over a common x; `marks` are lines across it, labelled at their right end; y holds `include` too."""
    drawn = [line for line in lines if line.series]
    values = [v for line in drawn for v in (*line.series.low, *line.series.high)]
    values += [*include, *(mark.value for mark in marks)]
    across = x or scale([v for line in drawn for v in line.series.x], tight=True)
    up = scale(values, count=3 if short else 5)
    body = "".join(_band(line, across, up) for line in drawn if line.series.thinned)
    body += "".join(_mark_line(mark, up) for mark in marks)
    body += "".join(_curve(line, across, up) for line in drawn)
    places = place_labels(
        [(mark.label, up.percent(mark.value)) for mark in marks], [_percents(line, across, up) for line in drawn]
    )
    key = "".join(
        f'<span class="key"><i style="background:{line.colour}"></i>{escape(line.label)} '
        f"<b>{FORMATS[y_format](line.series.last)}</b></span>"
        for line in drawn
    )
    summary = f"{name}, {unit}: " + "; ".join(f"{line.label} ends at {plain(line.series.last)}" for line in drawn)
    data = (
        f' data-x="{across.low:g} {across.high:g} {x_format or "plain"} {escape(x_unit)}"'
        f' data-y="{up.low:g} {up.high:g} {y_format or "plain"}"'
    )
    plot = _plot(summary, body, across, up, FORMATS[x_format], FORMATS[y_format], _mark_labels(marks, up, places), data)
    return _figure(name, unit, key, plot, x_unit, short)


def stack_chart(
    name: str, edges: Sequence[float], layers: Sequence[Layer], *, unit: str, x: Scale, top: float, short: bool = False,
    x_unit: str = "wall time", key: bool = True, y_format: str = "",
) -> str:  # fmt: skip
    """Layers on top of one another between `edges` (one more than values), from zero to `top`."""
    marks = ticks(0, top, 3)
    up = Scale(0.0, top, (*(mark for mark in marks if mark < top * 0.88), top))
    body, base = "", [0.0] * (len(edges) - 1)
    for layer in layers:
        upper = [min(top, low + value) for low, value in zip(base, layer.values, strict=True)]
        path = _steps([x.at(edge) for edge in edges], [up.at(v) for v in base], [up.at(v) for v in upper])
        base = upper
        if path:
            body += f'<path style="fill:{layer.colour}" d="{path}"><title>{escape(layer.label)}</title></path>'
    keys = "".join(
        f'<span class="key"><i class="box" style="background:{layer.colour}"></i>{escape(layer.label)}</span>'
        for layer in layers
    )
    plot = _plot(f"{name}, {unit}", f'<g class="stack">{body}</g>', x, up, clock, FORMATS[y_format])
    return _figure(name, unit, keys if key else "", plot, x_unit, short)


def scatter_chart(name: str, points: Sequence[Point], *, x_unit: str, unit: str, mark: Mark | None = None) -> str:
    """Labelled dots with their intervals."""
    values = [v for p in points for v in (p.y, p.low, p.high) if v is not None] + ([mark.value] if mark else [])
    across, up = scale([0.0, *(p.x * 1.08 for p in points)], count=4), scale([0.0, *values], count=4)
    body = _mark_line(mark, up) if mark else ""
    labels = _mark_labels([mark], up, place_labels([(mark.label, up.percent(mark.value))], [])) if mark else ""
    for point in points:
        at_x, at_y = across.at(point.x), _SPAN - up.at(point.y)
        if point.low is not None and point.high is not None:
            body += f'<path class="interval" d="M{at_x} {_SPAN - up.at(point.low)}V{_SPAN - up.at(point.high)}"/>'
        kind = "dot chosen" if point.emphasis else "dot"
        tip = f"{point.label}: {plain(point.y)} {unit} at {plain(point.x)} {x_unit}"
        body += f'<path class="{kind}" d="M{at_x} {at_y}h0"><title>{escape(tip)}</title></path>'
        side = "left" if across.percent(point.x) > 75 else "right"
        labels += (
            f'<span class="name {side}{" chosen" if point.emphasis else ""}" '
            f'style="left:{across.percent(point.x)}%;top:{100 - up.percent(point.y)}%">{escape(point.label)}</span>'
        )
    return _figure(name, unit, "", _plot(f"{name}, {unit}", body, across, up, plain, plain, labels), x_unit, False)


def whole_bar(parts: Sequence[Part]) -> str:
    """One bar of 100 %."""
    cells = "".join(
        f'<i style="flex-grow:{part.share:.6f};background:{part.colour};color:{part.ink}" '
        f'title="{escape(f"{part.label}: {part.said}")}">'
        f"{f'<span>{escape(part.label)}</span>' if part.share > 0.1 else ''}</i>"
        for part in parts
        if part.share > 0
    )
    summary = escape(", ".join(f"{part.label} {part.said}" for part in parts))
    return f'<div class="whole" role="img" aria-label="{summary}">{cells}</div>'


def _points(xs: Sequence[float], ys: Sequence[float]) -> str:
    return "M" + "L".join(f"{x:g} {_SPAN - y:g}" for x, y in zip(xs, ys, strict=True))


def _curve(line: Line, across: Scale, up: Scale) -> str:
    series = line.series
    path = _points([across.at(x) for x in series.x], [up.at(y) for y in series.mean])
    tip = f"<title>{escape(line.label)}</title>"
    dots = ""
    if line.dots or len(series.x) == 1:
        spots = "".join(f"M{across.at(x):g} {_SPAN - up.at(y):g}h0" for x, y in zip(series.x, series.mean, strict=True))
        dots = f'<path class="spots" style="stroke:{line.colour}" d="{spots}"/>'
    label = escape(line.label, quote=True)
    return f'<path class="line" style="stroke:{line.colour}" data-line="{label}" d="{path}">{tip}</path>{dots}'


def _band(line: Line, across: Scale, up: Scale) -> str:
    series = line.series
    there = [(across.at(x), up.at(y)) for x, y in zip(series.x, series.high, strict=True)]
    back = [(across.at(x), up.at(y)) for x, y in zip(reversed(series.x), reversed(series.low), strict=True)]
    path = _points(*zip(*there, *back, strict=True))
    return f'<path class="band" style="fill:{line.colour}" d="{path}Z"/>'


def _steps(edges: Sequence[float], lower: Sequence[float], upper: Sequence[float]) -> str:
    """Rectangles between lower and upper, equal neighbours joined."""
    path, index = "", 0
    while index < len(lower):
        end = index
        while end + 1 < len(lower) and (lower[end + 1], upper[end + 1]) == (lower[index], upper[index]):
            end += 1
        if upper[index] > lower[index]:
            path += (
                f"M{edges[index]:g} {_SPAN - upper[index]:g}H{edges[end + 1]:g}V{_SPAN - lower[index]:g}"
                f"H{edges[index]:g}z"
            )
        index = end + 1
    return path


def _mark_line(mark: Mark, up: Scale) -> str:
    y = _SPAN - up.at(mark.value)
    return f'<path class="mark" d="M0 {y:g}H{_SPAN}"><title>{escape(mark.label)}</title></path>'


def _percents(line: Line, across: Scale, up: Scale) -> Curve:
    """A curve's lowest and highest values by x, all in percent of the plot."""
    series = line.series
    return [
        (across.percent(x), up.percent(low), up.percent(high))
        for x, low, high in zip(series.x, series.low, series.high, strict=True)
    ]


def _mark_labels(marks: Sequence[Mark], up: Scale, places: Sequence[str]) -> str:
    return "".join(
        f'<span class="marked {place}" style="top:{100 - up.percent(mark.value):.2f}%">{escape(mark.label)}</span>'
        for mark, place in zip(marks, places, strict=True)
    )


def _plot(
    summary: str, body: str, across: Scale, up: Scale, x_text: Callable[[float], str], y_text: Callable[[float], str],
    labels: str = "", data: str = "",
) -> str:  # fmt: skip
    grid = "".join(f"M0 {_SPAN - up.at(tick):g}H{_SPAN}" for tick in up.ticks)
    y_ticks = "".join(f'<span class="y" style="top:{100 - up.percent(t):g}%">{y_text(t)}</span>' for t in up.ticks)
    x_ticks = "".join(f'<span class="x" style="left:{across.percent(t):g}%">{x_text(t)}</span>' for t in across.ticks)
    return (
        f'<div class="plot"{data}><svg viewBox="0 0 {_SPAN} {_SPAN}" preserveAspectRatio="none" role="img">'
        f'<title>{escape(summary)}</title><path class="grid" d="{grid}"/>{body}</svg>{y_ticks}{x_ticks}{labels}</div>'
    )


def _figure(name: str, unit: str, key: str, plot: str, x_unit: str, short: bool) -> str:
    caption = f'<figcaption><strong>{escape(name)}</strong> <span class="unit">{escape(unit)}</span>{key}</figcaption>'
    size = " short" if short else ""
    return f'<figure class="chart{size}">{caption}{plot}<div class="axis">{escape(x_unit)}</div></figure>'
