"""`init`: a commented job to start from."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from fullbore.base.errors import UsageError
from fullbore.base.files import write_atomic
from fullbore.base.refusals import about

KINDS = {
    "text-lm": "a language model of text or source code",
    "text-classifier": "classes of texts: JSON lines or CSV",
    "image-classifier": "classes of images: a folder for each class, or IDX files",
    "tabular": "classes or a number from rows of numbers: CSV",
}


def init(kind: str, path: Path | None = None, data: str | None = None) -> dict[str, Any]:
    """Write the template of `kind` to `path` (none: KIND.toml), `data` as its data.source (schema 1).

    Raises UsageError for another kind, and where there is a file already: it is left as it is.
    """
    if kind not in KINDS:
        raise UsageError(f"no template {kind!r}", hint=f"one of {', '.join(KINDS)}")
    target = path or Path(f"{kind}.toml")
    with about(target):
        if target.exists():
            raise UsageError(f"{target} exists and is left as it is", hint=f"fullbore init {kind} another-name.toml")
        write_atomic(target, _written(kind, target, data))
    commands = [f"fullbore check {target}", f"fullbore run {target}"]
    return {"schema": 1, "path": str(target), "kind": kind, "next": commands}


def _written(kind: str, target: Path, data: str | None) -> str:
    """The template of `kind`, with the name, the commands and the data of this job in it."""
    from fullbore.spec.write import toml_value

    text = (files("fullbore.flow") / "templates" / f"{kind}.toml").read_text()
    name = re.sub(r"[^a-z0-9_-]+", "-", target.stem.lower()).strip("-_") or kind
    text = text.replace(f"{kind}.toml", str(target)).replace(f'name = "{kind}"', f'name = "{name}"')
    if data is not None:
        source = f"source = {toml_value(data)}"
        text = re.sub(r'^source = "[^"]*"', lambda _: source, text, count=1, flags=re.MULTILINE)
        if _holds_idx(Path(data)):
            text = re.sub(r"^image_size = \d+", 'image_size = "none"', text, count=1, flags=re.MULTILINE)
    return text


def _holds_idx(folder: Path) -> bool:
    """Whether there are IDX files, whose images all have one size, in `folder`."""
    from fullbore.data.sources.select import file_format

    return folder.is_dir() and any(file_format(entry.name) == "idx" for entry in folder.iterdir())
