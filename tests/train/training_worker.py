"""Training in a process of its own: `python -m training_worker <folder> <options as JSON>`.

Leaves events, and at its end `weights.<rank>.safetensors` and `result.<rank>.json`, in the folder.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import small_training as small
from safetensors.torch import save_file

from fullbore.base.errors import FullboreError
from fullbore.record.sink import Sink
from fullbore.record.span import Recorder
from fullbore.train.loop import TrainResult, run


def facts(result: TrainResult) -> dict[str, Any]:
    """What must not depend on how often a run was killed."""
    return {name: getattr(result, name) for name in ("steps", "loss", "metrics", "best_step", "stopped")}


def main(folder: Path, options: dict[str, Any]) -> int:
    rank = int(os.environ.get("RANK", "0"))
    if "file_bytes" in options:
        resource.setrlimit(resource.RLIMIT_FSIZE, (options["file_bytes"], options["file_bytes"]))
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda got, frame: asked.append(got))
    recorder = Recorder(Sink(folder / f"events.{rank}.jsonl"), rank)
    pause = options.get("pause", 0.0)
    setup = small.setup(
        folder,
        small.plan(**options.get("plan", {})),
        section=small.section(**options.get("section", {})),
        build=partial(small.network, **options.get("network", {})),
        recorder=recorder,
        rank=rank,
        pause=pause[rank] if isinstance(pause, list) else pause,
        poison=options.get("poison"),
        resume=options.get("resume", False),
        stop=lambda: bool(asked),
    )
    try:
        result = run(setup)
    except FullboreError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    finally:
        recorder.close()
    save_file(small.tensors(result.module), folder / f"weights.{rank}.safetensors")
    (folder / f"result.{rank}.json").write_text(json.dumps(facts(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), json.loads(sys.argv[2])))
