"""The tasks of language models: the next token, and tokens that were masked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fullbore.base.mix import GOLDEN, mix
from fullbore.models import collate
from fullbore.models.collate import Batch, Columns
from fullbore.models.head import IGNORED, head_loss, head_rows

Scores = NDArray[np.float64]


def _split(model: Any, tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """What the head reads [B, T, D], its weight and bias; or the logits and nothing where they cannot be split."""
    asked = (tokens,) if mask is None else (tokens, mask)
    if getattr(model, "splits", True):
        return model.hidden(*asked), model.head_weight, model.head_bias
    return model(*asked), None, None


def _rates(sums: dict[str, float], bytes_per_token: float | None) -> dict[str, float]:
    units = max(sums["units"], 1)
    loss = sums["loss_sum"] / units
    metrics = {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700)),
        "token_accuracy": sums["correct"] / units,
    }
    if bytes_per_token:
        metrics["bits_per_byte"] = loss / math.log(2) / bytes_per_token
    return metrics


@dataclass(frozen=True)
class CausalLM:
    """Predict each token from those before it. Batch: tokens int32 [B, T+1]; units are the T targets of each row."""

    bytes_per_token: float | None = None
    """Bytes of text that a token of the judged split stands for."""
    higher_is_better = False

    @property
    def metric(self) -> str:
        return "bits_per_byte" if self.bytes_per_token else "loss"

    def collate(self, columns: Columns, places: NDArray[np.int64]) -> Batch:
        del places
        return {"tokens": collate.rows(columns["tokens"])}

    def units(self, batch: Batch) -> int:
        tokens = batch["tokens"]
        return tokens.shape[0] * (tokens.shape[1] - 1)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        hidden, weight, bias = _split(model, batch["tokens"][:, :-1], None)
        return head_loss(hidden.flatten(0, 1), weight, bias, batch["tokens"][:, 1:].flatten())

    def _judged(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            hidden, weight, bias = _split(model, batch["tokens"][:, :-1], None)
            return head_rows(hidden.flatten(0, 1), weight, bias, batch["tokens"][:, 1:].flatten())

    def judge(self, model: nn.Module, batch: Batch) -> dict[str, float]:
        losses, hits = self._judged(model, batch)
        return {
            "loss_sum": losses.double().sum().item(),
            "units": float(len(losses)),
            "correct": float(hits.sum().item()),
            "samples": float(len(batch["tokens"])),
        }

    def judge_each(self, model: nn.Module, batch: Batch) -> Scores:
        """Each row's mean loss, nats per token."""
        losses, _ = self._judged(model, batch)
        each: Scores = losses.double().view(len(batch["tokens"]), -1).mean(1).numpy()
        return each

    def metrics(self, sums: dict[str, float]) -> dict[str, float]:
        return _rates(sums, self.bytes_per_token)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return mix(values + np.uint64(GOLDEN))


def draws(seed: int, places: NDArray[np.int64], length: int, stream: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) [B, length], each a pure function of (seed, place, position in the row, stream)."""
    own = _mixed(_mixed(np.array([seed], np.uint64)) + np.uint64(stream))
    keys = _mixed(_mixed(np.asarray(places, np.uint64)) ^ own)
    counted = _mixed(keys[:, None] + _mixed(np.arange(length, dtype=np.uint64))[None, :])
    return (counted >> np.uint64(11)).astype(np.float64) * 2.0**-53


@dataclass(frozen=True)
class MaskedLM:
    """Predict tokens that were hidden (Devlin et al. 2019): of the chosen share 80 % become the mask, 10 % any token,
    10 % stay. Batch: tokens int32 [B, T], attention_mask [B, T], labels int64 [B, T] (-100 where not chosen).

    What is chosen goes by the places of the samples: others in each epoch, the same whenever a split is judged.
    """

    vocabulary_size: int
    mask: int
    pad: int
    specials: tuple[int, ...]
    """Tokens that are never chosen."""
    share: float
    length: int
    seed: int = 0
    metric = "loss"
    higher_is_better = False

    def collate(self, columns: Columns, places: NDArray[np.int64]) -> Batch:
        column = [np.asarray(cell)[: self.length] for cell in columns["tokens"]]
        if len({len(cell) for cell in column}) == 1:
            clear = collate.rows(np.stack(column)).numpy()
            attended = torch.ones(clear.shape, dtype=torch.bool)
        else:
            batch = collate.padded(column, self.pad)
            clear, attended = batch["tokens"].numpy(), batch["attention_mask"]
        free = attended.numpy() & ~np.isin(clear, self.specials)
        where, how, what = (draws(self.seed, places, clear.shape[1], stream) for stream in range(3))
        where = np.where(free, where, 2.0)
        chosen = (where < self.share) | (where == where.min(1, keepdims=True)) & free
        other = (what * self.vocabulary_size).astype(np.int32)
        hidden = np.where(how < 0.8, np.int32(self.mask), np.where(how < 0.9, other, clear))
        return {
            "tokens": torch.from_numpy(np.where(chosen, hidden, clear).astype(np.int32)),
            "attention_mask": attended,
            "labels": torch.from_numpy(np.where(chosen, clear, IGNORED).astype(np.int64)),
        }

    def units(self, batch: Batch) -> int:
        return int((batch["labels"] != IGNORED).sum())

    def _chosen(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
        hidden, weight, bias = _split(model, batch["tokens"], batch["attention_mask"])
        chosen = batch["labels"] != IGNORED
        return hidden[chosen], weight, bias, batch["labels"][chosen]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return head_loss(*self._chosen(model, batch))

    def judge(self, model: nn.Module, batch: Batch) -> dict[str, float]:
        with torch.no_grad():
            losses, hits = head_rows(*self._chosen(model, batch))
        return {
            "loss_sum": losses.double().sum().item(),
            "units": float(len(losses)),
            "correct": float(hits.sum().item()),
            "samples": float(len(batch["tokens"])),
        }

    def judge_each(self, model: nn.Module, batch: Batch) -> Scores:
        """Each row's mean loss over its chosen tokens, in nats."""
        with torch.no_grad():
            losses, _ = head_rows(*self._chosen(model, batch))
        owners = (batch["labels"] != IGNORED).nonzero()[:, 0].numpy()
        counts = np.bincount(owners, minlength=len(batch["tokens"]))
        sums = np.bincount(owners, weights=losses.double().numpy(), minlength=len(batch["tokens"]))
        return sums / np.maximum(counts, 1)

    def metrics(self, sums: dict[str, float]) -> dict[str, float]:
        return _rates(sums, None)
