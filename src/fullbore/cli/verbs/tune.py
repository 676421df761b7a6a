"""`fullbore tune`: what a job leaves open, chosen by timing its real step, and the better job written."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fullbore.base.errors import FullboreError, UsageError
from fullbore.base.units import format_seconds, format_share, parse_seconds, plural
from fullbore.cli import draw
from fullbore.cli.arguments import JobTarget, Set, overrides, verb
from fullbore.cli.console import console
from fullbore.cli.ink import Ink

app = typer.Typer(rich_markup_mode=None, add_completion=False)


def show(answer: dict[str, Any], ink: Ink) -> Iterator[str]:
    gain, noise, left = answer["gain"], answer["noise"], answer["left"]
    yield ink.bold(f"{answer['chosen_label']}: {gain['sentence']}")
    if noise:
        yield f"  {noise['sentence']}"
    yield from ("", ink.bold("Trials"))
    yield from draw.table([_row(row) for row in answer["trials"]], _HEAD, right=range(2, len(_HEAD)))
    feeds = len({row["label"] for row in answer["trials"]}) - answer["tried"]
    also = f" and {plural(feeds, 'other feed')}" if feeds else ""
    tried = f"{answer['tried']} of {plural(answer['settings'], 'setting')}{also} tried"
    tried += f" in {format_seconds(answer['seconds'])}"
    rest = (
        f", at most {format_share(left['bound'])} (19 in 20), {format_share(left['expected'])} expected" if left else ""
    )
    yield f"  {tried}; {answer['stopped']}{rest}"
    yield from ("", ink.bold("What was chosen"))
    changed = [change["from"] != change["to"] for change in answer["changes"]]
    told = [
        change["set"] if new else f"{change['key']} stays"
        for change, new in zip(answer["changes"], changed, strict=True)
    ]
    width = max((len(text) for text in told), default=0)
    for change, new, text in zip(answer["changes"], changed, told, strict=True):
        padded = text.ljust(width)
        yield f"  {ink.good(padded) if new else padded}  {ink.dim(change['reason'])}"
    yield from ("", f"The better job   {answer['out']}", f"Trials, picture  {answer['folder']}")
    yield f"Run it with: fullbore run {shlex.quote(answer['out'])}"


_HEAD = ("", "setting", "predicted", "expected", "measured", "spread", "memory")


def _row(row: Mapping[str, Any]) -> list[str]:
    times = [draw.number(row[key], "s") for key in ("predicted_seconds", "expected_seconds")]
    mark = "→" if row["chosen"] else " "
    if row["status"] != "measured":
        return [mark, row["label"], *times, row["status"], "–", draw.number(row["predicted_bytes"], "B")]
    low, high = row["interval"]
    spread = f"± {format_share((high - low) / 2 / row['seconds'])}"
    return [mark, row["label"], *times, draw.number(row["seconds"], "s"), spread, draw.number(row["peak_bytes"], "B")]


@app.command()
@verb(show)
def tune(
    job: JobTarget,
    budget: Annotated[str, typer.Option(metavar="TIME", help="How long to measure, as in 5m.")] = "5m",
    set_: Set = None,
    also: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="Tune this too although the job sets it. Repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The better job; else <job>.tuned.toml.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace that file, whoever wrote it.")] = False,
) -> dict[str, Any]:
    """Choose what a job leaves open by timing its real step, and write the better job. Run again, it goes on."""
    from fullbore import door

    try:
        seconds = parse_seconds(budget)
    except ValueError as error:
        raise UsageError(f"--budget: {error}") from error
    words = [job, "--budget", budget, *(word for text in set_ or () for word in ("--set", text))]
    words += [word for key in also or () for word in ("--also", key)] + (["--out", str(out)] if out else [])
    try:
        with console.progress() as progress:
            return door.tune(
                job, overrides(set_), budget=seconds, also=also or (), out=out, force=force,
                again=shlex.join(["fullbore", "tune", *words]), progress=progress, notify=console.note,
            )  # fmt: skip
    except FullboreError as error:
        if error.result is not None and not console.json:
            console.answer(error.result, show)
        raise
