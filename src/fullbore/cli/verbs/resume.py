"""`fullbore resume`: go on where a run was stopped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from fullbore.cli import draw
from fullbore.cli.arguments import RunName, verb
from fullbore.cli.console import console
from fullbore.cli.ink import Ink

app = typer.Typer(rich_markup_mode=None, add_completion=False)


def show(answer: dict[str, Any], ink: Ink) -> Iterator[str]:
    yield from draw.outcome(answer, ink)


@app.command()
@verb(show)
def resume(run: RunName) -> dict[str, Any]:
    """Go on with a run that was stopped, killed or failed, under its own job and plan."""
    with console.progress() as progress:
        from fullbore.flow.run import resume as execute
        from fullbore.ui.report import write

        return execute(run, progress=progress, notify=console.note, write_report=write)
