"""What is known of the end of a run that somebody or something killed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fullbore.base.units import format_bytes, format_seconds

_LITTLE = 0.05
"""Share of the memory that a run may have, below which the kernel may kill for want of it."""


def notes(events: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line each, from the last events of rank 0; none if there are none."""
    last: Mapping[str, Any] | None = None
    sample: Mapping[str, Any] | None = None
    began = None
    for event in events:
        last = event
        if event["kind"] == "resource":
            sample = event
        elif event["kind"] == "session":
            began = float(event["began"])
    if last is None or began is None:
        return []
    after = format_seconds(max(0.0, float(last["t"]) - began))
    found = [f"it was killed: its last session has no events after {after}, and whatever came then is missing"]
    if sample is not None and (short := _short_of_memory(sample)):
        found.append(short)
    return found


def _short_of_memory(sample: Mapping[str, Any]) -> str | None:
    limit, left, held = (sample.get(key) for key in ("memory_limit", "memory_available", "rss"))
    given = limit or (left or 0) + (held or 0)
    if left is None or not given or left > _LITTLE * given:
        return None
    told = f"the limit of {format_bytes(limit)} on its memory" if limit else "the machine's memory"
    when = "when it was last sampled: that is where the kernel kills for want of memory"
    return f"{format_bytes(left)} were left of {told} {when}"
