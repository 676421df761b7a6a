"""`runs ls|show|diff`: what was run, and what differs between two runs."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

from fullbore.record import read
from fullbore.record.run import RunFolder, find, list_runs


def ls() -> dict[str, Any]:
    """Every run, oldest first, with how it ended (schema 1)."""
    return {"schema": 1, "runs": [_line(run) for run in list_runs()]}


def show(name: str) -> dict[str, Any]:
    """A run's result, or what is known of one that has none (schema 1)."""
    run = find(name)
    known = {"job_file": str(run.paths.job), "folder": str(run.paths.folder)}
    result = run.result() or {"ledger": read.ledger(run.paths.events()).to_json()}
    return {"schema": 1, **_line(run), **result, **known, "status": run.status()}


def diff(one: str, two: str) -> dict[str, Any]:
    """Settings and figures that differ, each as [of the first, of the second] (schema 1)."""
    first, second = find(one), find(two)
    settings = _differences(_settings(first), _settings(second))
    return {
        "schema": 1,
        "runs": [first.name, second.name],
        "settings": settings,
        "figures": _differences(_figures(first), _figures(second)),
    }


def _line(run: RunFolder) -> dict[str, Any]:
    result = run.result() or {}
    return {
        "run": run.name,
        "job": tomllib.loads(run.paths.job.read_text()).get("name"),
        "status": run.status(),
        "created": run.environment()["created"],
        "seconds": result.get("seconds"),
        "metrics": result.get("metrics", {}),
        "limit": (result.get("verdict") or {}).get("limit"),
    }


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}{key}.") if isinstance(item, Mapping) else {f"{prefix}{key}": item}
    return flat


def _settings(run: RunFolder) -> dict[str, Any]:
    return _flat(tomllib.loads(run.paths.job.read_text()))


def _figures(run: RunFolder) -> dict[str, Any]:
    result = run.result() or {}
    states = {
        f"ledger.{state}": item["seconds"] for state, item in (result.get("ledger") or {}).get("states", {}).items()
    }
    keys = ("seconds", "loss", "steps", "tokens_per_second", "samples_per_second", "mfu")
    return {key: result.get(key) for key in keys if key in result} | _flat(result.get("metrics", {})) | states


def _differences(one: Mapping[str, Any], two: Mapping[str, Any]) -> dict[str, list[Any]]:
    keys = [*one, *(key for key in two if key not in one)]
    return {key: [one.get(key), two.get(key)] for key in keys if one.get(key) != two.get(key)}
