"""`fullbore run`: a job from raw data to a served answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from fullbore.cli import draw
from fullbore.cli.arguments import JobTarget, Set, overrides, verb
from fullbore.cli.console import console
from fullbore.cli.ink import Ink

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
    from fullbore.spec.load import load

    loaded = load(job, overrides(set_))
    with console.progress() as progress:
        from fullbore.flow.run import run as execute
        from fullbore.ui.report import write

        return execute(loaded, name=name, progress=progress, notify=console.note, write_report=write)
