"""`fullbore resume`: go on where a run was stopped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from fullbore.base.errors import UsageError
from fullbore.cli import draw
from fullbore.cli.arguments import RunName, verb
from fullbore.cli.console import console
from fullbore.cli.ink import Ink
from fullbore.record.span import exec_time

app = typer.Typer(rich_markup_mode=None, add_completion=False)


def show(answer: dict[str, Any], ink: Ink) -> Iterator[str]:
    yield from draw.outcome(answer, ink)


@app.command()
@verb(show)
def resume(
    run: RunName, set_: Annotated[list[str] | None, typer.Option("--set", hidden=True)] = None
) -> dict[str, Any]:
    """Go on with a run that was stopped, killed or failed, under its own job and plan."""
    from fullbore import door

    if set_:
        found = door.Run.find(run)
        raise UsageError(
            f"--set {set_[0]}: a run is resumed under its own job and plan, which nothing changes",
            hint=f"for another job: fullbore run {found.folder}/job.toml --set {set_[0]}",
        )
    with console.progress() as progress:
        return dict(door.resume(run, progress=progress, notify=console.note, began=exec_time()).result)
