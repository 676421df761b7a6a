"""`fullbore check`: what a job would do here, before it runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from fullbore.cli import analysis, draw
from fullbore.cli.arguments import JobTarget, Set, overrides, verb
from fullbore.cli.ink import Ink

app = typer.Typer(rich_markup_mode=None, add_completion=False)


def show(answer: dict[str, Any], ink: Ink) -> Iterator[str]:
    yield from draw.plan(answer, ink)
    yield from analysis.forecast(answer.get("ledger"), ink)
    yield from draw.verdict(answer.get("verdict"), ink, "What will limit it")
    if "resolved" in answer:
        yield from ("", ink.bold("Settings"))
        rows = [[key, entry["value"], ink.dim(entry["origin"])] for key, entry in answer["resolved"].items()]
        yield from draw.table(rows)


@app.command()
@verb(show)
def check(
    job: JobTarget,
    set_: Set = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="Also every setting, its value and its origin.")] = False,
) -> dict[str, Any]:
    """Predict time, memory and what will limit a job, before it runs. Exits with 3 if it will not fit."""
    from fullbore import door

    return door.check(job, overrides(set_), resolved=resolved)
