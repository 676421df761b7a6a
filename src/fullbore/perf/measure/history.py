"""Predictions that were made on this machine and what was then measured: `calibration.json` in the machine's cache."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fullbore.base.files import write_atomic
from fullbore.base.paths import machine_cache
from fullbore.perf.model.calibration import Past

_KEPT = 500


def path() -> Path:
    return machine_cache() / "calibration.json"


def load() -> tuple[Past, ...]:
    """All that is kept, oldest first; nothing if there is no file or it is damaged."""
    try:
        return tuple(Past(**entry) for entry in json.loads(path().read_bytes())["past"])
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def remember(entries: Sequence[Past]) -> None:
    """Add what a run has shown; the oldest are forgotten. Runs that end at once wait for each other.

    Raises OSError if the cache cannot be written.
    """
    target = path()
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = [*load(), *entries][-_KEPT:]
        write_atomic(target, json.dumps({"schema": 1, "past": [asdict(entry) for entry in kept]}, indent=1) + "\n")
