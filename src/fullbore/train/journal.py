"""What training says while it runs: events for the run folder, progress for who watches, scalars for TensorBoard."""

from __future__ import annotations

import os
import queue
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from fullbore.base.log import logger
from fullbore.base.units import format_count
from fullbore.record.ledger import State
from fullbore.train.setup import TrainSetup
from fullbore.train.step import Outcome

_WAITING_TOO_LONG = 0.1
_MEMORY = 0.9


class Journal:
    """Keeps the session's sums, too: steps, samples, units, seconds of each step."""

    def __init__(self, setup: TrainSetup, first_step: int) -> None:
        self.samples = 0
        self.units = 0.0
        self.seconds: list[float] = []
        self._setup = setup
        self._waited = self._took = self._judged = self._trained = 0.0
        self._scalars = Scalars(setup.tensorboard, first_step) if setup.tensorboard is not None else None

    @property
    def step_seconds(self) -> float:
        """Median over this session; 0 before the first step."""
        return statistics.median(self.seconds) if self.seconds else 0.0

    def step(self, step: int, outcome: Outcome, seconds: float, waited: float, ids: NDArray[np.int64]) -> None:
        """Step `step` (from 1) is done: it took `seconds`, of them `waited` for data."""
        self.samples += outcome.samples
        self.units += outcome.units
        self.seconds.append(seconds)
        facts: dict[str, Any] = {
            "loss": outcome.loss,
            "learning_rate": outcome.learning_rate,
            "gradient_norm": outcome.gradient_norm,
        }
        self._setup.recorder.event(
            "step",
            step=step,
            **facts,
            units=outcome.units,
            samples=outcome.samples,
            seconds=seconds,
            ids=xxhash.xxh3_64_hexdigest(np.ascontiguousarray(ids).data),
        )
        if self._scalars is not None:
            self._scalars.put(step, {f"train/{name}": value for name, value in facts.items()})
        self._show(step, outcome, seconds, waited)

    def metrics(self, step: int, metrics: dict[str, float]) -> None:
        self._setup.recorder.event("metric", step=step, split="validation", **metrics)
        if self._scalars is not None:
            self._scalars.put(step, {f"validation/{name}": value for name, value in metrics.items()})

    def close(self) -> None:
        if self._scalars is not None:
            with self._setup.recorder.state(State.REPORT):
                self._scalars.close()

    def _show(self, step: int, outcome: Outcome, seconds: float, waited: float) -> None:
        self._waited = self._waited * _MEMORY + waited
        self._took = self._took * _MEMORY + seconds
        self._trained = self._trained * _MEMORY + outcome.units
        self._judged = self._judged * _MEMORY + outcome.samples
        many = self._trained >= 2 * self._judged
        rate = (self._trained if many else self._judged) / self._took
        self._setup.progress(
            "train",
            step,
            self._setup.plan.steps,
            "steps",
            detail=f"loss {outcome.loss:.4g}, {format_count(rate)} {'tokens' if many else 'samples'}/s",
            limit="data" if self._waited > _WAITING_TOO_LONG * self._took else "compute",
        )


class Scalars:
    """TensorBoard scalars, written by a thread: importing tensorboard alone takes longer than many steps.

    Where they cannot be written, a warning says so once, and training goes on without them.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        self._queue: queue.SimpleQueue[tuple[float, int, dict[str, float]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, args=(folder, first_step), name="fullbore-tensorboard")
        self._thread.start()

    def put(self, step: int, values: dict[str, float]) -> None:
        self._queue.put((time.time(), step, values))

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _write(self, folder: Path, first_step: int) -> None:
        try:
            self._record(folder, first_step)
        except OSError as error:
            logger.warning("TensorBoard scalars are no longer written to %s: %s", folder, error)
            while self._queue.get() is not None:
                pass

    def _record(self, folder: Path, first_step: int) -> None:
        """All that is put, in a file of events (tensorboard's own writer has a thread that dies of an error)."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        began = time.time()
        with open(folder / f"events.out.tfevents.{began:017.6f}.{os.getpid()}", "xb") as file:
            records = RecordWriter(file)

            def write(**event: Any) -> None:
                records.write(Event(**event).SerializeToString())
                records.flush()

            write(wall_time=began, file_version="brain.Event:2")
            write(wall_time=began, step=first_step + 1, session_log=SessionLog(status=SessionLog.START))
            while (item := self._queue.get()) is not None:
                wall_time, step, values = item
                summary = Summary(value=[Summary.Value(tag=tag, simple_value=v) for tag, v in values.items()])
                write(wall_time=wall_time, step=step, summary=summary)
