"""Every recipe at full size: its metric, its rate, what its ledger says and how far off the predictions were.

python benchmarks/recipes.py [--json] [name ...]

The recipes that need data fetched say so: `make test-real` fetches all of it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FULLBORE = Path(sys.executable).with_name("fullbore")
STEPS = ("data wait", "copy", "forward", "backward", "optimizer", "exposed communication", "waiting for a straggler")


def measured(name: str, runs: Path) -> dict[str, Any]:
    began = time.monotonic()
    ended = subprocess.run(
        [FULLBORE, "run", ROOT / "recipes" / f"{name}.toml", "--json"],
        cwd=ROOT,
        env={**os.environ, "FULLBORE_RUNS": str(runs)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    wall = time.monotonic() - began
    result = json.loads(ended.stdout.splitlines()[-1])
    seconds = {state: item["seconds"] for state, item in result["ledger"].items()}
    steps = sum(seconds.get(state, 0.0) for state in STEPS)
    return {
        "wall_seconds": wall,
        "ledger_seconds": result["seconds"],
        "other_share": seconds.get("other", 0.0) / result["seconds"],
        "metrics": result["metrics"],
        "baselines": result.get("baselines"),
        "units_per_second": result.get("tokens_per_second") or result.get("samples_per_second"),
        "mfu": result["mfu"],
        "steps": result["steps"],
        "data_wait_share_of_steps": seconds.get("data wait", 0.0) / steps,
        "checkpoint_share_of_steps": seconds.get("checkpoint", 0.0) / steps,
        "states": {state: item["share"] for state, item in result["ledger"].items()},
        "predicted": result["predicted"],
        "compression": result["compression"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("names", nargs="*", default=sorted(path.stem for path in (ROOT / "recipes").glob("*.toml")))
    asked = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.names:
            found = figures[name] = measured(name, Path(folder, "runs"))
            if not asked.json:
                print(name, *(f"  {key:<26} {value}" for key, value in found.items()), sep="\n", flush=True)
    if asked.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
