"""`fullbore init`: a commented job to start from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer

from fullbore.base.errors import UsageError
from fullbore.base.files import write_atomic
from fullbore.cli.arguments import verb
from fullbore.cli.ink import Ink

app = typer.Typer(rich_markup_mode=None, add_completion=False)

KINDS = {
    "text-lm": "a language model of text or source code",
    "text-classifier": "classes of texts: JSON lines or CSV",
    "image-classifier": "classes of images: a folder for each class, or IDX files",
    "tabular": "classes or a number from rows of numbers: CSV",
}


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
    if kind is None:
        listed = "".join(f"\n  {name:<18}{what}" for name, what in KINDS.items())
        raise UsageError(f"KIND is missing, one of{listed}", hint="fullbore init text-lm")
    if kind not in KINDS:
        raise UsageError(f"no template {kind!r}", hint=f"one of {', '.join(KINDS)}")
    target = path or Path(f"{kind}.toml")
    if target.exists():
        raise UsageError(f"{target} exists and is left as it is", hint=f"fullbore init {kind} another-name.toml")
    if not target.parent.is_dir():
        raise UsageError(f"{target.parent}: no such folder")
    write_atomic(target, written(kind, target, data))
    return {"path": str(target), "kind": kind, "next": [f"fullbore check {target}", f"fullbore run {target}"]}


def written(kind: str, target: Path, data: str | None) -> str:
    """The template of `kind`, with the name, the commands and the data of this job in it."""
    from fullbore.spec.write import toml_value

    text = (files("fullbore.cli") / "templates" / f"{kind}.toml").read_text()
    name = re.sub(r"[^a-z0-9_-]+", "-", target.stem.lower()).strip("-_") or kind
    text = text.replace(f"{kind}.toml", str(target)).replace(f'name = "{kind}"', f'name = "{name}"')
    if data is not None:
        source = f"source = {toml_value(data)}"
        text = re.sub(r'^source = "[^"]*"', lambda _: source, text, count=1, flags=re.MULTILINE)
        if holds_idx(Path(data)):
            text = re.sub(r"^image_size = \d+", 'image_size = "none"', text, count=1, flags=re.MULTILINE)
    return text


def holds_idx(folder: Path) -> bool:
    """Whether there are IDX files, whose images all have one size, in `folder`."""
    from fullbore.data.sources.select import file_format

    return folder.is_dir() and any(file_format(entry.name) == "idx" for entry in folder.iterdir())
