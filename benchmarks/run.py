"""Run every benchmark and keep what it showed: `make bench`, or `python benchmarks/run.py [name ...]`.

Each benchmark is a script here that prints one JSON object as its last line with `--json`. Results go to
benchmarks/results/<date>-<name>.json with the machine, the versions and the commit.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from datetime import date
from pathlib import Path

from fullbore.perf.measure.probe import machine
from fullbore.record.run import environment

HERE = Path(__file__).parent
NAMES = ("first_batch", "first_step", "train_step", "recipes", "steps", "whatifs", "tune", "predictions")


def commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True)
    return found.stdout.strip()


def main(names: list[str]) -> int:
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    failed = 0
    for name in names or NAMES:
        print(f"== {name}", flush=True)
        ended = subprocess.run(
            [sys.executable, HERE / f"{name}.py", "--json"], stdout=subprocess.PIPE, text=True, check=False
        )
        if ended.returncode:
            failed += 1
            continue
        figures = json.loads(ended.stdout.splitlines()[-1])
        print(json.dumps(figures, indent=1))
        kept = {
            "benchmark": name,
            "date": date.today().isoformat(),
            "commit": commit(),
            "machine": asdict(machine()),
            "packages": environment()["packages"],
            "figures": figures,
        }
        (results / f"{kept['date']}-{name}.json").write_text(json.dumps(kept, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
