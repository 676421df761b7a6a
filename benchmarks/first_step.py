"""Seconds from exec to the end of the first training step of a job whose data is prepared: cold caches and warm.

    python benchmarks/first_step.py [--json]

Cold: the kernel's page cache was dropped before (as root; otherwise that figure is absent). Warm: it was just run.
The job is recipes/python-lm.toml, stopped after a step. The time comes from outside: exec of the process to the first
`step` event in the run's file.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
FULLBORE = Path(sys.executable).with_name("fullbore")
ROUNDS = 5


def first_step(runs: Path, name: str) -> float:
    environment = {**os.environ, "FULLBORE_RUNS": str(runs)}
    command = [FULLBORE, "run", ROOT / "recipes/python-lm.toml", "--name", name, "--set", "train.budget=1 steps", "-q"]
    began = time.time()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    for line in (runs / name / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["kind"] == "step":
            return float(event["t"]) - began
    raise RuntimeError(f"{name} took no step")


def drop_page_cache() -> bool:
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("1")
    except OSError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder, "runs")
        first_step(runs, "prepare")
        warm = [first_step(runs, f"warm-{number}") for number in range(ROUNDS)]
        cold = [first_step(runs, f"cold-{number}") for number in range(2) if drop_page_cache()]
    figures = {
        "warm_seconds": statistics.median(warm),
        "warm_all": warm,
        "cold_seconds": statistics.median(cold) if cold else None,
        "cold_all": cold,
        "goal_seconds": 5.0,
    }
    print(json.dumps(figures) if as_json else "\n".join(f"{key:<14} {value}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
