"""Reading a run back: its events as they were written, torn lines skipped and counted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fullbore.base.paths import RunPaths
from fullbore.record.ledger import Ledger

_EVENTS = re.compile(r"events(?:\.rank(\d+))?\.jsonl")


def events(path: Path, kind: str | None = None) -> Iterator[dict[str, Any]]:
    """Events of one rank in order; a line that is none, as a kill leaves it, is skipped."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        for line in file:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and "kind" in event and kind in (None, event["kind"]):
                yield event


def rank_files(paths: RunPaths) -> dict[int, Path]:
    """The events file of each rank that wrote one, by rank."""
    entries = paths.folder.iterdir() if paths.folder.is_dir() else ()
    return dict(sorted((int(match[1] or 0), path) for path in entries if (match := _EVENTS.fullmatch(path.name))))


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
