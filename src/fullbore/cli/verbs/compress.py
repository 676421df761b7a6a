"""`fullbore compress`: a trained model made smaller or faster within its quality limit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from fullbore.cli import draw
from fullbore.cli.arguments import RunName, Set, overrides, verb
from fullbore.cli.console import console
from fullbore.cli.ink import Ink

app = typer.Typer(rich_markup_mode=None, add_completion=False)


def show(answer: dict[str, Any], ink: Ink) -> Iterator[str]:
    yield from draw.compression(answer["compression"], ink, answer["chosen"]["variant"], answer["metric"])
    yield from ("", f"The {answer['chosen']['variant']} model is in {ink.bold(answer['folder'])}")
    yield f"  {ink.bold('fullbore serve ' + answer['folder'])}"


@app.command()
@verb(show)
def compress(
    run: RunName,
    out: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Where to write it; else in the run's folder.")
    ] = None,
    set_: Set = None,
) -> dict[str, Any]:
    """Make a trained model smaller or faster within its quality limit. Settings are those of [compress]."""
    from fullbore import door

    with console.progress() as progress:
        return door.compress(run, out, overrides(set_), progress=progress)
