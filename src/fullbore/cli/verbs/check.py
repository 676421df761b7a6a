"""`fullbore check`: what a job would do here, before it runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from fullbore.cli import draw
from fullbore.cli.arguments import JobTarget, Set, overrides, verb
from fullbore.cli.ink import Ink

app = typer.Typer(rich_markup_mode=None, add_completion=False)


def show(answer: dict[str, Any], ink: Ink) -> Iterator[str]:
    yield from draw.plan(answer, ink)
    if "resolved" in answer:
        yield from ("", ink.bold("Settings"))
        rows = [[key, entry["value"], ink.dim(entry["origin"])] for key, entry in answer["resolved"].items()]
        yield from draw.table(rows)


@app.command()
@verb(show)
def check(
    job: JobTarget,
    set_: Set = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="Also every setting, its value and its origin.")] = False,
) -> dict[str, Any]:
    """Predict time, memory and what will limit a job, before it runs. Exits with 3 if it will not fit."""
    from fullbore.spec.load import load

    loaded = load(job, overrides(set_))
    from fullbore.flow.check import check as predict

    answer = predict(loaded)
    return {**answer, "resolved": settings(loaded)} if resolved else answer


def settings(loaded: Any) -> dict[str, dict[str, str]]:
    """Dotted key → value as TOML, and where it was written."""
    from fullbore.spec.write import toml_value

    def value(key: str) -> Any:
        section, _, name = key.partition(".")
        held = getattr(loaded.job, section)
        return getattr(held, name) if name else held

    return {
        key: {"value": toml_value(value(key)) if value(key) is not None else "–", "origin": origin}
        for key, origin in loaded.origins.items()
    }
