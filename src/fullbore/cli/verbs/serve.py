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
    names = ", ".join(model["name"] for model in answer["models"])
    yield f"Serving {ink.bold(names)} at {ink.bold(answer['url'])} (Ctrl-C stops it once all requests are answered)"
    for model in answer["models"]:
        yield from ("", f"{model['name']} ({model['task']})", *(f"  POST {door}" for door in model["doors"]))
        yield from ("", "Ask it:", f"  {model['example']}")


@app.command()
@verb(show)
def serve(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A run's name, `last`, or a model folder.")],
    set_: Set = None,
) -> None:
    """Serve a model over HTTP, on loopback. Settings are those of [serve]."""
    from fullbore import door

    door.serve(target, overrides(set_), ready=lambda answer: console.answer(answer, show))
