"""How long a step takes under settings that are only being considered."""

from __future__ import annotations

import statistics
import time
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import count
from typing import Literal

from fullbore.record.ledger import State
from fullbore.record.span import Recorder
from fullbore.train import precision as numerics
from fullbore.train.parallel import Alone
from fullbore.train.setup import TrainSetup
from fullbore.train.step import Step

_WARMUP_STEPS = 1
_COUNTED = (State.COPY, State.FORWARD, State.BACKWARD, State.OPTIMIZER)


@dataclass(frozen=True)
class Trial:
    """Measured steps of one rank, data wait left out."""

    seconds: float
    """Of an optimizer step: the median of the faster half, which a burst of other work does not reach."""
    parts: dict[str, float]
    """Mean seconds of a step by ledger state."""
    first_seconds: float
    """What the first step took on top of that: warming up, compiling."""
    loss: float
    """Of the last step."""


def step_seconds(
    setup: TrainSetup,
    *,
    precision: Literal["fp32", "bf16"],
    threads: int,
    compile: bool,
    micro_batch: int,
    steps: int,
    seconds: float = 0.0,
) -> Trial:
    """Take `steps` real steps of a fresh network on real batches, after one that is not counted (nor is compiling), and
    more until they took `seconds`.

    Only this rank's work, with no exchange. Nothing of it stays: network, feed, threads, random state, recorder.
    """
    plan = replace(
        setup.plan, precision=precision, threads=threads, compile=compile, micro_batch_size=micro_batch, world_size=1
    )
    recorder = Recorder()
    taken: list[float] = []
    with numerics.exact(threads), closing(setup.feed()) as feed:
        network = setup.build().train()
        step = Step(network, setup.task, setup.section, plan, Alone(), recorder)
        batches = iter(feed)
        earlier: dict[str, float] = {}
        for number in count():
            if number >= _WARMUP_STEPS + steps and sum(taken[_WARMUP_STEPS:]) >= seconds:
                break
            with recorder.state(State.DATA_WAIT):
                batch = next(batches)
            if number == _WARMUP_STEPS:
                earlier = dict(recorder.ledger().seconds)
            began = time.perf_counter()
            outcome = step(batch, number)
            taken.append(time.perf_counter() - began)
        spent = recorder.ledger().seconds
    counted = sorted(taken[_WARMUP_STEPS:])
    parts = {str(s): (spent.get(s, 0.0) - earlier.get(s, 0.0)) / len(counted) for s in _COUNTED}
    seconds = statistics.median(counted[: (len(counted) + 1) // 2])
    return Trial(seconds, parts, max(0.0, taken[0] - seconds), outcome.loss)
