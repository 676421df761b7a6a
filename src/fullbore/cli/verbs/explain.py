"""`fullbore explain`: where a run's time went, what limited it and what to change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from fullbore.cli import draw
from fullbore.cli.arguments import RunName, verb
from fullbore.cli.ink import Ink

app = typer.Typer(rich_markup_mode=None, add_completion=False)


def show(answer: dict[str, Any], ink: Ink) -> Iterator[str]:
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
def explain(run: RunName = "last") -> dict[str, Any]:
    """Say where a run's time went, what limited it and what to change, whatever ended the run."""
    from fullbore import door

    return door.explain(run)
