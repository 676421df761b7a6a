"""`fullbore inspect`: what an artifact or a run holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from fullbore.base.units import format_bytes
from fullbore.cli import draw
from fullbore.cli.arguments import verb
from fullbore.cli.ink import Ink

app = typer.Typer(rich_markup_mode=None, add_completion=False)


def show(answer: dict[str, Any], ink: Ink) -> Iterator[str]:
    rows = [
        [item["kind"], item["digest"][:12], format_bytes(item["bytes"]), f"{len(item['files'])} files",
         " + ".join(parent["kind"] for parent in item["parents"]) or "–", item["folder"]]
        for item in answer["artifacts"]
    ]  # fmt: skip
    yield from draw.table(rows, ("kind", "digest", "size", "", "made from", "folder"), right=(2, 3), indent=0)
    if answer["verified"]:
        yield from ("", ink.good("Every byte is as it was written."))


@app.command()
@verb(show)
def inspect(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="An artifact's folder, a run's name, or `last`.")],
    verify: Annotated[bool, typer.Option("--verify", help="Read every byte and compare the checksums.")] = False,
) -> dict[str, Any]:
    """Show what an artifact or a run holds: kinds, sizes, checksums, parents."""
    from fullbore import door

    return door.inspect(target, verify=verify)
