"""A real program that records as a run does, to be disturbed from outside: worker.py <what> <events> <much|path>."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from fullbore.perf.measure.counters import Counters
from fullbore.record.ledger import State
from fullbore.record.sink import Sink
from fullbore.record.span import Recorder


def train(recorder: Recorder, cpu_seconds: float) -> None:
    torch.set_num_threads(2)
    matrix = torch.randn(1024, 1024)
    began, step = time.process_time(), 0
    while time.process_time() - began < cpu_seconds:
        with recorder.state(State.DATA_WAIT):
            pass
        with recorder.state(State.FORWARD):
            matrix @ matrix
        with recorder.state(State.BACKWARD):
            matrix @ matrix
            matrix @ matrix
        step += 1
        recorder.event("step", step=step, loss=0.0)


def read(recorder: Recorder, path: Path) -> None:
    with recorder.state(State.READ), open(path, "rb", buffering=0) as file:
        while file.read(1 << 16):
            pass


def save(recorder: Recorder, path: Path) -> None:
    block = bytes(1 << 16)
    with recorder.state(State.CHECKPOINT), open(path, "wb", buffering=0) as file:
        for _ in range(32):
            file.write(block)


def main() -> None:
    what, events, *rest = sys.argv[1:]
    recorder = Recorder(Sink(Path(events)), began=time.time())
    recorder.event("session", began=recorder.began)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    with Counters(recorder, interval=0.2):
        if what == "train":
            train(recorder, float(rest[0]))
        elif what == "read":
            read(recorder, Path(rest[0]))
        else:
            save(recorder, Path(rest[0]))
    recorder.close()


if __name__ == "__main__":
    main()
