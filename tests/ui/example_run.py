"""Run folders made through the real record API, on a clock that is told how time passes."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from fullbore.record import artifact, run, span
from fullbore.record.ledger import State
from fullbore.record.run import RunFolder
from fullbore.record.sink import Sink
from fullbore.record.span import Recorder

JOB = """name = "python-lm"

[data]
source = "python://stdlib"
include = ["**/*.py"]
validation = 0.04

[train]
budget = "90s"
global_batch_size = 16
sequence_length = 256
"""
_EPOCH = 1_790_000_000.0


class ToldClock:
    """Stands for the `time` module: it moves when it is told to."""

    def __init__(self, start: float = _EPOCH) -> None:
        self.now = start

    def time(self) -> float:
        return self.now

    def perf_counter(self) -> float:
        return self.now - _EPOCH

    def pass_(self, seconds: float) -> None:
        self.now += seconds


class Session:
    """One process's part of a run: a recorder on a told clock."""

    def __init__(self, folder: RunFolder, start: float = _EPOCH, rank: int = 0, seed: int = 0) -> None:
        self.clock = ToldClock(start)
        self.random = random.Random(seed + rank)
        self._next_reading = start
        with patch.object(span, "time", self.clock):
            self.recorder = Recorder(Sink(folder.paths.events(rank), capacity=1 << 21), rank=rank, began=start)
        self.recorder.event("session", resumed=start > _EPOCH, began=start)

    @contextmanager
    def told(self) -> Iterator[None]:
        with patch.object(span, "time", self.clock):
            yield

    def spend(self, state: State, seconds: float) -> None:
        with self.recorder.state(state):
            self.clock.pass_(seconds)
        if self.clock.now >= self._next_reading:
            self._next_reading = self.clock.now + 1.0
            training = state in (State.FORWARD, State.BACKWARD, State.OPTIMIZER)
            own = min(1.95, max(0.1, self.random.gauss(1.82 if training else 1.1, 0.06)))
            others = max(0.0, min(2 - own, self.random.gauss(0.08, 0.04)))
            rss = 0.31e9 + 0.55e9 * (1 - math.exp(-(self.clock.now - _EPOCH) / 25))
            self.recorder.event(
                "resource", seconds=1.0, late=0.0, cores=2, cpu_self=own, cpu_others=others, steal=0.0, iowait=0.01,
                cpu_available=2 - others, rss=int(rss), memory_available=int(7.1e9 - rss),
            )  # fmt: skip

    def stage(self, name: str, *spent: tuple[State, float], cached: bool = False, detail: str = "") -> dict[str, Any]:
        began = self.clock.now
        self.recorder.event("stage", stage=name, status="begin")
        for state, seconds in spent:
            for _ in range(4):
                self.spend(state, seconds / 4)
        facts = {"stage": name, "seconds": self.clock.now - began, "cached": cached, "detail": detail}
        self.recorder.event("stage", status="end", **facts)
        return facts

    def steps(self, first: int, count: int, seconds: float = 0.2, evaluate_every: int = 50) -> None:
        for step in range(first, first + count):
            wait = seconds * abs(self.random.gauss(0.004, 0.003)) * (9 if 180 < step % 1000 < 200 else 1)
            self.spend(State.DATA_WAIT, wait)
            for state, share in ((State.FORWARD, 0.33), (State.BACKWARD, 0.59), (State.OPTIMIZER, 0.07)):
                self.spend(state, seconds * share * self.random.gauss(1, 0.03))
            self.recorder.event(
                "step", step=step, loss=loss(step) + self.random.gauss(0, 0.07), learning_rate=rate(step),
                gradient_norm=0.6 + abs(self.random.gauss(0, 0.2)) + 3 / (step + 1), units=4096, samples=16,
                seconds=wait + seconds * self.random.gauss(1, 0.03), ids="9f3c2a1b00d4e5f6",
            )  # fmt: skip
            if step % evaluate_every == 0:
                self.spend(State.EVALUATE, seconds * 2.5)
                self.recorder.event("metric", step=step, split="validation", loss=loss(step) + 0.05,
                                    bits_per_byte=(loss(step) + 0.05) / 2.13)  # fmt: skip
            if step % (2 * evaluate_every) == 0:
                self.spend(State.CHECKPOINT, 0.03)
                self.recorder.event(
                    "checkpoint", step=step, seconds_exposed=0.03, seconds_background=0.4, bytes=51_000_000
                )


def loss(step: int) -> float:
    return 2.9 + 5.4 * math.exp(-step / 45) + 0.9 * math.exp(-step / 400)


def rate(step: int) -> float:
    return 2e-3 * min(1.0, (step + 1) / 20) * (0.1 + 0.9 * (1 + math.cos(math.pi * min(1.0, step / 430))) / 2)


def folder(name: str) -> RunFolder:
    environment = {
        **run.environment(),
        "machine": {"processor": "Xeon Platinum", "cores": 2, "memory_bytes": 8_200_000_000},
    }
    return run.create(JOB, environment, name)


def prepare(session: Session) -> list[dict[str, Any]]:
    stages = [
        session.stage("read", (State.START, 1.9), (State.READ, 3.1), detail="612 files, 11.6 MB kept, 31 duplicates"),
        session.stage("tokenizer", (State.TOKENISE, 0.01), cached=True, detail="4096 entries"),
        session.stage("pack", (State.TOKENISE, 1.4), (State.PACK, 0.8), detail="3.41M tokens, 3.4 bytes each"),
        session.stage("plan", (State.PROBE, 5.2), (State.FORWARD, 1.6), detail="430 steps in 90 s"),
    ]
    for key, value, reason, chosen in CHOICES:
        session.recorder.event("choice", key=key, value=value, reason=reason, chosen=chosen)
    return stages


CHOICES = (
    ("train.precision", "bf16", "AMX: 9.1x fp32 measured", "measured"),
    ("train.threads", "2", "0.201 s a step against 0.322 s with 1", "measured"),
    ("train.compile", "false", "saves 9 s of 90 s, costs 34 s", "estimated"),
    ("train.budget", "90s", "written in the job", "set"),
)
PREDICTED = {
    "step_seconds": {"predicted": 0.201, "measured": 0.207, "unit": "s", "error": 0.03},
    "train_seconds": {"predicted": 90.0, "measured": 92.6, "unit": "s", "error": 0.029},
    "rate": {"predicted": 20378.0, "measured": 19786.0, "unit": "tokens/s", "error": -0.029},
    "memory_bytes": {"predicted": 0.71e9, "measured": 0.86e9, "unit": "bytes", "error": 0.21},
    "line.forward": {"predicted": 28.1, "measured": 28.6, "unit": "s", "error": 0.03},
    "line.backward": {"predicted": 55.9, "measured": 51.1, "unit": "s", "error": 0.03},
    "line.compress": {"predicted": 8.0, "measured": 17.4, "unit": "s", "error": None},
}
VERDICT = {
    "limit": "model compute",
    "share": 0.47,
    "sentence": "Training, 72.1 % of the run, was limited by model compute: the CPU at 38.2 % of its bf16 peak.",
    "utilisation": [
        {"resource": "the main thread", "demand": 0.012, "capacity": 1.0, "utilisation": 0.971},
        {"resource": "cores", "demand": 0.023, "capacity": 2.0, "utilisation": 0.918},
        {"resource": "bf16 arithmetic", "demand": 0.005, "capacity": 1.0, "utilisation": 0.382},
    ],
    "evidence": ["1.84 of 2 cores were busy with this run", "MFU 38 % of the measured bf16 peak of 2.07 TFLOP/s",
                 "data wait 0.4 %, others on this machine 4 %"],
    "advice": [
        {"change": "train with larger batches: small ones reach 61 % of the peak", "predicted_gain": 0.11,
         "set": "--set train.global_batch_size=32", "error": 0.06},
        {"change": "compile the step when the budget is longer", "predicted_gain": 0.05,
         "set": "--set train.compile=true", "error": None},
    ],
}  # fmt: skip
ROOFLINE = {
    "peaks": {"fp32": 2.2e11, "bf16": 2.07e12}, "used": "bf16", "bandwidth": 3.4e10, "threads": 2,
    "points": [
        {"name": "products", "intensity": 84.0, "rate": 9.1e11, "roof": 2.07e12, "share": 0.55, "measured": False},
        {"name": "elementwise", "intensity": 0.0625, "rate": 1.3e9, "roof": 2.1e9, "share": 0.25, "measured": False},
        {"name": "optimizer", "intensity": 0.43, "rate": 6.7e9, "roof": 1.5e10, "share": 0.16, "measured": True},
        {"name": "attention", "intensity": 62.0, "rate": 8.8e11, "roof": 2.07e12, "share": 0.04, "measured": False},
    ],
}  # fmt: skip
COMPRESSION = [
    {"variant": "fp32", "value": 1.412, "interval": [0.0, 0.0], "drop": 0.0, "samples_per_second": 61.0,
     "latency_ms": 31.2, "bytes": 20_400_000, "kept": True, "reason": "the trained model itself"},
    {"variant": "bf16", "value": 1.4127, "interval": [-0.0004, 0.0014], "drop": 0.0005, "samples_per_second": 243.0,
     "latency_ms": 9.4, "bytes": 10_300_000, "kept": True, "reason": "fastest within the limit of 1.00 %"},
    {"variant": "int8", "value": 1.448, "interval": [0.0212, 0.0301], "drop": 0.0255, "samples_per_second": 251.0,
     "latency_ms": 9.1, "bytes": 5_600_000, "kept": False, "reason": "drop 2.55 % is above the limit of 1.00 %"},
]  # fmt: skip


def finish(folder: RunFolder, session: Session, stages: list[dict[str, Any]], steps: int, **more: Any) -> None:
    """The result object, as `run --json` prints it."""
    with session.told():
        ledger = session.recorder.ledger()
    folder.finish({
        "schema": 1, "run": folder.name, "status": "done", "job": "python-lm", "seconds": ledger.wall,
        "loss": loss(steps) + 0.05,
        "metrics": {"loss": loss(steps) + 0.05, "bits_per_byte": (loss(steps) + 0.05) / 2.13, "perplexity": 19.5},
        "baselines": {"bigram": 2.31, "trigram": 1.94}, "tokens_per_second": 19786.0, "steps": steps, "mfu": 0.382,
        "ledger": ledger.to_json(), "verdict": VERDICT, "predicted": PREDICTED, "roofline": ROOFLINE,
        "compression": COMPRESSION,
        "chosen": "bf16", "metric": "bits_per_byte",
        "completion": {"prompt": "def ", "text": "__init__(self, name, value=None):\n        self.name = name\n"
                       "        self.value = value\n\n    def __repr__(self):\n        return '<%s>' % self.name"},
        "stages": stages, "model": str(folder.paths.artifact("compressed")), "error": None,
        "next": ["fullbore explain last", "fullbore serve last"], **more,
    })  # fmt: skip


def artifacts(folder: RunFolder) -> None:
    parents: list[artifact.Artifact] = []
    for kind in ("corpus", "tokenizer", "shards", "model", "compressed"):
        with artifact.create(folder.paths.artifact(kind), kind, parents[-1:]) as draft:
            (draft.folder / "data.bin").write_bytes(kind.encode() * 5000)
        parents.append(artifact.read(folder.paths.artifact(kind)))


def done(name: str = "calm-otter-1", steps: int = 430, seconds: float = 0.2) -> RunFolder:
    made = folder(name)
    session = Session(made)
    with session.told():
        stages = prepare(session)
        stages.append(trained(session, steps, seconds))
        stages.append(
            session.stage("compress", (State.COMPRESS, 17.4), (State.EVALUATE, 2.2), detail="bf16 of 3 variants")
        )
        stages.append(session.stage("serve", (State.SERVE, 1.1), detail="first answer in 38 ms"))
        session.spend(State.REPORT, 0.2)
        session.recorder.busy("tokenise threads", 2.3)
        session.recorder.busy("prefetch", 6.9)
        session.recorder.busy("checkpoint writing", 1.7)
        session.recorder.event("message", level="warning", text="3 files are not UTF-8 and were put aside")
        session.recorder.event("end", status="done")
        session.recorder.close()
    artifacts(made)
    finish(made, session, stages, steps)
    return made


def trained(session: Session, steps: int, seconds: float, evaluate_every: int = 50) -> dict[str, Any]:
    began = session.clock.now
    session.recorder.event("stage", stage="train", status="begin")
    session.steps(1, steps, seconds, max(evaluate_every, steps // 50))
    facts = {
        "stage": "train",
        "seconds": session.clock.now - began,
        "cached": False,
        "detail": f"{steps} steps, 19.8k tokens/s",
    }
    session.recorder.event("stage", status="end", **facts)
    return facts


def failed(name: str = "brisk-heron-1", text: str = "loss is NaN at step 121") -> RunFolder:
    made = folder(name)
    session = Session(made)
    with session.told():
        stages = prepare(session)
        session.recorder.event("stage", stage="train", status="begin")
        session.steps(1, 120)
        session.recorder.event("step", step=121, loss=float("nan"), units=4096, samples=16, seconds=0.2)
        session.recorder.event("message", level="warning", text="gradient norm 412 at step 120")
        session.recorder.event("message", level="error", text=text)
        session.recorder.event("end", status="failed")
        session.recorder.close()
        ledger = session.recorder.ledger()
    made.finish({
        "schema": 1, "run": name, "status": "failed", "job": "python-lm", "stages": stages, "steps": 120,
        "seconds": ledger.wall, "ledger": ledger.to_json(),
        "error": {"message": text, "hint": "lower train.learning_rate; the last good checkpoint is step 100"},
    })  # fmt: skip
    return made


def killed(name: str = "fleet-robin-1") -> RunFolder:
    """No result, and the last line of its events is torn."""
    made = folder(name)
    session = Session(made)
    with session.told():
        prepare(session)
        session.recorder.event("stage", stage="train", status="begin")
        session.steps(1, 140)
        session.recorder.close()
    with open(made.paths.events(), "ab") as file:
        file.write(b'{"kind":"step","t":1790000040.1,"rank":0,"step":141,"lo')
    return made


def resumed(name: str = "amber-lynx-1") -> RunFolder:
    """Killed after step 140, resumed from step 100 ten minutes later: steps 101 to 140 are done twice."""
    made = killed(name)
    session = Session(made, start=_EPOCH + 640, seed=7)
    with session.told():
        session.spend(State.START, 2.5)
        session.recorder.event(
            "resume", step=100, checkpoint="step-00000100", skipped=["step-00000140: manifest is missing"]
        )
        session.steps(101, 200)
        session.recorder.close()
    finish(made, session, [], 300)
    return made


def ranks(name: str = "steady-crane-1", count: int = 2) -> RunFolder:
    made = folder(name)
    sessions = [Session(made, rank=rank) for rank in range(count)]
    for session in sessions:
        with session.told():
            session.stage("read", (State.START, 2.1 + 0.1 * session.recorder.rank), (State.READ, 1.0))
            for step in range(1, 61):
                session.steps(step, 1, 0.15, evaluate_every=30)
                session.spend(State.STRAGGLER if session.recorder.rank else State.COMMUNICATION, 0.03)
            session.recorder.close()
    finish(made, sessions[0], [], 60)
    return made


def packed(name: str = "tidy-wren-1") -> RunFolder:
    """Only `[data]`: no training, nothing to serve."""
    made = folder(name)
    session = Session(made)
    with session.told():
        stages = [session.stage("read", (State.START, 0.8), (State.READ, 4.2), detail="1797 rows")]
        session.recorder.close()
        ledger = session.recorder.ledger()
    made.finish({"schema": 1, "run": name, "status": "done", "job": "digits", "seconds": 5.0, "stages": stages,
                 "metrics": {}, "ledger": ledger.to_json(), "error": None})  # fmt: skip
    return made


def barely(name: str = "early-tern-1") -> RunFolder:
    """Killed before it wrote one event."""
    return folder(name)


EVERY = (done, failed, killed, resumed, ranks, packed, barely)


if __name__ == "__main__":
    import os
    import sys

    from fullbore.ui.report import write

    os.environ["FULLBORE_RUNS"] = sys.argv[1]
    for make in EVERY:
        began = time.monotonic()
        sys.stdout.write(f"{write(make())} {time.monotonic() - began:.2f} s\n")
