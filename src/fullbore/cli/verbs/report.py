"""`fullbore report`: a run as one HTML file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from fullbore.cli.arguments import RunName, verb
from fullbore.cli.ink import Ink

app = typer.Typer(rich_markup_mode=None, add_completion=False)


def show(answer: dict[str, Any], ink: Ink) -> Iterator[str]:
    yield f"The report of {answer['run']} is in {ink.bold(answer['report'])}"


@app.command()
@verb(show)
def report(
    run: RunName = "last",
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write it; else in the run's folder.")
    ] = None,
) -> dict[str, Any]:
    """Write a run's report: one HTML file that opens offline."""
    from fullbore import door

    return door.report(run, output)
