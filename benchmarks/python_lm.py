"""The main job at full size: its metric beside the counted models, its rate, and what its ledger says.

python benchmarks/python_lm.py [--json]
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

ROOT = Path(__file__).parents[1]
FULLBORE = Path(sys.executable).with_name("fullbore")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "FULLBORE_RUNS": str(Path(folder, "runs"))}
        began = time.monotonic()
        ended = subprocess.run(
            [FULLBORE, "run", ROOT / "recipes/python-lm.toml", "--json"],
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        wall = time.monotonic() - began
    result = json.loads(ended.stdout.splitlines()[-1])
    states = {state: item["share"] for state, item in result["ledger"].items()}
    training = {key: item["seconds"] for key, item in result["ledger"].items()}
    steps = sum(training.get(key, 0.0) for key in ("data wait", "copy", "forward", "backward", "optimizer"))
    figures = {
        "wall_seconds": wall,
        "ledger_seconds": result["seconds"],
        "other_share": states.get("other", 0.0),
        "bits_per_byte": result["metrics"]["bits_per_byte"],
        **result["baselines"],
        "tokens_per_second": result["tokens_per_second"],
        "mfu": result["mfu"],
        "steps": result["steps"],
        "data_wait_share_of_steps": training.get("data wait", 0.0) / steps,
        "checkpoint_share_of_steps": training.get("checkpoint", 0.0) / steps,
        "states": states,
        "predicted": result["predicted"],
        "compression": result["compression"],
    }
    print(json.dumps(figures) if as_json else "\n".join(f"{key:<26} {value}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
