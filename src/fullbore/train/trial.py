"""How long a step takes under settings that are only being considered."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from fullbore.record.ledger import State
from fullbore.record.span import Recorder
from fullbore.train import precision as numerics
from fullbore.train.checkpoint import Checkpoints, Position
from fullbore.train.parallel import Alone
from fullbore.train.setup import TrainSetup
from fullbore.train.step import Step

_WARMUP_STEPS = 1
_COUNTED = (State.COPY, State.FORWARD, State.BACKWARD, State.OPTIMIZER)


@dataclass(frozen=True)
class Trial:
    """Measured steps of one rank."""

    seconds: float
    """Of an optimizer step, data wait left out: the median of the faster half, which a burst of other work does not
    reach."""
    parts: dict[str, float]
    """Mean seconds of a step by ledger state."""
    first_seconds: float
    """What the first step took on top of that: warming up, compiling."""
    loss: float
    """Of the last step."""
    taken: tuple[float, ...]
    """Seconds of each step that counts, in order, its data wait included."""
    waited: float
    """Mean seconds of a step's data wait."""


class Trials:
    """A fresh network, its optimizer and a feed, whose steps are timed in as many portions as are asked for.

    The first step is the first portion's to pay, and is not counted; nor is compiling, which it brings.
    """

    def __init__(self, setup: TrainSetup, feed: Iterator[dict[str, object]]) -> None:
        self._recorder = Recorder()
        self._network = setup.build().train()
        self._step = Step(self._network, setup.task, setup.section, setup.plan, Alone(), self._recorder)
        self._batches, self._number, self._first = feed, 0, 0.0

    def measure(self, steps: int, seconds: float = 0.0) -> Trial:
        """`steps` real steps, and more until they took `seconds`."""
        while self._number < _WARMUP_STEPS:
            self._first, _ = self._once()
        earlier = dict(self._recorder.ledger().seconds)
        worked, waited = list[float](), list[float]()
        while len(worked) < steps or sum(worked) + sum(waited) < seconds:
            work, wait = self._once()
            worked.append(work)
            waited.append(wait)
        spent = self._recorder.ledger().seconds
        return Trial(
            seconds=(usual := statistics.median(sorted(worked)[: (len(worked) + 1) // 2])),
            parts={str(s): (spent.get(s, 0.0) - earlier.get(s, 0.0)) / len(worked) for s in _COUNTED},
            first_seconds=max(0.0, self._first - usual),
            loss=self._loss,
            taken=tuple(map(sum, zip(worked, waited, strict=True))),
            waited=statistics.fmean(waited),
        )

    def save_seconds(self, folder: Path) -> float:
        """What a checkpoint costs the steps: copying holds them up, and writing takes a core from them as long as it
        computes. The second one is told, which finds the memory of the first."""
        saving = Checkpoints(folder, 1, self._recorder)
        with closing(saving):
            for step in (1, 2):
                began = time.perf_counter()
                saving.save(Position(step=step), self._network, self._step.optimizer, {})
                copied, computed = time.perf_counter() - began, time.process_time()
                saving.finish()
        return copied + time.process_time() - computed

    def _once(self) -> tuple[float, float]:
        """Seconds of one step, and of waiting for its batch before."""
        began = time.perf_counter()
        with self._recorder.state(State.DATA_WAIT):
            batch = next(self._batches)
        given = time.perf_counter()
        self._loss = self._step(batch, self._number).loss
        self._number += 1
        return time.perf_counter() - given, given - began


@contextmanager
def opened(setup: TrainSetup) -> Iterator[Trials]:
    """Trials of the plan that `setup` holds: only this rank's work, with no exchange.

    Nothing of it stays: network, feed, threads, random state, recorder.
    """
    alone = replace(setup, plan=replace(setup.plan, world_size=1))
    with numerics.exact(alone.plan.threads), closing(alone.feed()) as feed:
        yield Trials(alone, iter(feed))


def step_seconds(setup: TrainSetup, *, steps: int, seconds: float = 0.0) -> Trial:
    """Real steps of the plan that `setup` holds, as `Trials.measure` takes them."""
    with opened(setup) as trials:
        return trials.measure(steps, seconds)
