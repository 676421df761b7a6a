"""The trials of `fullbore tune`, predicted beside measured: one self-contained SVG, light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from fullbore.base.colours import DARK, LIGHT
from fullbore.base.units import format_seconds, plural
from fullbore.ui.charts import ticks

_WIDTH, _HEIGHT = 760, 520
_LEFT, _RIGHT, _TOP, _BOTTOM = 84.0, 736.0, 64.0, 446.0
_BAND = 0.1
"""Of the diagonal: predictions that were so far off at most lie in it."""
_STEPS = (1, 1.5, 2, 3, 5, 7)
"""Marks of an axis within a decade."""


class _Axis:
    """Logarithmic, the same across and up, so that what was predicted right lies on the diagonal."""

    def __init__(self, values: Sequence[float]) -> None:
        self.low, self.high = min(values) / 1.12, max(values) * 1.12
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        marks = [step * 10.0**power for power in decades for step in _STEPS]
        self.ticks = [mark for mark in marks if self.low <= mark <= self.high] or ticks(self.low, self.high)[1:-1]

    def share(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        return math.log(inside / self.low) / math.log(self.high / self.low)

    def across(self, value: float) -> float:
        return round(_LEFT + (_RIGHT - _LEFT) * self.share(value), 1)

    def up(self, value: float) -> float:
        return round(_BOTTOM - (_BOTTOM - _TOP) * self.share(value), 1)


def picture(told: Mapping[str, Any]) -> str:
    """`told`: the answer of `fullbore tune`."""
    rows = [row for row in told["trials"] if row["status"] == "measured"]
    seconds = [row[key] for row in rows for key in ("predicted_seconds", "expected_seconds", "seconds")]
    axis = _Axis(seconds)
    body = _grid(axis) + _diagonal(axis) + "".join(_trial(axis, row) for row in rows)
    title = f"{told['job']}: seconds of a step, predicted and measured"
    others = len(told["trials"]) - len(rows)
    count = f"{plural(len(rows), 'trial')} of {told['settings']} settings" + (
        f", {others} more failed" if others else ""
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">'
        f"<title>{escape(title)}</title><style>{_style()}</style>"
        f'<text class="tn-head" x="{_LEFT}" y="24">{escape(title)}</text>'
        f'<text class="tn-quiet" x="{_LEFT}" y="43">{count}; chosen: {escape(told["chosen_label"])}</text>'
        f"{body}{_key()}</svg>\n"
    )


def _grid(axis: _Axis) -> str:
    drawn = ""
    for mark in axis.ticks:
        x, y, said = axis.across(mark), axis.up(mark), format_seconds(mark)
        drawn += f'<path class="tn-grid" d="M{_LEFT} {y}H{_RIGHT}M{x} {_TOP}V{_BOTTOM}"/>'
        drawn += f'<text class="tn-quiet" x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{said}</text>'
        drawn += f'<text class="tn-quiet" x="{x}" y="{_BOTTOM + 18}" text-anchor="middle">{said}</text>'
    middle = (_LEFT + _RIGHT) / 2
    drawn += f'<text class="tn-quiet" x="{middle}" y="{_BOTTOM + 38}" text-anchor="middle">predicted</text>'
    return f'{drawn}<text class="tn-quiet" x="{_LEFT - 8}" y="{_TOP - 8}" text-anchor="end">measured</text>'


def _diagonal(axis: _Axis) -> str:
    """Where predictions hold, and the band of those that are off by a tenth at most."""
    low, high = axis.low, axis.high
    corners = [
        (low, low), (low * (1 + _BAND), low), (high, high / (1 + _BAND)), (high, high), (high / (1 + _BAND), high),
        (low, low * (1 + _BAND)),
    ]  # fmt: skip
    band = "L".join(f"{axis.across(x)} {axis.up(y)}" for x, y in corners)
    line = f"M{axis.across(low)} {axis.up(low)}L{axis.across(high)} {axis.up(high)}"
    return f'<path class="tn-band" d="M{band}Z"/><path class="tn-line" d="{line}"/>'


def _trial(axis: _Axis, row: Mapping[str, Any]) -> str:
    """A ring where the cost model put it, a dot where it was expected after the trials before, its spread upright."""
    x, y = axis.across(row["expected_seconds"]), axis.up(row["seconds"])
    plain, (low, high) = axis.across(row["predicted_seconds"]), row["interval"]
    kind = "tn-chosen" if row["chosen"] else "tn-dot"
    said = (
        f"{row['label']}: {format_seconds(row['seconds'])}, expected {format_seconds(row['expected_seconds'])}, "
        f"predicted {format_seconds(row['predicted_seconds'])}"
    )
    radius = 7 if row["chosen"] else 5
    return (
        f'<path class="tn-moved" d="M{plain} {y}H{x}"/><circle class="tn-ring" cx="{plain}" cy="{y}" r="4"/>'
        f'<path class="tn-spread" d="M{x} {axis.up(low)}V{axis.up(high)}"/>'
        f'<circle class="{kind}" cx="{x}" cy="{y}" r="{radius}"><title>{escape(said)}</title></circle>'
    )


def _key() -> str:
    y = _HEIGHT - 14
    entries = (
        ("tn-ring", 4, "by the cost model alone"), ("tn-dot", 5, "corrected by the trials before"),
        ("tn-chosen", 7, "chosen"),
    )  # fmt: skip
    drawn, x = "", _LEFT + 8
    for kind, radius, said in entries:
        drawn += f'<circle class="{kind}" cx="{x}" cy="{y - 4}" r="{radius}"/>'
        drawn += f'<text class="tn-quiet" x="{x + 14}" y="{y}">{said}</text>'
        x += 40 + 6.4 * len(said)
    return f'{drawn}<text class="tn-quiet" x="{_RIGHT}" y="{y}" text-anchor="end">band: ±10 %</text>'


def _style() -> str:
    def scheme(ink: str, quiet: str, grid: str, ground: str, colours: Mapping[str, str]) -> str:
        return (
            f"--tn-ink:{ink};--tn-quiet:{quiet};--tn-grid:{grid};--tn-ground:{ground};"
            f"--tn-dot:{colours['forward']};--tn-chosen:{colours['data wait']};"
        )

    light = scheme("#1f2328", "#59636e", "#e4e8ec", "#ffffff", LIGHT)
    dark = scheme("#e6edf3", "#9198a1", "#2a3037", "#14171a", DARK)
    return (
        f"svg{{{light}background:var(--tn-ground)}}@media screen and (prefers-color-scheme:dark){{svg{{{dark}}}}}"
        ".tn-head{font:600 15px system-ui,sans-serif;fill:var(--tn-ink)}"
        ".tn-quiet{font:12px system-ui,sans-serif;fill:var(--tn-quiet)}.tn-grid{stroke:var(--tn-grid);fill:none}"
        ".tn-line{stroke:var(--tn-quiet);fill:none}.tn-band{fill:var(--tn-grid);fill-opacity:.6}"
        ".tn-moved{stroke:var(--tn-quiet);stroke-dasharray:2 3;fill:none}"
        ".tn-ring{stroke:var(--tn-quiet);fill:var(--tn-ground)}"
        ".tn-spread{stroke:var(--tn-dot);stroke-width:2;fill:none}.tn-dot{fill:var(--tn-dot)}"
        ".tn-chosen{fill:var(--tn-chosen)}"
    )
