"""Reading a run back: its events as they were written, torn lines skipped and counted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fullbore.record.ledger import Ledger


def events(path: Path, kind: str | None = None) -> Iterator[dict[str, Any]]:
    """Events of one rank in order; a line that a kill tore is skipped."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        for line in file:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if kind is None or event.get("kind") == kind:
                yield event


def ledger(path: Path, since: float = 0.0) -> Ledger:
    """The sum of the ledger intervals in an events file that began at `since` (epoch seconds) or later.

    Without `since`: all sessions of a run together.
    """
    seconds: dict[str, float] = {}
    busy: dict[str, float] = {}
    for event in events(path):
        if event["t"] < since:
            continue
        if event["kind"] == "ledger":
            for state, value in event["seconds"].items():
                seconds[state] = seconds.get(state, 0.0) + value
        elif event["kind"] == "busy":
            for resource, value in event["seconds"].items():
                busy[resource] = busy.get(resource, 0.0) + value
    return Ledger(seconds, busy)
