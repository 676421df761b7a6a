"""`fullbore pack`: any source to shards on disk, without a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from fullbore.base.units import format_bytes, format_seconds
from fullbore.cli import draw
from fullbore.cli.arguments import Set, overrides, verb
from fullbore.cli.console import console
from fullbore.cli.ink import Ink

app = typer.Typer(rich_markup_mode=None, add_completion=False)


def show(answer: dict[str, Any], ink: Ink) -> Iterator[str]:
    took = format_seconds(answer["seconds"])
    yield f"Packed {answer['source']} into {ink.bold(answer['folder'])} ({format_bytes(answer['bytes'])}, {took})"
    splits = [[name, f"{rows:,} samples"] for name, rows in answer["splits"].items()]
    facts = [[key, f"{answer[key]:,}"] for key in ("read", "kept", "duplicates")]
    yield from draw.table([*splits, *facts, ["quarantined", f"{answer['quarantined_count']:,}"]], right=(1,))
    for entry in answer["quarantined"][:5]:
        yield f"    {entry['id']}: {entry['reason']}"
    yield from ("", f"  {ink.bold('fullbore inspect ' + answer['folder'] + ' --verify')}")


@app.command()
@verb(show)
def pack(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A folder, a file, or s3://bucket/prefix.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="The folder to write.")],
    set_: Set = None,
) -> dict[str, Any]:
    """Read, clean, split and pack data into shards, without a run. Settings are those of [data]."""
    from fullbore import door

    with console.progress() as progress:
        return door.pack(source, out, overrides(set_), progress=progress)
