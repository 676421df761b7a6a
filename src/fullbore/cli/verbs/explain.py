"""`fullbore explain`: where a run's time went, what limited it and what to change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from fullbore.base.errors import UsageError
from fullbore.cli import analysis, draw, trace
from fullbore.cli.arguments import overrides, verb
from fullbore.cli.ink import Ink

app = typer.Typer(rich_markup_mode=None, add_completion=False)

TRACES = (".json", ".json.gz")
"""What a name ends with that is a trace's, not a run's."""


def show(answer: dict[str, Any], ink: Ink) -> Iterator[str]:
    if "traces" in answer:
        yield from trace.show(answer, ink)
        return
    yield f"{ink.bold(answer['run'])} ({answer['status']})"
    yield from draw.error(answer.get("error"), ink)
    yield from analysis.notes(answer.get("notes") or (), ink)
    yield from draw.verdict(answer.get("verdict"), ink)
    yield from analysis.advice((answer.get("verdict") or {}).get("advice") or (), ink)
    yield from analysis.what_if(answer.get("if"), ink)
    yield from draw.ledger(answer["ledger"], ink, energy=answer["energy"])
    yield from draw.busy(answer["busy"], answer["seconds"], ink)
    yield from draw.energy(answer["energy"], ink)
    yield from draw.utilisation((answer.get("verdict") or {}).get("utilisation"), ink)
    yield from analysis.steps(answer.get("steady"), ink)
    yield from analysis.roofline(answer.get("roofline"), ink)
    yield from analysis.mfu(answer.get("mfu_of"))
    yield from draw.predicted(answer.get("predicted"), ink)
    yield from analysis.lines(answer.get("predicted"), ink)
    if answer.get("picture"):
        yield from ("", f"The roofline is in {answer['picture']}")


@app.command()
@verb(show)
def explain(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN|TRACE...",
            help="A run's name, or `last`; or PyTorch profiler traces, one of each rank of a job.",
        ),
    ] = None,
    drop_last_step: Annotated[
        bool, typer.Option("--drop-last-step", help="Of a trace: leave out its last profiler step, as HTA does.")
    ] = False,
    if_: Annotated[
        list[str] | None,
        typer.Option("--if", metavar="KEY=VALUE", help="What a run would have taken with another setting. Repeatable."),
    ] = None,
    roofline: Annotated[
        Path | None, typer.Option("--roofline", metavar="FILE.svg", help="Draw a run's roofline into a file.")
    ] = None,
) -> dict[str, Any]:
    """Say where a run's time went, what limited it and what to change; or the time of a PyTorch profiler's traces."""
    from fullbore import door

    named = names or ["last"]
    traces = [name for name in named if name.endswith(TRACES)]
    if traces and len(traces) == len(named) and not if_ and roofline is None:
        return door.explain_traces(*traces, drop_last_step=drop_last_step)
    if len(named) > 1 or drop_last_step:
        raise UsageError(
            f"{' '.join(named)}: expected one run, or the traces of a job",
            hint=f"a trace ends in {' or '.join(TRACES)}",
        )
    answer = door.explain(named[0], overrides(if_, "--if"))
    return answer if roofline is None else {**answer, "picture": str(door.roofline(named[0], roofline))}
