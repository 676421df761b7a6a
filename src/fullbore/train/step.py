"""One optimizer step: micro-batches forward and backward, gradients made exact over all ranks, the update."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fullbore.models import execution
from fullbore.models.collate import MULTIPLE
from fullbore.record.ledger import State
from fullbore.record.span import Recorder
from fullbore.spec.plan import Plan
from fullbore.spec.train import TrainSection
from fullbore.train import build, precision
from fullbore.train.parallel import Exchange
from fullbore.train.setup import Batch, Task


@dataclass(frozen=True)
class Outcome:
    """What one step did, over all ranks."""

    loss: float
    """Mean over the units, without L1 and L2."""
    learning_rate: float
    gradient_norm: float
    """Before clipping."""
    units: float
    samples: int
    stop: bool
    """Some rank was asked to stop."""

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)


class Loss(nn.Module):
    """The task's summed loss as a module's forward, which is what DDP and torch.compile wrap."""

    def __init__(self, network: nn.Module, task: Task) -> None:
        super().__init__()
        self.network = network
        self._task = task

    def forward(self, batch: Batch) -> Tensor:
        return self._task.loss(self.network, batch)


def samples(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def micro_batches(batch: Batch, size: int, device: torch.device) -> list[Batch]:
    """`batch` on `device`, cut into parts of `size` samples, the last one short.

    Padded samples of like lengths share a part, which is as wide as its longest: a sum over the samples does not depend
    on their order, and less of the work is padding.
    """
    mask = batch.get("attention_mask")
    cut = mask is not None and size < len(mask)
    if mask is not None and cut:
        order = mask.sum(1).argsort(stable=True)
        batch = {name: value[order] for name, value in batch.items()}
    columns = {name: value.to(device, non_blocking=True).split(size) for name, value in batch.items()}
    parts = [dict(zip(columns, part, strict=True)) for part in zip(*columns.values(), strict=True)]
    return [trimmed(part) for part in parts] if cut else parts


def trimmed(batch: Batch) -> Batch:
    """Padded samples without the columns in which all are padding, but for those that fill a multiple of 8."""
    width = batch["attention_mask"].shape[1]
    longest = int(batch["attention_mask"].any(0).nonzero().max()) + 1
    kept = min(width, -(-longest // MULTIPLE) * MULTIPLE)
    padded = {name for name, value in batch.items() if value.ndim > 1 and value.shape[1] == width}
    return {name: value[:, :kept] if name in padded else value for name, value in batch.items()}


class Step:
    """Call it with a batch and the step's number, from 0. If the gradient is not finite no parameter changes."""

    def __init__(
        self, network: nn.Module, task: Task, section: TrainSection, plan: Plan, exchange: Exchange, recorder: Recorder
    ) -> None:
        execution.attend(network, plan.attention)
        if plan.recompute:
            execution.recompute(network)
        self.optimizer = build.Optimizer(network, section)
        loss: nn.Module = Loss(network, task)
        if plan.compile:
            loss.compile()
        self._loss = exchange.wrap(loss)
        self._compiling = plan.compile
        self._task, self._section, self._plan = task, section, plan
        self._exchange, self._recorder = exchange, recorder
        self._device = next(network.parameters()).device

    def __call__(self, batch: Batch, step: int, stop: bool = False) -> Outcome:
        section, plan, state = self._section, self._plan, self._recorder.state
        with state(State.COPY):
            precision.seed_step(section.seed, self._exchange.rank, step)
            parts = micro_batches(batch, plan.micro_batch_size, self._device)
            mine = [self._task.units(batch), float(samples(batch)), float(stop)]
        loss, units, count, stops = self._accumulate(parts, mine)
        with state(State.OPTIMIZER):
            rate = build.learning_rate(section, plan.steps, plan.warmup_steps, step)
            norm = self.optimizer.step(units, rate)
        return Outcome(loss / units if units else 0.0, rate, norm, units, int(count), stops > 0)

    def _accumulate(self, parts: list[Batch], mine: list[float]) -> list[float]:
        """Leaves the gradients of the loss summed over all ranks; returns that sum and the sums of `mine`."""
        forward, backward = map(self._recorder.state, self._states())
        plain = precision.autocast("fp32", self._device)
        summed = 0.0
        with forward, precision.autocast(self._plan.precision, self._device):
            for part in parts[:-1]:
                with self._exchange.held():
                    loss = self._loss(part)
                    with backward, plain:
                        loss.backward()
                        summed += loss.item()
            loss = self._loss(parts[-1])
            with backward, plain:
                loss.backward()
                return self._exchange.totals([summed + loss.item(), *mine])

    def _states(self) -> tuple[State, State]:
        if self._compiling:
            self._compiling = False
            return State.COMPILE, State.COMPILE
        return State.FORWARD, State.BACKWARD
