"""What a network is asked to do: its batches, its loss and how well it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from fullbore.base.errors import InputError
from fullbore.models.collate import Batch, Columns
from fullbore.models.language import CausalLM, MaskedLM
from fullbore.models.supervised import Classification, Regression, balanced
from fullbore.models.tokenizer import Tokenizer
from fullbore.spec.model import TaskSection


class Task(Protocol):
    """One task. Losses are sums over `units`, so that they add over micro-batches and ranks.

    `loss` calls more of the network than its forward, so what wraps a network (DDP, compile) wraps a module whose
    forward is `task.loss(network, batch)`. Who judges sets the network's mode and precision.
    """

    @property
    def metric(self) -> str:
        """The key of `metrics` that says how good a network is."""

    @property
    def higher_is_better(self) -> bool: ...

    def collate(self, columns: Columns, places: NDArray[np.int64]) -> Batch:
        """Samples to a batch; pure. What is drawn at random goes by `places`: positions in the endless stream that is
        trained on, rows of a split that is judged. A column of answers may be absent where nothing is judged."""

    def units(self, batch: Batch) -> float:
        """What the loss of `batch` is a sum over: targets, samples, or the samples' class weights."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Sum over the units, fp32 scalar, with gradients."""

    def judge(self, model: nn.Module, batch: Batch) -> dict[str, float]:
        """Sums that add up over batches and ranks, and that `metrics` reads."""

    def judge_each(self, model: nn.Module, batch: Batch) -> NDArray[np.float64]:
        """A score per sample [B] whose mean is monotone in the metric."""

    def metrics(self, sums: dict[str, float]) -> dict[str, float]:
        """Named figures, `loss` (mean over the units) and the metric among them."""


def bytes_per_token(info: Mapping[str, Any], split: str = "validation") -> float | None:
    """Bytes of text that a token of `split` (else of the training split) stands for; none: not known."""
    for known in (split, "train"):
        text, tokens = (info.get(key) or {} for key in ("text_bytes", "tokens"))
        if text.get(known) and tokens.get(known):
            return float(text[known] / tokens[known])
    return None


def task(
    section: TaskSection,
    info: Mapping[str, Any],
    vocabulary: Tokenizer | None,
    *,
    seed: int = 0,
    split: str = "validation",
) -> Task:
    """The task of a job, from what is known of its data (`info` of a corpus or of shards) and its tokenizer.

    `split`: the one that is judged.

    Raises InputError where the data or the tokenizer lack what the task needs.
    """
    pad = vocabulary.pad if vocabulary is not None else 0
    if section.kind == "causal_lm":
        return CausalLM(bytes_per_token(info, split))
    if section.kind == "masked_lm":
        if vocabulary is None or vocabulary.mask is None:
            raise InputError("task.kind: masked_lm needs a tokenizer with a mask token", hint="set tokenizer.kind")
        return MaskedLM(
            vocabulary_size=vocabulary.vocabulary_size,
            mask=vocabulary.mask,
            pad=pad,
            specials=vocabulary.specials,
            share=section.mask_share,
            length=int(info["sequence_length"]),
            seed=seed,
        )
    if section.kind == "classification":
        counts = info.get("class_counts")
        if not counts:
            raise InputError("task.kind: classification needs classes, and the data has none", hint="set data.label")
        return Classification(balanced(counts) if section.class_weights == "balanced" else None, pad)
    statistics = info.get("statistics") or {}
    return Regression(float(statistics.get("target_deviation") or 1.0), pad)
