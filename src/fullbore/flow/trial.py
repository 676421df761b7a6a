"""One trial of `tune`: `python -m fullbore.flow.trial <run folder> <setting as JSON>`, asked line by line.

    {"steps": 2, "seconds": 0.5}  →  what `train.trial` measured, with peak memory and what others used of the cores
    {"save": true}                →  {"seconds"}: how long a checkpoint holds up the steps

What does not fit in memory is an answer too: {"ended": "out of memory"}.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fullbore.base.paths import RunPaths
from fullbore.base.refusals import outgrown
from fullbore.engine import child
from fullbore.record.progress import no_progress
from fullbore.record.span import Recorder

OUT_OF_MEMORY = "out of memory"


@contextmanager
def _trials(paths: RunPaths, setting: dict[str, Any]) -> Iterator[Any]:
    from fullbore.flow import materials
    from fullbore.spec.load import load
    from fullbore.spec.plan import Plan
    from fullbore.train import trial

    plan, recorder = replace(Plan.from_json(json.loads(paths.plan.read_text())), **setting), Recorder()
    prepared = materials.load(load(paths.job).job, paths)
    with trial.opened(materials.setup(prepared, plan, paths, recorder, no_progress, lambda: False)) as trials:
        yield trials, recorder


def main(folder: Path, setting: dict[str, Any]) -> None:
    paths, stack, opened = RunPaths(folder), ExitStack(), list[Any]()

    def answer(asked: dict[str, Any]) -> dict[str, Any]:
        from fullbore.perf.measure import proc

        try:
            if not opened:
                opened.append(stack.enter_context(_trials(paths, setting)))
            trials, recorder = opened[0]
            if asked.get("save"):
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    return {"seconds": trials.save_seconds(Path(place))}
            neighbours, before = proc.Neighbours(), recorder.ledger().busy.get("feed", 0.0)
            found = asdict(trials.measure(asked["steps"], asked["seconds"]))
            fed = (recorder.ledger().busy.get("feed", 0.0) - before) / len(found["taken"])
            return {**found, "fed": fed, "peak_bytes": proc.peak_memory(), "others": neighbours.cores()}
        except (MemoryError, RuntimeError) as error:
            if outgrown(error) is None:
                raise
            return {"ended": OUT_OF_MEMORY}

    child.answer(answer)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
    os._exit(0)
