"""`fullbore serve`: a model over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from fullbore.cli.arguments import Set, overrides, verb
from fullbore.cli.console import console
from fullbore.cli.ink import Ink

app = typer.Typer(rich_markup_mode=None, add_completion=False)


def show(answer: dict[str, Any], ink: Ink) -> Iterator[str]:
    yield f"Serving {answer['target']} at {ink.bold(answer['url'])} (Ctrl-C stops it once all requests are answered)"


@app.command()
@verb(show)
def serve(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A run's name, `last`, or a model folder.")],
    set_: Set = None,
) -> None:
    """Serve a model over HTTP, on loopback. Settings are those of [serve]."""
    from fullbore.flow.serve import serve as execute

    def ready(url: str) -> None:
        console.answer({"target": target, "url": url}, show)

    execute(target, overrides(set_), ready=ready)
