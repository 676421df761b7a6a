"""`fullbore resume`: go on where a run was stopped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from fullbore.cli import draw
from fullbore.cli.arguments import RunName, verb
from fullbore.cli.console import console
from fullbore.cli.ink import Ink
from fullbore.record.span import exec_time

app = typer.Typer(rich_markup_mode=None, add_completion=False)


def show(answer: dict[str, Any], ink: Ink) -> Iterator[str]:
    yield from draw.outcome(answer, ink)


@app.command()
@verb(show)
def resume(run: RunName) -> dict[str, Any]:
    """Go on with a run that was stopped, killed or failed, under its own job and plan."""
    from fullbore import door

    with console.progress() as progress:
        return dict(door.resume(run, progress=progress, notify=console.note, began=exec_time()).result)
