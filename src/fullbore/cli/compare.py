"""Runs beside one another: the figure that each is judged by, and what differs between two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fullbore.cli import draw
from fullbore.cli.ink import Ink


def quality(entry: Mapping[str, Any]) -> str:
    """The figure that a run is judged by."""
    metrics = entry["metrics"]
    name = str(entry.get("metric") or next(iter(metrics), ""))
    return f"{name.replace('_', ' ')} {draw.number(metrics[name])}" if name in metrics else "–"


def difference(answer: dict[str, Any], ink: Ink) -> Iterator[str]:
    """What differs between two runs, figures with how far they are apart."""
    one, two = answer["runs"]
    settings = [[name, draw.number(a), draw.number(b)] for name, (a, b) in answer["settings"].items()]
    yield from section("Settings that differ", settings, ("", one, two), ink)
    figures = [
        [
            name.replace("_", " "),
            draw.number(a, unit(name)),
            draw.number(b, unit(name)),
            change(name, a, b, answer["noise"]),
        ]
        for name, (a, b) in answer["figures"].items()
    ]
    yield from section("Figures that differ", figures, ("", one, two, "change"), ink)
    yield ink.dim(f"Single runs carry noise: times and rates less than {answer['noise']:.0%} apart are not told apart.")


def section(title: str, rows: list[list[str]], head: tuple[str, ...], ink: Ink) -> Iterator[str]:
    yield ink.bold(title)
    yield from draw.table(rows, head, right=range(1, len(head))) if rows else ["  none"]
    yield ""


def timed(figure: str) -> bool:
    """Whether a figure is a time or a rate, which differs from run to run of the same job."""
    return figure == "seconds" or figure.endswith("_per_second") or figure == "mfu" or figure.startswith("ledger.")


def change(figure: str, one: Any, two: Any, noise: float) -> str:
    """How far the second figure is from the first, relative; ≈ where that may be chance."""
    numbers = all(isinstance(value, int | float) for value in (one, two))
    if not numbers or not one:
        return ""
    share = two / one - 1
    return f"{'≈ ' if timed(figure) and abs(share) < noise else ''}{share:+.1%}"


def unit(figure: str) -> str:
    return "s" if figure == "seconds" or figure.startswith("ledger.") else "share" if figure == "mfu" else ""
