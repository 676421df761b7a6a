"""What `fullbore explain --if` predicts of a change, kept before the change is made, and what it then brings.

    python benchmarks/whatifs.py [--json] [--rounds N] [--state FILE] [KIND ...]

Small real jobs, each run to its end by the real program, with a cache of their own: of the machine they know what
`fullbore doctor` measured, and of past runs only two of the job as it is. What a job could choose by timing is set, so
that A is one job and the cost model, not a trial, tells of B. From the second of these every change is
predicted; the predictions go into the state file with their SHA-256 before any changed job is run. Then the job as it
is (A) and the changed one (B) are run in turns, A B A B.

The figure X is what `explain` says a job is judged by: the rate of its training phase where its budget is time, else
runs a second. `ratio_error` is |predicted X'/X : measured X'/X - 1|, and "within 20 %" is about it. `gain_error` is the
stricter one, |predicted gain - measured gain| : |measured gain|. The noise is the same ratio of two runs of A.

An interrupted benchmark goes on where it was if it is given the same state file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from fullbore.base.paths import machine_cache

FULLBORE = Path(sys.executable).with_name("fullbore")
NEIGHBOUR = "neighbour"
WITHIN = 0.20

LANGUAGE = """
name = "language"
[data]
source = "python://stdlib"
format = "text"
include = ["json/*.py", "email/*.py", "http/*.py", "asyncio/*.py", "unittest/*.py", "concurrent/**/*.py"]
validation = "10%"
[tokenizer]
vocabulary_size = 1024
[task]
kind = "causal_lm"
[model]
kind = "decoder"
width = 128
layers = 4
heads = 4
[train]
budget = "4s"
global_batch_size = 16
sequence_length = 256
precision = "bf16"
compile = false
threads = 2
micro_batch_size = 16
evaluate_every = 8
checkpoint_every = 4
"""
TABLE = """
name = "table"
[data]
source = "{folder}"
format = "csv"
label = "label"
validation = "20%"
[task]
kind = "classification"
[model]
kind = "mlp"
hidden = [1024, 1024]
[train]
budget = "4s"
global_batch_size = 256
precision = "bf16"
compile = false
threads = 2
"""
COMPRESSED = LANGUAGE.replace('"4s"', '"16 steps"') + "[compress]\nsamples = 96\n"
JOBS = {"language": LANGUAGE, "table": TABLE, "compressed": COMPRESSED}
KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "precision": ("language", {"train.precision": "fp32"}),
    "threads": ("language", {"train.threads": "1"}),
    "micro-batch": ("language", {"train.micro_batch_size": "4"}),
    "recompute": ("language", {"train.recompute": "true"}),
    "attention": ("language", {"train.attention": "plain"}),
    "world size": ("language", {"train.world_size": "2", "train.threads": "1"}),
    "evaluate every": ("language", {"train.evaluate_every": "32"}),
    "evaluate samples": ("language", {"train.evaluate_samples": "16"}),
    "checkpoint every": ("language", {"train.checkpoint_every": "1000"}),
    "optimizer": ("language", {"train.optimizer": "muon"}),
    "global batch": ("language", {"train.global_batch_size": "32"}),
    "sequence length": ("language", {"train.sequence_length": "128"}),
    "layers": ("language", {"model.layers": "2"}),
    "neighbour": ("language", {}),
    "table: precision": ("table", {"train.precision": "fp32"}),
    "table: global batch": ("table", {"train.global_batch_size": "64"}),
    "table: optimizer": ("table", {"train.optimizer": "sgd"}),
    "table: hidden": ("table", {"model.hidden": "[512, 512]"}),
    "compress off": ("compressed", {"compress.variants": "fp32"}),
    "compress samples": ("compressed", {"compress.samples": "24"}),
    "budget": ("compressed", {"train.budget": "64 steps"}),
}


class Bench:
    """A folder with its own runs and caches."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        own = {"FULLBORE_RUNS": str(folder / "runs"), "XDG_CACHE_HOME": str(folder / "cache")}
        self.environment = {**os.environ, **own}

    def prepare(self) -> None:
        """The machine as doctor knows it, and the jobs."""
        folder = self.folder
        (folder / "cache" / "fullbore").mkdir(parents=True, exist_ok=True)
        for known in machine_cache().glob("ceilings-*.json"):
            shutil.copy(known, folder / "cache" / "fullbore")
        self.call("doctor")
        table(folder / "table")
        for name, text in JOBS.items():
            (folder / f"{name}.toml").write_text(text.replace("{folder}", str(folder / "table")))

    def call(self, *arguments: str) -> dict[str, Any]:
        ended = subprocess.run(
            [FULLBORE, *arguments, "--json", "-q"], env=self.environment, capture_output=True, text=True, check=False
        )
        if ended.returncode:
            raise RuntimeError(f"{' '.join(arguments)}: {ended.stderr}")
        return dict(json.loads(ended.stdout.splitlines()[-1]))

    def done(self, name: str) -> bool:
        """Whether there is such a run, and it came to its end; what is left of another is removed."""
        folder = self.folder / "runs" / name
        result = folder / "result.json"
        if result.exists() and json.loads(result.read_text())["status"] == "done":
            return True
        shutil.rmtree(folder, ignore_errors=True)
        return False

    def run(self, job: str, overrides: dict[str, str], name: str) -> dict[str, float]:
        """The figures of one run, by the names that `explain` has for them."""
        settings = [word for key, value in overrides.items() for word in ("--set", f"{key}={value}")]
        answer = self.call("run", str(self.folder / f"{job}.toml"), "--name", name, *settings)
        plan = json.loads((self.folder / "runs" / name / "plan.json").read_text())
        work = json.loads((self.folder / "runs" / name / "work.json").read_text())
        states = ("data wait", "copy", "forward", "backward", "optimizer", "exposed communication", "checkpoint",
                  "waiting for a straggler", "evaluate", "compile")  # fmt: skip
        training = sum(answer["ledger"].get(state, {"seconds": 0.0})["seconds"] for state in states)
        units = plan["steps"] * plan["global_batch_size"] * work["units_per_sample"]
        return {"training rate": units / training, "run time": 1 / answer["seconds"]}


def table(folder: Path) -> None:
    """Rows of numbers and their class."""
    import numpy as np

    folder.mkdir(exist_ok=True)
    draw = np.random.default_rng(0)
    features = draw.normal(size=(20_000, 64))
    labels = (features @ draw.normal(size=(64, 8))).argmax(1)
    with open(folder / "rows.csv", "w") as file:
        file.write(",".join([*(f"x{i}" for i in range(64)), "label"]) + "\n")
        for row, label in zip(features, labels, strict=True):
            file.write(",".join([*(f"{value:.3f}" for value in row), f"c{label}"]) + "\n")


@contextmanager
def crowd(wanted: bool) -> Iterator[None]:
    """A program that wants one core, while the block runs."""
    if not wanted:
        yield
        return
    core = min(os.sched_getaffinity(0))
    code = f"import os\nos.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    hungry = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield
    finally:
        hungry.kill()
        hungry.wait()


def predict(bench: Bench, kind: str) -> dict[str, Any]:
    """What is said of a change from the last run of the job as it is."""
    job, overrides = KINDS[kind]
    if kind == NEIGHBOUR:
        advice = bench.call("explain", "neighbour-base")["verdict"]["advice"]
        found = [item for item in advice if item["change"].startswith("stop or move the other processes")]
        told = {"figure": "training rate", "ratio": 1.0, "error": None, "known_by": "what the kernel counted"}
        if found:
            told |= {"figure": found[0]["figure"], "ratio": 1 + found[0]["predicted_gain"], "error": found[0]["error"]}
    else:
        options = [word for key, value in overrides.items() for word in ("--if", f"{key}={value}")]
        answer = bench.call("explain", f"{job}-base", *options)["if"]
        told = {"figure": answer["figure"]["name"], "ratio": 1 + answer["gain"], "error": answer["error"],
                "known_by": answer["known_by"], "explained": answer["sha256"]}  # fmt: skip
    said = {"kind": kind, "set": overrides, **told}
    return {**said, "sha256": hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()}


def compared(prediction: dict[str, Any], pairs: list[dict[str, Any]]) -> dict[str, Any]:
    figure = prediction["figure"]
    ratios = [pair["B"][figure] / pair["A"][figure] for pair in pairs]
    measured, expected = statistics.median(ratios), prediction["ratio"]
    return {
        **prediction,
        "measured": measured,
        "measured_all": ratios,
        "ratio_error": abs(expected / measured - 1),
        "gain_error": abs(expected - measured) / abs(measured - 1) if measured != 1 else math.inf,
        "within_20_percent": abs(expected / measured - 1) <= WITHIN,
    }


def noise(pairs: list[dict[str, Any]], figure: str) -> float | None:
    """|X/X' - 1| of runs of A that follow each other, the median."""
    runs = [pair["A"][figure] for pair in pairs]
    found = [abs(two / one - 1) for one, two in pairwise(runs)]
    return statistics.median(found) if found else None


def measure(bench: Bench, kinds: list[str], rounds: int, state: dict[str, Any], save: Any) -> None:
    """Base runs, then all predictions, then pairs; each step is saved."""
    for job in sorted({KINDS[kind][0] for kind in kinds}):
        for name in (f"{job}-first", f"{job}-base"):
            if not bench.done(name):
                bench.run(job, {}, name)
    if NEIGHBOUR in kinds and not bench.done("neighbour-base"):
        with crowd(True):
            bench.run("language", {}, "neighbour-base")
    for kind in kinds:
        if kind not in state["predictions"]:
            state["predictions"][kind] = predict(bench, kind)
            save()
            told = state["predictions"][kind]
            print(f"{kind}: predicted {told['figure']} x{told['ratio']:.3f}  {told['sha256'][:12]}", file=sys.stderr)
    for turn in range(rounds):
        for kind in kinds:
            pairs = state["pairs"].setdefault(kind, [])
            if len(pairs) > turn:
                continue
            job, overrides = KINDS[kind]
            label = f"{kind.replace(' ', '-').replace(':', '')}-{turn}"
            for stale in (bench.folder / "runs").glob(f"{label}-[ab]"):
                shutil.rmtree(stale)
            with crowd(kind == NEIGHBOUR):
                one = bench.run(job, {}, f"{label}-a")
            pairs.append({"A": one, "B": bench.run(job, overrides, f"{label}-b")})
            save()
            told = compared(state["predictions"][kind], pairs)
            print(f"{kind}: measured x{told['measured']:.3f}, predicted x{told['ratio']:.3f}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--state", type=Path, help="a folder that keeps runs and results, to go on from")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the run under way ends, too
    kinds = given.kinds or list(KINDS)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.state or Path(temporary, "state")).absolute()
        kept = folder / "state.json"
        fresh = not kept.exists()
        if fresh:
            folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(folder)
        if fresh:
            bench.prepare()
        state: dict[str, Any] = {"predictions": {}, "pairs": {}} if fresh else json.loads(kept.read_text())

        def save() -> None:
            kept.write_text(json.dumps(state, indent=1))

        save()
        measure(bench, kinds, given.rounds, state, save)
    figures = summary(state)
    if given.json:
        print(json.dumps(figures))
        return
    for told in figures["kinds"]:
        print(
            f"{told['kind']:<22}{told['figure']:<15}x{told['ratio']:.3f}  measured x{told['measured']:.3f}  "
            f"ratio off {told['ratio_error']:.1%}  gain off {told['gain_error']:.0%}  noise {told['noise']:.1%}"
        )
    print(f"within 20 %: {figures['within_20_percent']} of {len(figures['kinds'])} kinds")


def summary(state: dict[str, Any]) -> dict[str, Any]:
    found = []
    for kind, pairs in state["pairs"].items():
        told = compared(state["predictions"][kind], pairs)
        job = KINDS[kind][0]
        alike = [pair for name, each in state["pairs"].items() if KINDS[name][0] == job and name != NEIGHBOUR
                 for pair in each]  # fmt: skip
        found.append({**told, "noise": noise(alike, told["figure"]) or 0.0})
    errors = [told["ratio_error"] for told in found]
    beyond = [told for told in found if abs(told["measured"] - 1) > 2 * told["noise"]]
    return {
        "how": "ratio_error = |predicted X'/X over measured X'/X - 1|; within 20 % is about it. gain_error = "
        "|difference of the gains| over the measured gain, of changes beyond twice the noise of A against A.",
        "kinds": found,
        "within_20_percent": sum(told["within_20_percent"] for told in found),
        "median_ratio_error": statistics.median(errors),
        "median_gain_error_beyond_noise": statistics.median(told["gain_error"] for told in beyond) if beyond else None,
        "gains_within_20_percent": sum(told["gain_error"] <= WITHIN for told in beyond),
        "kinds_beyond_noise": len(beyond),
    }


if __name__ == "__main__":
    main()
