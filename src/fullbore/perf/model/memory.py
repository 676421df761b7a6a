"""Peak resident memory of one rank, by what holds it."""

from __future__ import annotations

from collections.abc import Mapping

from fullbore.base.errors import DoesNotFit
from fullbore.base.units import format_bytes
from fullbore.spec.train import TrainSection
from fullbore.spec.work import Work

_RUNTIME = 450e6
"""Bytes of an interpreter with torch, its kernels' scratch space and our own code."""
_HEAD_ROWS = 1024
"""Rows whose logits exist at once: `models.head.CHUNK`."""
_PREFETCH = 5
"""Batches that the feed holds."""
_FRAGMENTS = 1.15
"""What an allocator holds beyond what is asked of it while shapes alternate between forward and backward."""


def predict(work: Work, section: TrainSection, micro_batch_size: int) -> dict[str, float]:
    """Bytes by part: weights, gradients, optimizer, communication, checkpoint, activations, logits, feed, runtime."""
    weights = 4.0 * work.parameters
    narrow = section.precision == "bf16"
    states = 2 if section.optimizer == "adamw" else int(section.momentum > 0)
    kept = work.activation_elements * micro_batch_size * (3.0 if narrow else 4.0)
    largest = max((o.elements for o in work.operations if o.kind != "reduction"), default=0.0)
    return {
        "weights": weights * (1.5 if narrow else 1.0),
        "gradients": weights,
        "optimizer": weights * states,
        "communication": weights if section.world_size > 1 else 0.0,
        "checkpoint": weights * (1 + states),
        "activations": _FRAGMENTS * (kept + 4.0 * largest * micro_batch_size),
        "logits": 12.0 * _head_columns(work) * min(_HEAD_ROWS, work.units_per_sample * micro_batch_size),
        "feed": 4.0 * _PREFETCH * work.units_per_sample * section.global_batch_size / section.world_size,
        "runtime": _RUNTIME,
    }


def _head_columns(work: Work) -> float:
    """Classes of the last product if it makes logits of tokens, else nothing to speak of."""
    heads = [operation for operation in work.operations if operation.name == "cross-entropy"]
    return float(heads[-1].shape[-1]) if heads else 0.0


def require(parts: Mapping[str, float], available: float, ranks: int = 1) -> None:
    """Raise DoesNotFit, with the parts by size, if `ranks` times the parts exceed `available` bytes."""
    needed = ranks * sum(parts.values())
    if needed <= available:
        return
    largest = sorted(parts.items(), key=lambda part: -part[1])[:3]
    told = ", ".join(f"{name} {format_bytes(ranks * size)}" for name, size in largest)
    raise DoesNotFit(
        f"the job needs about {format_bytes(needed)} of memory ({told}), {format_bytes(available)} are available",
        hint="make train.micro_batch_size, train.sequence_length or the model smaller",
    )
