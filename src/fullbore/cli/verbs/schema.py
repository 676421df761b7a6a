"""`fullbore schema`: the JSON Schema of job files."""

from __future__ import annotations

import json
from typing import Any

import typer

from fullbore.cli.arguments import verb
from fullbore.cli.ink import Ink

app = typer.Typer(rich_markup_mode=None, add_completion=False)


def show(answer: dict[str, Any], _: Ink) -> list[str]:
    return [json.dumps(answer["job"], indent=1, ensure_ascii=False)]


@app.command()
@verb(show)
def schema() -> dict[str, Any]:
    """Print the JSON Schema of job files, for editors."""
    from fullbore import door

    return door.schema()
