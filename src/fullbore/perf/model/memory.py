"""Peak resident memory of one rank, by what holds it."""

from __future__ import annotations

from collections.abc import Mapping

from fullbore.base.errors import DoesNotFit
from fullbore.base.units import format_bytes
from fullbore.spec.train import TrainSection
from fullbore.spec.work import Work

_RUNTIME = 302e6
"""Bytes of an interpreter with torch, the kernels that it has made and our own code."""
_COMPILER = 180e6
"""Of torch's compiler on top of that."""
_RETAINED = 1.67
"""Bytes that a process holds for each byte of activations that lives at once, and ..."""
_GRADIENTS = 2.5
"""... for each byte of gradients. What is freed stays with it (`engine.process.settle`), in pieces that do not fit the
next one; kernels take scratch space from the same heap. Fitted to 20 jobs of five families (not those of
benchmarks/predictions.py): mean error of all memory 1.9 %, largest 4.6 %."""
_FRAGMENTS = 1.15
"""The same over what a closed form says is kept, which counts more than lives at once."""
_MISSED = 1.25
"""Memory is called enough if it exceeds what is predicted by so much: of 50 jobs measured the worst took 1.16 times as
much as predicted, and the same job differs from itself by up to 8 %."""
_HEAD_ROWS = 1024
"""Rows whose logits exist at once: `models.head.CHUNK`."""
_PREFETCH = 5
"""Batches that the feed holds."""
_READER = 30e6
"""Bytes of what reads the data, and of its pages."""


def predict(work: Work, section: TrainSection, micro_batch_size: int, *, recompute: bool = False) -> dict[str, float]:
    """Bytes by part: weights, gradients, optimizer, communication, checkpoint, activations, logits, feed, runtime.

    Activations are what was seen to live at once on abstract tensors if the work was traced so (`models.launches`), and
    then include the logits; else what autograd keeps, in closed form.
    `recompute`: blocks keep only their inputs (of work that was traced).
    """
    weights = 4.0 * work.parameters
    narrow = section.precision == "bf16"
    states = 2 if section.optimizer == "adamw" else int(section.momentum > 0)
    launches = work.launches.get(("bf16" if narrow else "fp32") + ("+recompute" if recompute else ""))
    if launches is not None:
        parts = {
            "weights": weights,
            "gradients": _GRADIENTS * weights,
            "activations": _RETAINED * launches.activation_bytes(micro_batch_size),
            "logits": 0.0,
        }
    else:
        parts = _closed(work, narrow, micro_batch_size)
    return {
        **parts,
        "optimizer": weights * states,
        "communication": weights if section.world_size > 1 else 0.0,
        "checkpoint": weights * (1 + states),
        "feed": _READER + 4.0 * _PREFETCH * work.units_per_sample * section.global_batch_size / section.world_size,
        "runtime": _RUNTIME + work.library_bytes + (_COMPILER if section.compile is True else 0.0),
    }


def _closed(work: Work, narrow: bool, micro_batch_size: int) -> dict[str, float]:
    weights = 4.0 * work.parameters
    kept = work.activation_elements * micro_batch_size * (3.0 if narrow else 4.0)
    largest = max((o.elements for o in work.operations if o.kind != "reduction"), default=0.0)
    return {
        "weights": weights * (1.5 if narrow else 1.0),
        "gradients": weights,
        "activations": _FRAGMENTS * (kept + 4.0 * largest * micro_batch_size),
        "logits": 12.0 * _head_columns(work) * min(_HEAD_ROWS, work.units_per_sample * micro_batch_size),
    }


def _head_columns(work: Work) -> float:
    """Classes of the last product if it makes logits of tokens, else nothing to speak of."""
    heads = [operation for operation in work.operations if operation.name == "cross-entropy"]
    return float(heads[-1].shape[-1]) if heads else 0.0


def require(parts: Mapping[str, float], available: float, ranks: int = 1) -> None:
    """Raise DoesNotFit, with the parts by size, if `ranks` times the parts, and what predictions have been seen to
    miss, exceed `available` bytes."""
    needed = _MISSED * ranks * sum(parts.values())
    if needed <= available:
        return
    largest = sorted(parts.items(), key=lambda part: -part[1])[:3]
    told = ", ".join(f"{name} {format_bytes(ranks * size)}" for name, size in largest)
    raise DoesNotFit(
        f"the job needs about {format_bytes(needed)} of memory ({told}), {format_bytes(available)} are available",
        hint="make train.micro_batch_size, train.sequence_length or the model smaller",
    )
