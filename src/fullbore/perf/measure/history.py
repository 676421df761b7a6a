"""Predictions that were made on this machine and what was then measured: `calibration.json` in the machine's cache."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from fullbore.base.files import write_atomic
from fullbore.base.paths import machine_cache
from fullbore.perf.model.calibration import Past

_KEPT = 4000


def path() -> Path:
    return machine_cache() / "calibration.json"


def load() -> tuple[Past, ...]:
    """All that is kept, oldest first; nothing if there is no file or it is damaged."""
    try:
        state = path().stat()
        return _read(path(), state.st_mtime_ns, state.st_size, state.st_ino)
    except (OSError, ValueError, KeyError, TypeError):
        return ()


@lru_cache(maxsize=1)
def _read(target: Path, *_: int) -> tuple[Past, ...]:
    """What a state of the file holds: it is asked for many times while one prediction is made."""
    return tuple(Past(**entry) for entry in json.loads(target.read_bytes())["past"])


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
