"""`fullbore explain`: where a run's time went, what limited it and what to change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from fullbore.base.errors import UsageError
from fullbore.cli import draw, trace
from fullbore.cli.arguments import verb
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
    yield from draw.verdict(answer.get("verdict"), ink)
    yield from draw.advice(answer.get("verdict"), ink)
    yield from draw.ledger(answer["ledger"], ink, energy=answer["energy"])
    yield from draw.busy(answer["busy"], answer["seconds"], ink)
    yield from draw.energy(answer["energy"], ink)
    yield from draw.utilisation((answer.get("verdict") or {}).get("utilisation"), ink)
    yield from draw.predicted(answer.get("predicted"), ink)
    if answer.get("mfu") is not None:
        yield from ("", f"MFU {answer['mfu']:.1%} of the peak that was measured here for the number format in use")


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
) -> dict[str, Any]:
    """Say where a run's time went, what limited it and what to change; or the time of a PyTorch profiler's traces."""
    from fullbore import door

    named = names or ["last"]
    traces = [name for name in named if name.endswith(TRACES)]
    if traces and len(traces) == len(named):
        return door.explain_traces(*traces, drop_last_step=drop_last_step)
    if len(named) > 1 or drop_last_step:
        raise UsageError(
            f"{' '.join(named)}: expected one run, or the traces of a job",
            hint=f"a trace ends in {' or '.join(TRACES)}",
        )
    return door.explain(named[0])
