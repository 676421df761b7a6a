"""`fullbore runs`: list runs, show one, compare two."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from fullbore.cli import draw
from fullbore.cli.arguments import RunName, verb
from fullbore.cli.ink import Ink

app = typer.Typer(rich_markup_mode=None, add_completion=False, no_args_is_help=True)


@app.callback()
def runs() -> None:
    """List runs, show one, compare two."""


def show_list(answer: dict[str, Any], _: Ink) -> Iterator[str]:
    rows = [
        [
            entry["run"],
            str(entry["job"]),
            entry["status"],
            time.strftime("%Y-%m-%d %H:%M", time.localtime(entry["created"])),
            draw.number(entry["seconds"], "s"),
            ", ".join(f"{key} {draw.number(value)}" for key, value in list(entry["metrics"].items())[:2]) or "–",
            entry.get("limit") or "–",
        ]
        for entry in answer["runs"]
    ]
    if not rows:
        yield "No runs yet. fullbore run <job.toml> makes one."
        return
    head = ("run", "job", "status", "began", "took", "quality", "limited by")
    yield from draw.table(rows, head, right=(4,), indent=0)


@app.command("ls")
@verb(show_list)
def list_runs() -> dict[str, Any]:
    """List all runs, the newest last."""
    from fullbore.flow.runs import ls

    return ls()


def show_one(answer: dict[str, Any], ink: Ink) -> Iterator[str]:
    yield from draw.outcome(answer, ink)


@app.command("show")
@verb(show_one)
def show(run: RunName = "last") -> dict[str, Any]:
    """Show what came out of a run."""
    from fullbore.flow.runs import show as read

    return read(run)


def show_difference(answer: dict[str, Any], ink: Ink) -> Iterator[str]:
    one, two = answer["runs"]
    for title, key in (("Settings that differ", "settings"), ("Figures that differ", "figures")):
        rows = [
            [name, draw.number(a, unit(name)), draw.number(b, unit(name)), draw.change(a, b)]
            for name, (a, b) in answer[key].items()
        ]
        yield from (
            ink.bold(title),
            *(draw.table(rows, ("", one, two, ""), right=(1, 2, 3)) if rows else ["  none"]),
            "",
        )


def unit(figure: str) -> str:
    return "s" if figure == "seconds" or figure.startswith("ledger.") else ""


@app.command("diff")
@verb(show_difference)
def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="A run's name, or `last`.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The run to compare it with.")],
) -> dict[str, Any]:
    """Compare the settings, speed, quality and ledgers of two runs."""
    from fullbore.flow.runs import diff as compare

    return compare(first, second)
