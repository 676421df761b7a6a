"""One rank of a data-parallel run: `python -m fullbore.flow.rank <run folder> <resume: 0|1>`.

`engine.local.launch` starts it. Rank 0 writes its events into the run's own file, the others into files of their own.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from fullbore.base.paths import RunPaths
from fullbore.record.ledger import State
from fullbore.record.progress import no_progress
from fullbore.record.sink import Sink
from fullbore.record.span import Recorder


def main(folder: Path, resume: bool) -> None:
    paths, rank = RunPaths(folder), int(os.environ["RANK"])
    recorder = Recorder(Sink(paths.events(rank)), rank)
    try:
        with recorder.state(State.START):
            from fullbore.flow.train import train_rank
            from fullbore.spec.load import load
            from fullbore.spec.plan import Plan

            job = load(paths.job).job
            plan = Plan.from_json(json.loads(paths.plan.read_text()))
        train_rank(job, plan, paths, recorder, no_progress, _stop_on_signal(), rank=rank, resume=resume)
    finally:
        recorder.close()


class _stop_on_signal:
    """True once SIGINT or SIGTERM came: the parent passes them on."""

    def __init__(self) -> None:
        self._requested = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._request)

    def _request(self, *_: object) -> None:
        self._requested = True

    def __call__(self) -> bool:
        return self._requested


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "1")
    sys.stderr.flush()
    os._exit(0)
