"""What training is given and what it gives back; what it asks of a task, a feed and validation data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from fullbore.record.progress import Progress
from fullbore.record.span import Recorder
from fullbore.spec.plan import Plan
from fullbore.spec.train import TrainSection

Batch = dict[str, Any]
"""Tensors by name, the first dimension is the samples'."""

Stopped = Literal["budget", "early stopping", "interrupted"]


class Task(Protocol):
    """What the network is asked to do. Losses are sums, so that they add over micro-batches and ranks."""

    @property
    def metric(self) -> str:
        """The key of `metrics` that says how good a network is."""

    @property
    def higher_is_better(self) -> bool: ...

    def units(self, batch: Batch) -> float:
        """What the loss of `batch` is a sum over: target tokens, samples, or the samples' class weights."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Sum over the units, fp32 scalar, with gradients."""

    def judge(self, model: nn.Module, batch: Batch) -> dict[str, float]:
        """Sums that add up over batches and ranks, and that `metrics` reads."""

    def metrics(self, sums: dict[str, float]) -> dict[str, float]:
        """Named figures, `loss` and the metric among them."""


class Feed(Protocol):
    """An endless stream of a rank's batches whose position is a few integers."""

    last_ids: NDArray[np.int64]
    """Ids of the samples in the batch last given."""

    def __iter__(self) -> Iterator[Batch]: ...

    def state_dict(self) -> dict[str, Any]:
        """The position of the batch that comes next, as JSON."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class Validation(Protocol):
    def __call__(self, *, limit: int | None = None) -> Iterable[Batch]:
        """A rank's part of the held-out samples, each once; with `limit`, of so many of them, always the same ones."""


@dataclass(frozen=True)
class TrainSetup:
    """One rank's share of a training job."""

    section: TrainSection
    plan: Plan
    build: Callable[[], nn.Module]
    """The network in its initial state: the same bits on every call and every rank."""
    task: Task
    feed: Callable[[], Feed]
    validation: Validation | None
    checkpoints: Path
    recorder: Recorder
    progress: Progress
    stop: Callable[[], bool]
    """Polled each step; once true, a checkpoint is saved and training ends as `interrupted`."""
    rank: int = 0
    world_size: int = 1
    tensorboard: Path | None = None
    resume: bool = False


@dataclass(frozen=True)
class TrainResult:
    """How training ended."""

    module: nn.Module
    """In eval mode, with the best weights if there was validation, else the last; if interrupted, the last."""
    steps: int
    """Optimizer steps behind the last weights, earlier sessions included."""
    steps_here: int
    samples: int
    """Over all ranks, in this session, as `units`."""
    units: float
    loss: float
    """Mean over the units of the last step."""
    metrics: dict[str, float]
    """Of `module` on all validation samples; if interrupted, what was last known."""
    best_step: int
    seconds: float
    """Of this session, from building the network to the last evaluation."""
    step_seconds: float
    """Median of this session's steps."""
    stopped: Stopped
    checkpoint: Path
    """The last one; it holds the best weights, too."""
