"""`fullbore bench`: two commands, jobs or settings in interleaved pairs, and whether they differ beyond the noise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from fullbore.base.errors import FullboreError, UsageError
from fullbore.base.units import format_bytes, format_seconds, parse_seconds, plural
from fullbore.cli import draw
from fullbore.cli.arguments import Set, overrides, verb
from fullbore.cli.console import console
from fullbore.cli.ink import Ink

app = typer.Typer(rich_markup_mode=None, add_completion=False)


def show(answer: dict[str, Any], ink: Ink) -> Iterator[str]:
    figures, metric = answer["figures"], str(answer["metric"])
    for name in "A" if answer["same"] else "AB":
        yield f"{ink.bold(name)}  {answer['contenders'][name]}"
    verdict = answer["verdict"]
    yield from ("", ink.bold(verdict["sentence"] if verdict else "Nothing was measured."))
    if not figures:
        return
    unit = "s" if metric.endswith("seconds") else "B" if metric.endswith("bytes") else ""
    rows = [[name, *_row(each, unit)] for name, each in figures.items()]
    head = ("", metric, "95 % interval", "least … most", "time", "CPU time", "memory")
    yield from ("", *draw.table(rows, head, right=range(1, len(head))))
    yield from ("", f"{plural(answer['pairs_used'], 'pair')} of {answer['pairs_measured']}; {_machine(answer)}")
    yield from (f"  · {note}" for note in answer["notes"])


def _row(figures: dict[str, Any], unit: str) -> Iterator[str]:
    yield draw.number(figures["median"], unit)
    for ends in (figures["interval"], (figures["least"], figures["most"])):
        yield " … ".join(draw.number(end, unit) for end in ends)
    yield from (format_seconds(figures["seconds"]), format_seconds(figures["cpu_seconds"]))
    yield format_bytes(figures["peak_bytes"])


def _machine(answer: dict[str, Any]) -> str:
    before, after = answer["before"], answer["after"]
    load = f"load {before['load'][0]:.1f} before and {after['load'][0]:.1f} after on {plural(before['cores'], 'core')}"
    clock = f", {after['megahertz']:.0f} MHz" if after["megahertz"] else ""
    return f"{load}{clock}, {format_bytes(after['memory_available'])} free"


@app.command()
@verb(show)
def bench(
    targets: Annotated[
        list[str], typer.Argument(metavar="A [B]", help="Commands, quoted, without a shell; or jobs. One: its noise.")
    ],
    rounds: Annotated[int | None, typer.Option(min=1, help="Pairs wanted; 20 if no budget is given.")] = None,
    budget: Annotated[str | None, typer.Option(metavar="TIME", help="As many pairs as fit, as in 60s.")] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="seconds, cpu_seconds, peak_bytes, or a key of the JSON object on the last stdout line."),
    ] = None,
    warm_up: Annotated[int, typer.Option(min=0, help="Pairs that come first and do not count.")] = 1,
    set_: Set = None,
    against: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A setting of B, over those of --set. Repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the order.")] = 0,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Keep every pair; go on from what it has.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the runs of jobs.")] = False,
) -> dict[str, Any]:
    """Compare two commands, jobs or settings, beyond the noise: interleaved pairs, warm-up removed."""
    from fullbore import door

    try:
        seconds = None if budget is None else parse_seconds(budget)
    except ValueError as error:
        raise UsageError(f"--budget: {error}") from error
    try:
        with console.progress() as progress:
            return door.bench(
                *targets, overrides=overrides(set_), against=overrides(against), rounds=rounds, budget=seconds,
                metric=metric, warm_up=warm_up, seed=seed, out=out, keep=keep, progress=progress, notify=console.note,
            )  # fmt: skip
    except FullboreError as error:
        if error.result is not None and not console.json:
            console.answer(error.result, show)
        raise
