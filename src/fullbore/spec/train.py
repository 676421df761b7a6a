"""`[train]`: how long, how, and what is kept."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fullbore.spec.section import Auto, BudgetField, Count, Nothing, Seconds, Section

_MUON_MOMENTUM = 0.95


class TrainSection(Section):
    """How long the model is trained, how, and what is kept."""

    budget: BudgetField
    """How long to train: time, steps, tokens, samples or epochs."""
    global_batch_size: int = Field(32, gt=0)
    """Samples (packed rows for language models) per optimizer step, over all ranks."""
    micro_batch_size: Auto | Count = "auto"
    """Samples per forward pass of one rank; what is missing to the global batch is accumulated."""
    sequence_length: int = Field(256, gt=1)
    """Tokens per sample: the packed row of a language model, the longest kept text of a classifier."""
    world_size: int = Field(1, gt=0)
    """Data-parallel processes on this machine."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Decides the first weights, the order of the samples and every other chance."""
    precision: Auto | Literal["fp32", "bf16"] = "auto"
    """Number format of the matrix products; `auto` measures and takes the faster."""
    compile: Auto | bool = "auto"
    """Whether torch.compile is used; `auto` does so if it pays within the budget."""
    threads: Auto | Count = "auto"
    """Threads that compute, in each rank."""
    attention: Auto | Literal["fused", "plain", "packed"] = "auto"
    """How attention is computed: by torch's fused kernels; for decoders by plain products that keep the share of every
    pair of tokens, for encoders packed, without any padding. `auto` goes by the shapes and the architecture, `fullbore
    tune` measures."""
    recompute: Auto | bool = "auto"
    """Whether each block of the network computes its activations again in the backward pass instead of keeping them:
    less memory, about a third more work; `auto` does so only if the job does not fit otherwise."""
    prefetch: int = Field(4, ge=0)
    """Batches that each rank's feed makes ahead; 0 makes each when it is asked for."""
    feed_threads: Count = 1
    """Threads that make batches, in each rank, beside those that compute."""
    optimizer: Literal["adamw", "sgd", "muon"] = "adamw"
    """Update rule; `muon` for matrices trained from scratch (the rest takes AdamW steps): it learns most per token."""
    learning_rate: float = Field(1e-3, gt=0)
    """Highest learning rate of the schedule."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay (Loshchilov and Hutter 2019)."""
    l1: float = Field(0.0, ge=0)
    """Weight of the L1 norm of the parameters in the loss."""
    l2: float = Field(0.0, ge=0)
    """Weight of the squared L2 norm of the parameters in the loss."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of sgd and muon (there 0.95 unless written), first-moment decay (beta1) of adamw."""
    beta2: float = Field(0.95, gt=0, lt=1)
    """Second-moment decay of adamw."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """How the learning rate falls after the warm-up."""
    warmup: float = Field(0.02, ge=0, lt=1)
    """Share of the steps over which the learning rate rises from zero."""
    final_learning_rate: float = Field(0.1, ge=0, le=1)
    """Learning rate at the last step, as a share of `learning_rate`."""
    clip: Annotated[float, Field(gt=0)] | Nothing = 1.0
    """Largest norm of the gradient; none leaves it as it is."""
    evaluate_every: Auto | Count = "auto"
    """Steps between evaluations."""
    evaluate_samples: Count | Nothing = None
    """At most so many validation samples are judged during training; the last evaluation judges them all."""
    early_stopping: Count | Nothing = None
    """Stop after so many evaluations without a better validation metric."""
    checkpoint_every: Auto | Count | Annotated[Seconds, Field(gt=0)] = "auto"
    """Steps between checkpoints (an integer) or time ("60s")."""
    keep: int = Field(2, gt=0)
    """Checkpoints kept beside the best one."""

    @model_validator(mode="before")
    @classmethod
    def _momentum_of_its_optimizer(cls, written: Any) -> Any:
        if isinstance(written, dict) and written.get("optimizer") == "muon":
            return {"momentum": _MUON_MOMENTUM, **written}
        return written
