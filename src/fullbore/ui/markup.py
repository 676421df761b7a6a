"""Small pieces of HTML that the panels share. Whatever comes from a run is escaped here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from fullbore.ui.reading import mapping, number
from fullbore.ui.view import View

_TEXT = 2000
QUALITY = ("bits_per_byte", "accuracy", "mean_squared_error", "perplexity")
"""Metrics by which a run is judged first, in order of preference."""
LOWER_IS_BETTER = ("bits_per_byte", "mean_squared_error", "perplexity", "loss")


def colour(state: str, role: str = "") -> str:
    """The CSS variable of a ledger state; `role="on-"`: of text on it."""
    return f"var(--{role}{re.sub(r'[^a-z0-9]+', '-', state.lower())})"


def said(value: Any, limit: int = _TEXT) -> str:
    """Escaped text of whatever a run wrote, cut where it is very long."""
    text = str(value)
    return escape(text if len(text) <= limit else f"{text[:limit]} … ({len(text) - limit} characters left out)")


def percent(share: float, digits: int = 0, sign: bool = False) -> str:
    return f"{share * 100:{'+' if sign else ''}.{digits}f} %".replace("-", "−")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """Rows of ready HTML; a heading that starts with `#` heads a column of figures. Narrow pages show rows as cards."""
    names = [name.lstrip("#") for name in head]
    classes = [' class="n"' if name.startswith("#") else "" for name in head]
    top = "".join(f'<th scope="col"{figure}>{name}</th>' for name, figure in zip(names, classes, strict=True))
    body = ""
    for row in rows:
        cells = zip(row, names, classes, strict=True)
        body += (
            "<tr>" + "".join(f'<td{figure} data-head="{name}">{cell}</td>' for cell, name, figure in cells) + "</tr>"
        )
    kinds = f"{kind} wide".strip() if len(head) > 3 else kind
    return (
        f'<div class="scroll"><table class="{kinds}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def quality(view: View) -> str:
    """The name of the metric that the run is judged by, or ""."""
    metrics = mapping(view.result.get("metrics"))
    judged = str(view.result.get("metric"))
    if judged in metrics:
        return judged
    named = (*metrics, *(name for name, _ in view.metrics))
    return next((name for name in (*QUALITY, *named) if name in named and name != "loss"), "")


def baselines(view: View) -> list[tuple[str, float]]:
    """What the metric is to beat: (name, value)."""
    found = mapping(view.result.get("baselines"))
    return [(str(name), value) for name, item in found.items() if (value := number(item)) is not None][:4]
