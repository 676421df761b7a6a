"""A tiny task, network, feed and job: what training is tested with, in this process and in others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fullbore.base.units import parse_budget
from fullbore.record.progress import no_progress
from fullbore.record.span import Recorder
from fullbore.spec.plan import Plan
from fullbore.spec.train import TrainSection
from fullbore.train.setup import Batch, TrainSetup

FEATURES, CLASSES, ROWS, HELD_OUT = 12, 3, 200, 40


def _rows(count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    features = generator.standard_normal((count, FEATURES)).astype(np.float32)
    labels = (features[:, :CLASSES] + 0.3 * features[:, 3:6]).argmax(1)
    return features, labels


def _batch(rows: tuple[NDArray[np.float32], NDArray[np.int64]], ids: NDArray[np.int64]) -> Batch:
    return {"features": torch.from_numpy(rows[0][ids]), "label": torch.from_numpy(rows[1][ids])}


class Task:
    metric = "accuracy"
    higher_is_better = True

    def units(self, batch: Batch) -> float:
        return float(len(batch["label"]))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(model(batch["features"]).float(), batch["label"], reduction="sum")

    def judge(self, model: nn.Module, batch: Batch) -> dict[str, float]:
        logits = model(batch["features"]).float()
        loss = nn.functional.cross_entropy(logits, batch["label"], reduction="sum")
        correct = (logits.argmax(1) == batch["label"]).sum()
        return {"loss_sum": loss.item(), "correct": correct.item(), "samples": float(len(logits))}

    def metrics(self, sums: dict[str, float]) -> dict[str, float]:
        return {"loss": sums["loss_sum"] / sums["samples"], "accuracy": sums["correct"] / sums["samples"]}


class Feed:
    def __init__(
        self, batch: int, rank: int = 0, world_size: int = 1, poison: int | None = None, pause: float = 0.0
    ) -> None:
        self._rows = _rows(ROWS, 1)
        self._step, self._batch, self._rank, self._world_size = 0, batch, rank, world_size
        self._poison, self._pause = poison, pause
        self.last_ids: NDArray[np.int64] = np.empty(0, np.int64)
        self.closed = False

    def __iter__(self) -> Iterator[Batch]:
        while True:
            time.sleep(self._pause)
            places = np.arange(self._step * self._batch, (self._step + 1) * self._batch) * 7919 % ROWS
            self.last_ids = np.array_split(places, self._world_size)[self._rank]
            batch = _batch(self._rows, self.last_ids)
            if self._step == self._poison:
                batch["features"] = batch["features"] * float("nan")
            self._step += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        return {"step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._step = state["step"]

    def close(self) -> None:
        self.closed = True


@dataclass(frozen=True)
class Validation:
    rank: int = 0
    world_size: int = 1

    def __call__(self, *, limit: int | None = None) -> Iterator[Batch]:
        ids = np.array_split(np.arange(limit or HELD_OUT), self.world_size)[self.rank]
        for start in range(0, len(ids), 16):
            yield _batch(_rows(HELD_OUT, 2), ids[start : start + 16])


def network(*, dropout: float = 0.0, width: int = 16, norm: bool = False, unused: bool = False) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers: list[nn.Module] = [nn.Linear(FEATURES, width)]
        layers += [nn.BatchNorm1d(width)] if norm else []
        layers += [nn.Tanh(), nn.Dropout(dropout), nn.Linear(width, CLASSES)]
        made = nn.Sequential(*layers)
        if unused:
            made.register_parameter("spare", nn.Parameter(torch.ones(3)))
        return made


def plan(**changes: Any) -> Plan:
    made = Plan(
        world_size=1,
        global_batch_size=8,
        micro_batch_size=8,
        accumulation=1,
        steps=12,
        precision="fp32",
        compile=False,
        threads=1,
        evaluate_every=4,
        checkpoint_every=5,
        warmup_steps=2,
    )
    return replace(made, **changes)


def section(**changes: Any) -> TrainSection:
    return TrainSection(budget=parse_budget("12 steps"), **{"learning_rate": 0.02, **changes})


def setup(
    folder: Path,
    plan: Plan,
    *,
    section: TrainSection = section(),
    build: Callable[[], nn.Module] = network,
    recorder: Recorder | None = None,
    poison: int | None = None,
    pause: float = 0.0,
    rank: int = 0,
    **changes: Any,
) -> TrainSetup:
    world_size = plan.world_size
    made = TrainSetup(
        section=section,
        plan=plan,
        build=build,
        task=Task(),
        feed=lambda: Feed(plan.global_batch_size, rank, world_size, poison, pause),
        validation=Validation(rank, world_size),
        checkpoints=folder / "checkpoints",
        recorder=recorder or Recorder(),
        progress=no_progress,
        stop=lambda: False,
        rank=rank,
        world_size=world_size,
    )
    return replace(made, **changes)


class Kept:
    """A sink that keeps events in memory."""

    dropped = 0
    cpu_seconds = 0.0

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def put(self, event: dict[str, Any]) -> None:
        self.events.append(event)

    def settle(self) -> None:
        pass

    def close(self) -> None:
        pass

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["kind"] == kind]


def tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
