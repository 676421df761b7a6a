"""The tasks with one answer a sample: its class, or its value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fullbore.models import collate
from fullbore.models.collate import Batch, Columns

Scores = NDArray[np.float64]


def answers(model: nn.Module, batch: Batch) -> Tensor:
    """The network's outputs [B, N] for the inputs in `batch`."""
    if "tokens" in batch:
        outputs: Tensor = model(batch["tokens"], batch.get("attention_mask"))
    elif "pixels" in batch:
        outputs = model(batch["pixels"])
    else:
        outputs = model(batch["features"])
    return outputs


@dataclass(frozen=True)
class Classification:
    """Batch: the inputs and label int64 [B]. Units are the samples, or the sum of their class weights."""

    class_weights: tuple[float, ...] | None = None
    pad: int = 0
    metric = "accuracy"
    higher_is_better = True

    def collate(self, columns: Columns, places: NDArray[np.int64]) -> Batch:
        del places
        batch = collate.inputs(columns, self.pad)
        if "label" in columns:
            batch["label"] = torch.from_numpy(np.asarray(columns["label"], np.int64))
        return batch

    def _weights(self) -> Tensor | None:
        return None if self.class_weights is None else torch.tensor(self.class_weights, dtype=torch.float32)

    def units(self, batch: Batch) -> float:
        weights = self._weights()
        return len(batch["label"]) if weights is None else weights[batch["label"]].sum().item()

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        logits = answers(model, batch).float()
        return F.cross_entropy(logits, batch["label"], weight=self._weights(), reduction="sum")

    def judge(self, model: nn.Module, batch: Batch) -> dict[str, float]:
        with torch.no_grad():
            logits = answers(model, batch).float()
            losses = F.cross_entropy(logits, batch["label"], weight=self._weights(), reduction="none")
        return {
            "loss_sum": losses.double().sum().item(),
            "units": float(self.units(batch)),
            "correct": float((logits.argmax(1) == batch["label"]).sum().item()),
            "samples": float(len(logits)),
        }

    def judge_each(self, model: nn.Module, batch: Batch) -> Scores:
        """1 where the likeliest class is the right one, else 0."""
        with torch.no_grad():
            hits = answers(model, batch).argmax(1) == batch["label"]
        each: Scores = hits.double().numpy()
        return each

    def metrics(self, sums: dict[str, float]) -> dict[str, float]:
        return {
            "loss": sums["loss_sum"] / max(sums["units"], 1e-9),
            "accuracy": sums["correct"] / max(sums["samples"], 1),
        }


@dataclass(frozen=True)
class Regression:
    """Batch: the inputs and target float32 [B] as the data holds them; errors are told in the target's own units."""

    deviation: float = 1.0
    """What a standardised target was divided by."""
    pad: int = 0
    metric = "mean_squared_error"
    higher_is_better = False

    def collate(self, columns: Columns, places: NDArray[np.int64]) -> Batch:
        del places
        batch = collate.inputs(columns, self.pad)
        if "target" in columns:
            batch["target"] = torch.from_numpy(np.asarray(columns["target"], np.float32))
        return batch

    def units(self, batch: Batch) -> int:
        return len(batch["target"])

    def _errors(self, model: nn.Module, batch: Batch) -> Tensor:
        return answers(model, batch).float().squeeze(-1) - batch["target"]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self._errors(model, batch).square().sum()

    def judge(self, model: nn.Module, batch: Batch) -> dict[str, float]:
        with torch.no_grad():
            errors = self._errors(model, batch).double()
        target = batch["target"].double()
        return {
            "loss_sum": errors.square().sum().item(),
            "units": float(len(errors)),
            "absolute": errors.abs().sum().item(),
            "target_sum": target.sum().item(),
            "target_squares": target.square().sum().item(),
            "samples": float(len(errors)),
        }

    def judge_each(self, model: nn.Module, batch: Batch) -> Scores:
        """Each sample's squared error, in the target's own units."""
        with torch.no_grad():
            errors = self._errors(model, batch).double() * self.deviation
        each: Scores = errors.square().numpy()
        return each

    def metrics(self, sums: dict[str, float]) -> dict[str, float]:
        count = max(sums["units"], 1)
        spread = sums["target_squares"] - sums["target_sum"] ** 2 / count
        return {
            "loss": sums["loss_sum"] / count,
            "mean_squared_error": sums["loss_sum"] / count * self.deviation**2,
            "mean_absolute_error": sums["absolute"] / count * self.deviation,
            "r2": 1 - sums["loss_sum"] / spread if spread > 0 else 0.0,
        }


def balanced(counts: Any) -> tuple[float, ...]:
    """Class weights n / (classes * count): each class weighs the same in total (King and Zeng 2001)."""
    counted = np.maximum(np.asarray(counts, np.float64), 1)
    return tuple(float(weight) for weight in counted.sum() / (len(counted) * counted))
