"""Keeps what `make soak` showed: benchmarks/results/<date>-soak.json, a line for each long count with its outcome."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import date
from pathlib import Path

import pytest

from fullbore.perf.measure.probe import machine

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


class SoakRecord:
    def __init__(self) -> None:
        self._counts: dict[str, dict[str, object]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome == "failed":
            self._counts[report.nodeid] = {"outcome": report.outcome, "seconds": round(report.duration, 1)}

    def pytest_sessionfinish(self) -> None:
        if not self._counts:
            return
        RESULTS.mkdir(exist_ok=True)
        today = date.today().isoformat()
        path = RESULTS / f"{today}-soak.json"
        earlier = json.loads(path.read_text())["counts"] if path.exists() else {}
        kept = {"date": today, "machine": asdict(machine()), "counts": {**earlier, **self._counts}}
        path.write_text(json.dumps(kept, indent=1) + "\n")
