"""`fullbore run`: a job from raw data to a served answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from fullbore.cli import draw
from fullbore.cli.arguments import JobTarget, Set, overrides, verb
from fullbore.cli.console import console
from fullbore.cli.ink import Ink
from fullbore.record.span import exec_time

app = typer.Typer(rich_markup_mode=None, add_completion=False)


def show(answer: dict[str, Any], ink: Ink) -> Iterator[str]:
    yield from draw.outcome(answer, ink)


@app.command()
@verb(show)
def run(
    job: JobTarget,
    set_: Set = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the run; a readable one if not given.")
    ] = None,
) -> dict[str, Any]:
    """Take a job from raw data to a served model. Ctrl-C saves a checkpoint; `fullbore resume` goes on from it."""
    from fullbore import door

    settings = overrides(set_)
    with console.progress() as progress:
        ran = door.run(job, settings, name=name, progress=progress, notify=console.note, began=exec_time())
    return dict(ran.result)
