"""`fullbore runs`: list runs, show one, compare two."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fullbore.cli import compare, draw
from fullbore.cli.arguments import RunName, verb
from fullbore.cli.ink import Ink


class Listed(TyperGroup):
    """Without a verb of its own, `runs` means `runs ls`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = args and (not args[0].startswith("-") or args[0] in ctx.help_option_names)
        return list(super().parse_args(ctx, args if named else ["ls", *args]))


app = typer.Typer(cls=Listed, rich_markup_mode=None, add_completion=False)


@app.callback()
def runs() -> None:
    """List runs, show one, compare two. `fullbore runs` alone lists them."""


def show_list(answer: dict[str, Any], ink: Ink) -> Iterator[str]:
    for name, problem in answer["unreadable"].items():
        yield f"{ink.bad('unreadable:')} {name} ({problem})"
    rows = [
        [
            entry["run"],
            str(entry["job"]),
            entry["status"],
            time.strftime("%Y-%m-%d %H:%M", time.localtime(entry["created"])),
            draw.number(entry["seconds"], "s"),
            compare.quality(entry),
            entry.get("limit") or "–",
        ]
        for entry in answer["runs"]
    ]
    if not rows:
        yield "No runs yet. fullbore run <job.toml> makes one."
        return
    head = ("run", "job", "status", "began", "took", "quality", "limited by")
    yield from draw.table(rows, head, right=(4,), indent=0)


@app.command("ls")
@verb(show_list)
def list_runs() -> dict[str, Any]:
    """List all runs, the newest last."""
    from fullbore import door

    return door.runs.ls()


def show_one(answer: dict[str, Any], ink: Ink) -> Iterator[str]:
    yield from draw.outcome(answer, ink)


@app.command("show")
@verb(show_one)
def show(run: RunName = "last") -> dict[str, Any]:
    """Show what came out of a run."""
    from fullbore import door

    return door.runs.show(run)


@app.command("diff")
@verb(compare.difference)
def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="A run's name, or `last`.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The run to compare it with.")],
) -> dict[str, Any]:
    """Compare the settings, speed, quality and ledgers of two runs."""
    from fullbore import door

    return door.runs.diff(first, second)
