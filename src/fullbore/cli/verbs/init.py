"""`fullbore init`: a commented job to start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from fullbore.base.errors import UsageError
from fullbore.cli.arguments import verb
from fullbore.cli.ink import Ink
from fullbore.flow.init import KINDS

app = typer.Typer(rich_markup_mode=None, add_completion=False)


def show(answer: dict[str, Any], ink: Ink) -> Iterator[str]:
    yield f"Wrote {answer['path']}. Next:"
    for command in answer["next"]:
        yield f"  {ink.bold(command)}"


@app.command()
@verb(show)
def init(
    kind: Annotated[str | None, typer.Argument(metavar="KIND", help=f"One of {', '.join(KINDS)}.")] = None,
    path: Annotated[
        Path | None, typer.Argument(metavar="PATH", help="Where to write it; KIND.toml if not given.")
    ] = None,
    data: Annotated[str | None, typer.Option(metavar="PATH", help="Your data, as data.source.")] = None,
) -> dict[str, Any]:
    """Write a commented job to start from. Never overwrites a file."""
    from fullbore import door

    if kind is None:
        listed = "".join(f"\n  {name:<18}{what}" for name, what in KINDS.items())
        raise UsageError(f"KIND is missing, one of{listed}", hint="fullbore init text-lm")
    return door.init(kind, path, data)
