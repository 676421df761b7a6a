"""A run's operations under the roofs of its machine: one self-contained SVG, light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from fullbore.base.colours import DARK, LIGHT
from fullbore.base.units import format_bytes, format_flops
from fullbore.ui.labels import apart

_WIDTH, _HEIGHT = 800, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 72.0, 570.0, 58.0, 350.0
"""The plot; right of it stand the labels of the points."""
_COLOURS = {
    "products": "forward", "attention": "backward", "convolutions": "tokenise", "elementwise": "copy",
    "optimizer": "optimizer",
}  # fmt: skip
"""The state of the ledger whose colour a class has."""
_LINE = 17.0
"""Between the baselines of two labels."""


@dataclass(frozen=True)
class Axes:
    """Logarithmic, in whole decades."""

    x: tuple[int, int]
    y: tuple[int, int]

    def at(self, intensity: float, rate: float) -> tuple[float, float]:
        (low, high), (least, most) = self.x, self.y
        across = (math.log10(intensity) - low) / (high - low)
        up = (math.log10(rate) - least) / (most - least)
        return round(_LEFT + (_RIGHT - _LEFT) * across, 1), round(_BOTTOM - (_BOTTOM - _TOP) * up, 1)


def picture(told: Mapping[str, Any], name: str) -> str:
    """`told`: what `perf.plan.roofline` says of a run called `name`."""
    points = list(told["points"])
    axes = _axes(told, points)
    title = f"{name}: its operations under the roofline of its machine"
    body = _grid(axes) + "".join(_roof(axes, told, dtype, peak) for dtype, peak in told["peaks"].items())
    taken = [axes.at(point["intensity"], point["rate"]) for point in points]
    body += _memory(axes, told, taken) + _points(axes, points)
    foot = "A point: a class of operations. Its size: its share of forward, backward and optimizer. Dashes: to its roof"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">'
        f"<title>{escape(title)}</title><style>{_style()}</style>"
        f'<text class="rl-head" x="12" y="20">{escape(name)} under its roofline</text>'
        f'<text class="rl-quiet" x="{_WIDTH - 12}" y="20" text-anchor="end">{_cores(told)}</text>'
        f'{body}<text class="rl-quiet" x="12" y="{_HEIGHT - 8}">{foot}</text></svg>\n'
    )


def _cores(told: Mapping[str, Any]) -> str:
    count = int(told["threads"])
    return f"roofs as measured on {count} core{'' if count == 1 else 's'}"


def _axes(told: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> Axes:
    peaks = list(told["peaks"].values())
    ridge = max(peaks) / told["bandwidth"]
    across = [0.1, ridge * 4, *(point["intensity"] for point in points)]
    up = [*peaks, *(point["rate"] for point in points), *(point["roof"] for point in points)]
    return Axes(
        (math.floor(math.log10(min(across))), math.ceil(math.log10(max(across)))),
        (math.floor(math.log10(min(up)) - 0.1), math.ceil(math.log10(max(up)) + 0.05)),
    )


def _grid(axes: Axes) -> str:
    drawn = f'<text class="rl-quiet" x="{_LEFT - 8}" y="{_TOP - 12}" text-anchor="end">FLOP/s</text>'
    for power in range(axes.y[0], axes.y[1] + 1):
        _, y = axes.at(1.0, 10.0**power)
        drawn += f'<path class="rl-grid" d="M{_LEFT} {y}H{_RIGHT}"/>'
        drawn += f'<text class="rl-quiet" x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{_flops(10.0**power)}</text>'
    for power in range(axes.x[0], axes.x[1] + 1):
        x, _ = axes.at(10.0**power, 10.0 ** axes.y[0])
        drawn += f'<path class="rl-grid" d="M{x} {_TOP}V{_BOTTOM}"/>'
        drawn += f'<text class="rl-quiet" x="{x}" y="{_BOTTOM + 18}" text-anchor="middle">{10.0**power:,g}</text>'
    middle = (_LEFT + _RIGHT) / 2
    return f'{drawn}<text class="rl-quiet" x="{middle}" y="{_BOTTOM + 36}" text-anchor="middle">FLOP a byte</text>'


def _flops(rate: float) -> str:
    unit, size = next(((u, s) for u, s in (("T", 1e12), ("G", 1e9), ("M", 1e6)) if rate >= s), ("", 1.0))
    return f"{rate / size:g} {unit}"


def _roof(axes: Axes, told: Mapping[str, Any], dtype: str, peak: float) -> str:
    """The peak of one number format, from where memory allows it."""
    used = "rl-roof" if dtype == told["used"] else "rl-other"
    x, y = axes.at(peak / told["bandwidth"], peak)
    label = f"{dtype} {format_flops(peak)}"
    text = f'<text class="{used}-text" x="{_RIGHT - 4}" y="{y - 6}" text-anchor="end">{label}</text>'
    return f'<path class="{used}" d="M{x} {y}H{_RIGHT}"/>{text}'


def _memory(axes: Axes, told: Mapping[str, Any], taken: Sequence[tuple[float, float]]) -> str:
    """The slope of the bandwidth, up to the highest peak, labelled away from the points at `taken`."""
    bandwidth, peak = told["bandwidth"], max(told["peaks"].values())
    low = max(10.0 ** axes.x[0], 10.0 ** axes.y[0] / bandwidth)
    x1, y1 = axes.at(low, bandwidth * low)
    x2, y2 = axes.at(peak / bandwidth, peak)
    angle = round(math.degrees(math.atan2(y2 - y1, x2 - x1)), 1)
    x, y = max(
        ((x1 + part * (x2 - x1), y1 + part * (y2 - y1)) for part in (0.06, 0.3, 0.5)),
        key=lambda place: min((math.dist(place, point) for point in taken), default=0.0),
    )
    label = f"memory {format_bytes(bandwidth)}/s"
    text = f'<text class="rl-roof-text" transform="translate({x:.1f} {y:.1f}) rotate({angle})" y="-9">{label}</text>'
    return f'<path class="rl-roof" d="M{x1} {y1}L{x2} {y2}"/>{text}'


def _points(axes: Axes, points: Sequence[Mapping[str, Any]]) -> str:
    places = [axes.at(point["intensity"], point["rate"]) for point in points]
    heights = apart([y for _, y in places], _LINE * 2.2, _TOP + 10, _BOTTOM - 10)
    drawn = "".join(
        f'<path class="rl-lead" d="M{x} {y}L{_RIGHT + 10} {height}"/>'
        for (x, y), height in zip(places, heights, strict=True)
    )
    for point, (x, y), height in zip(points, places, heights, strict=True):
        _, roof = axes.at(point["intensity"], point["roof"])
        kind = f"rl-{point['name']}"
        radius = round(4 + 14 * math.sqrt(point["share"]), 1)
        reached = f"{point['rate'] / point['roof']:.0%} of its roof".replace("%", " %")
        said = f"{point['name']}: {format_flops(point['rate'])}, {reached}"
        drawn += f'<path class="rl-gap {kind}" d="M{x} {roof}V{y}"/>'
        drawn += f'<circle class="rl-dot {kind}" cx="{x}" cy="{y}" r="{radius}"><title>{escape(said)}</title></circle>'
        drawn += f'<text class="rl-name {kind}" x="{_RIGHT + 16}" y="{height}">{escape(point["name"])}</text>'
        time = f"{point['share']:.0%} of the time, ".replace("%", " %")
        drawn += f'<text class="rl-quiet" x="{_RIGHT + 16}" y="{height + 15}">{time}{reached}</text>'
    return drawn


def _style() -> str:
    """Class names are its own, for it stands in a report beside other pictures."""
    plain = (
        ".rl-head{font:600 15px system-ui,sans-serif;fill:var(--rl-ink)}.rl-quiet{font:12px system-ui,sans-serif;"
        "fill:var(--rl-quiet)}.rl-name{font:600 13px system-ui,sans-serif}.rl-grid{stroke:var(--rl-grid);fill:none}"
        ".rl-roof{stroke:var(--rl-ink);stroke-width:2;fill:none}.rl-roof-text{font:600 12px system-ui,sans-serif;"
        "fill:var(--rl-ink)}.rl-other{stroke:var(--rl-quiet);stroke-width:1.5;fill:none}.rl-other-text{font:12px "
        "system-ui,sans-serif;fill:var(--rl-quiet)}.rl-gap{stroke-dasharray:3 3;stroke-width:1.5;fill:none}"
        ".rl-lead{stroke:var(--rl-grid);fill:none}.rl-dot{fill-opacity:.82}"
    )
    light = "--rl-ink:#1f2328;--rl-quiet:#59636e;--rl-grid:#dfe3e8;" + _variables(LIGHT)
    dark = "--rl-ink:#e6edf3;--rl-quiet:#9198a1;--rl-grid:#30363d;" + _variables(DARK)
    classes = "".join(
        f".rl-{name}{{fill:var(--rl-c-{name})}}.rl-gap.rl-{name}{{stroke:var(--rl-c-{name});fill:none}}"
        for name in _COLOURS
    )
    return f"svg{{{light}}}@media screen and (prefers-color-scheme:dark){{svg{{{dark}}}}}{plain}{classes}"


def _variables(scheme: Mapping[str, str]) -> str:
    return "".join(f"--rl-c-{name}:{scheme[state]};" for name, state in _COLOURS.items())
