"""Does `fullbore tune` find the best settings, and in how few trials? Against all of them, measured one by one.

    python benchmarks/tune.py [--json] [--sweep FILE] [case ...]

Cases, each a job whose settings are all open: decoder (1.0 M parameters, 24 rows of 128 tokens; not compiled, which
would take an hour to try everywhere), textcnn (192 texts), mlp (2.1 M parameters, 128 rows; compiled, too). `tune` runs
as its users run it, with caches of its own. Then everything is measured in one process, in random orders, what is near
the best three times; the fastest counts. Last the choice of `tune` and the three best of the sweep are measured in
turns in processes of their own, so that what was lucky once does not win: `regret` is how much longer a step of the
choice takes than one of the best of them. `noise` is the same between two processes of the choice.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

STEPS, SECONDS = 3, 0.12
TURNS, HOPEFUL = 3, 1.25
"""All settings are measured once, those that took up to so many times as long as the best again."""
BEST = 3
BUDGET = 100.0

TEXT = """
[data]
source = "python://stdlib"
format = "text"
include = ["json/*.py", "email/*.py", "http/*.py", "asyncio/*.py", "xml/**/*.py"]
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
budget = "20000 steps"
global_batch_size = 24
sequence_length = 128
compile = false
"""
CLASSES = """
[data]
source = "{folder}/texts.jsonl"
label = "label"
[tokenizer]
vocabulary_size = 2048
[task]
kind = "classification"
[model]
kind = "textcnn"
width = 96
filters = 96
[train]
budget = "20000 steps"
global_batch_size = 192
sequence_length = 96
compile = false
"""
TABLE = """
[data]
source = "{folder}/table.csv"
label = "label"
[task]
kind = "classification"
[model]
kind = "mlp"
hidden = [1024, 1024, 1024]
[train]
budget = "100000 steps"
global_batch_size = 128
"""
CASES = {"decoder": TEXT, "textcnn": CLASSES, "mlp": TABLE}


def write_data(folder: Path) -> None:
    """Pieces of the standard library by the letter of their module, and a table of numbers."""
    sources = sorted(Path(os.__file__).parent.glob("*.py"))
    with open(folder / "texts.jsonl", "w") as file:
        for path in sources:
            lines = path.read_text(errors="replace").splitlines()
            for start in range(0, min(len(lines), 400), 8):
                text = "\n".join(lines[start : start + 8])
                if text.strip():
                    file.write(json.dumps({"text": text, "label": "early" if path.name < "m" else "late"}) + "\n")
    draw = np.random.default_rng(0)
    table = draw.normal(size=(4096, 32))
    with open(folder / "table.csv", "w") as file:
        file.write(",".join([*(f"x{i}" for i in range(32)), "label"]) + "\n")
        for row in table:
            file.write(",".join(f"{value:.4f}" for value in row) + f",{'ab'[int(row.sum() > 0)]}\n")


@contextmanager
def place(folder: Path) -> Iterator[None]:
    """Runs and caches of our own, but for what the machine was measured to reach."""
    from fullbore.base.paths import machine_cache

    known = list(machine_cache().glob("ceilings-*.json"))
    own = {"FULLBORE_RUNS": str(folder / "runs"), "XDG_CACHE_HOME": str(folder / "cache")}
    before = {key: os.environ.get(key) for key in own}
    os.environ |= own
    try:
        machine_cache().mkdir(parents=True)
        for file in known:
            shutil.copy(file, machine_cache())
        yield
    finally:
        for key, value in before.items():
            os.environ |= {key: value or ""}


def sweep(tuning: Any) -> dict[str, float]:
    """Seconds of a step of every setting, all in this process."""
    import torch

    from fullbore.base.paths import RunPaths
    from fullbore.flow import materials
    from fullbore.flow.trials import name_of, usual
    from fullbore.record.progress import no_progress
    from fullbore.record.span import Recorder
    from fullbore.spec.load import load
    from fullbore.train import trial

    paths = RunPaths(tuning.lab.folder)
    made = materials.load(load(paths.job).job, paths)
    found: dict[str, float] = {}
    for turn in range(TURNS):
        best = min(found.values(), default=0.0)
        order = random.Random(turn).sample(tuning.settings, len(tuning.settings))
        for setting in order if not turn else [s for s in order if found[name_of(s)] <= HOPEFUL * best]:
            if setting.compile:
                torch._dynamo.reset()  # else the ninth is not compiled any more
            plan = replace(tuning.draft, **asdict(setting))
            setup = materials.setup(made, plan, paths, Recorder(), no_progress, lambda: False)
            seconds = usual(trial.step_seconds(setup, steps=STEPS, seconds=SECONDS).taken)
            name = name_of(setting)
            found[name] = min(seconds, found.get(name, seconds))
    return found


def measure(case: str, folder: Path, keep: Path | None) -> dict[str, Any]:
    from fullbore import door
    from fullbore.flow import tune
    from fullbore.flow.interrupt import Interrupts
    from fullbore.flow.trials import Kept, name_of
    from fullbore.perf.plan.choose import Setting
    from fullbore.perf.plan.space import KEYS, label
    from fullbore.spec.load import load

    job = folder / f"{case}.toml"
    job.write_text(f'name = "{case}"\n' + CASES[case].replace("{folder}", str(folder)))
    answer = door.tune(job, budget=BUDGET, notify=lambda text: print(text, file=sys.stderr))
    loaded = load(job)
    with tune.alone(case) as paths:
        far = time.monotonic() + 3600
        opened = frozenset(KEYS.values()) - ({"train.compile"} if case != "mlp" else set())
        tuning = tune.prepared(loaded, paths, far, opened, Interrupts(print))
        began = time.monotonic()
        everything = sweep(tuning)
        swept = time.monotonic() - began
        if keep is not None:
            predicted = {name_of(setting): tuning.predicted(setting) for setting in tuning.settings}
            keep.write_text(json.dumps({"case": case, "seconds": everything, "predicted": predicted}))
        chosen = Setting(**answer["chosen"])
        ranked = sorted(everything, key=everything.__getitem__)
        finalists = [chosen, *[s for s in (Setting(**json.loads(name)) for name in ranked[:BEST]) if s != chosen]]
        tuning.kept = Kept(folder / f"{case}-rounds.jsonl", {})
        tuning.compare(finalists)
        names = [name_of(setting) for setting in finalists]
        pairs = {name: tuning.difference(names[0], name).ratio for name in names[1:]}
        worst = max(pairs, key=lambda name: pairs[name].value, default=names[0])
        noise = tuning.noise(names[0])
    place_of = ranked.index(name_of(chosen)) + 1
    return {
        "settings": len(everything),
        "trials": len(answer["trials"]),
        "share_of_trials": len(answer["trials"]) / len(everything),
        "tune_seconds": answer["seconds"],
        "sweep_seconds": swept,
        "chosen": label(chosen),
        "best_of_sweep": label(Setting(**json.loads(ranked[0]))),
        "place_in_sweep": place_of,
        "seconds": everything[name_of(chosen)],
        "best_seconds": everything[ranked[0]],
        "median_seconds": everything[ranked[len(ranked) // 2]],
        "worst_seconds": everything[ranked[-1]],
        "regret_in_sweep": everything[name_of(chosen)] / everything[ranked[0]] - 1,
        "regret": max(0.0, pairs[worst].value - 1) if pairs else 0.0,
        "regret_interval": [end - 1 for end in (pairs[worst].interval or ())] if pairs else [0.0, 0.0],
        "noise": noise.ratio.value - 1,
        "noise_interval": [end - 1 for end in (noise.ratio.interval or ())],
        "noise_told": noise.sentence,
        "rounds": len(tuning.rounds),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="*", default=[*CASES])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--sweep", type=Path, help="a folder for what was measured of all settings")
    asked = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder))
        with place(Path(folder)):
            for case in asked.cases:
                keep = asked.sweep / f"{case}.json" if asked.sweep else None
                figures[case] = found = measure(case, Path(folder), keep)
                if not asked.json:
                    print(case, json.dumps(found, indent=1), flush=True)
    if asked.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    main()
