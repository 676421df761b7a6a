"""`[train]`: how long, how, and what is kept."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fullbore.spec.section import Auto, BudgetField, Seconds, Section


class TrainSection(Section):
    budget: BudgetField
    global_batch_size: int = Field(32, gt=0)
    """Samples (packed rows for language models) per optimizer step, over all ranks."""
    micro_batch_size: Auto | int = "auto"
    """Samples per forward pass of one rank; what is missing to the global batch is accumulated."""
    sequence_length: int = Field(256, gt=1)
    """Tokens per sample: the packed row of a language model, the longest kept text of a classifier."""
    world_size: int = Field(1, gt=0)
    """Data-parallel processes on this machine."""
    seed: int = Field(0, ge=0)
    precision: Auto | Literal["fp32", "bf16"] = "auto"
    compile: Auto | bool = "auto"
    threads: Auto | int = "auto"
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    l1: float = Field(0.0, ge=0)
    l2: float = Field(0.0, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, gt=0, lt=1)
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup: float = Field(0.02, ge=0, lt=1)
    """Share of the steps over which the learning rate rises from zero."""
    final_learning_rate: float = Field(0.1, ge=0, le=1)
    """Learning rate at the last step, as a share of `learning_rate`."""
    clip: float | None = Field(1.0, gt=0)
    """Largest norm of the gradient; none leaves it as it is."""
    evaluate_every: Auto | int = "auto"
    """Steps between evaluations."""
    evaluate_samples: int | None = Field(None, gt=0)
    """At most so many validation samples are judged during training; the last evaluation judges them all."""
    early_stopping: int | None = Field(None, gt=0)
    """Stop after so many evaluations without a better validation metric."""
    checkpoint_every: Auto | int | Seconds = "auto"
    """Steps between checkpoints (an integer) or time (\"60s\")."""
    keep: int = Field(2, gt=0)
    """Checkpoints kept beside the best one."""
