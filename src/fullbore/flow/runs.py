"""`runs ls|show|diff`: what was run, and what differs between two runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from fullbore.base.errors import InputError
from fullbore.record import read
from fullbore.record.run import RunFolder, find, folders

_NOISE = 0.05
"""What runs of one job differ by in their times, where others work on the same machine."""
_SMALL = 0.01


def ls() -> dict[str, Any]:
    """Every run, oldest first, with how it ended; `unreadable`: what is wrong with a folder, by its name (schema 1)."""
    lines, unreadable = [], {}
    for run in folders():
        try:
            lines.append(_line(run))
        except InputError as error:
            unreadable[run.name] = error.message
    return {"schema": 1, "runs": sorted(lines, key=lambda line: line["created"]), "unreadable": unreadable}


def show(name: str) -> dict[str, Any]:
    """A run's result, or what is known of one that has none (schema 1)."""
    run = find(name)
    known = {"job_file": str(run.paths.job), "folder": str(run.paths.folder)}
    result = run.result() or {"ledger": read.ledger(run.paths.events()).to_json()}
    return {"schema": 1, **_line(run), **result, **known, "status": run.status()}


def diff(one: str, two: str) -> dict[str, Any]:
    """Settings and figures that differ, each as [of the first, of the second] (schema 1).

    States of the ledger that took less than 1 % of both runs are left out. `noise`: relative differences of times and
    rates below it are not told apart by one run of each.
    """
    first, second = find(one), find(two)
    states = {state for run in (first, second) for state, item in _states(run).items() if item["share"] >= _SMALL}
    settings = _differences(_settings(first), _settings(second))
    return {
        "schema": 1,
        "runs": [first.name, second.name],
        "settings": settings,
        "figures": _differences(_figures(first, states), _figures(second, states)),
        "noise": _NOISE,
    }


def _line(run: RunFolder) -> dict[str, Any]:
    result = run.result() or {}
    return {
        "run": run.name,
        "job": run.job().get("name"),
        "status": run.status(),
        "created": run.created(),
        "seconds": result.get("seconds"),
        "metric": result.get("metric"),
        "metrics": result.get("metrics", {}),
        "limit": (result.get("verdict") or {}).get("limit"),
    }


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}{key}.") if isinstance(item, Mapping) else {f"{prefix}{key}": item}
    return flat


def _settings(run: RunFolder) -> dict[str, Any]:
    return _flat(run.job())


def _states(run: RunFolder) -> dict[str, Any]:
    return dict((run.result() or {}).get("ledger") or {})


def _figures(run: RunFolder, states: Collection[str]) -> dict[str, Any]:
    """What a run reached, and the seconds that it spent in `states`."""
    result = run.result() or {}
    spent = {f"ledger.{state}": item["seconds"] for state, item in _states(run).items() if state in states}
    keys = ("seconds", "loss", "steps", "tokens_per_second", "samples_per_second", "mfu")
    return {key: result.get(key) for key in keys if key in result} | _flat(result.get("metrics", {})) | spent


def _differences(one: Mapping[str, Any], two: Mapping[str, Any]) -> dict[str, list[Any]]:
    keys = [*one, *(key for key in two if key not in one)]
    return {key: [one.get(key), two.get(key)] for key in keys if one.get(key) != two.get(key)}
