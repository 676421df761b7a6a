"""How a network is executed, not what it computes: the path of its attention, and what it keeps for going backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from fullbore.models.decoder import Attention
from fullbore.models.hub import Hub, packs
from fullbore.models.kernels import PLAIN_LENGTH, Path
from fullbore.spec.model import DecoderModel, ModelSection, TaskSection, TransformersModel


def attend(network: nn.Module, path: Path) -> None:
    """Let the attention of a decoder or an encoder take `path`; other networks are as they were.

    Raises InputError for a path that an encoder's architecture does not have.
    """
    for module in network.modules():
        if isinstance(module, Attention):
            module.path = path
        elif isinstance(module, Hub):
            module.attend(path)


def attention(section: ModelSection, task: TaskSection, length: int) -> Callable[[str], Path] | None:
    """The path that "auto" takes by precision, for rows of `length` tokens; none for a network that has no choice."""
    if isinstance(section, DecoderModel) and section.heads == (section.key_value_heads or section.heads):
        return lambda precision: "plain" if precision == "bf16" and length <= PLAIN_LENGTH else "fused"
    if isinstance(section, TransformersModel) and packs(FilePath(section.folder), task.kind):
        return lambda _: "packed"
    return None


def blocks(network: nn.Module) -> list[nn.Module]:
    """The repeated parts of a network: what its outermost lists hold, each made of parts of its own; none of a network
    without such lists."""
    if isinstance(network, nn.ModuleList | nn.Sequential):
        found = [part for part in network if next(part.children(), None) is not None]
        if found:
            return found
    return [block for part in network.children() for block in blocks(part)]


def recompute(network: nn.Module) -> int:
    """Let each block keep only its inputs for the backward pass, which computes the rest again (Chen et al. 2016,
    Training Deep Nets with Sublinear Memory Cost): the same gradients, chances (dropout) and running averages.

    Returns how many blocks there are. Call it once.
    """
    found = blocks(network)
    for block in found:
        block.forward = partial(_again, block, block.forward)
    return len(found)


def _again(block: nn.Module, forward: Any, *inputs: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **named)
    if torch.compiler.is_compiling():
        return checkpoint(forward, *inputs, use_reentrant=False, **named)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=partial(_contexts, block), **named)


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _buffers_as_they_are(block)


@contextmanager
def _buffers_as_they_are(block: nn.Module) -> Iterator[None]:
    """A norm's running averages move in the forward pass alone, not again when it is repeated."""
    held = [(module, name, buffer) for module in block.modules() for name, buffer in module._buffers.items()]
    try:
        for module, name, buffer in held:
            module._buffers[name] = None if buffer is None else buffer.clone()
        yield
    finally:
        for module, name, buffer in held:
            module._buffers[name] = buffer
