"""Work: the operations of a network for one sample, in closed form for ours, traced for any other.

FLOPs are those of matrix products, convolutions and attention, as MFU counts them (Chowdhery et al. 2022, appendix B),
with half of causal attention. What keeps elements for the backward pass is eager PyTorch's autograd.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

from fullbore.models import launches as launching
from fullbore.models import trace as tracing
from fullbore.models.build import Sizes, outputs
from fullbore.models.build import build as build_module
from fullbore.models.decoder import hidden_width
from fullbore.spec.model import (
    DecoderModel,
    MLPModel,
    ModelSection,
    ResNetModel,
    TaskSection,
    TextCNNModel,
    TransformersModel,
)
from fullbore.spec.work import Operation, Work

_TRANSFORMERS = 165e6
"""Bytes that importing transformers and one of its architectures takes."""


def _matmul(name: str, rows: int, columns: int, inner: int, count: int = 1) -> Operation:
    moved = rows * inner + inner * columns + rows * columns
    return Operation(name, "matmul", (rows, columns, inner), 2.0 * rows * columns * inner, moved, count)


def _map(name: str, shape: tuple[int, ...], passes: int, count: int = 1) -> Operation:
    """An operation on each element that reads and writes `passes` arrays of `shape`."""
    return Operation(name, "elementwise", shape, 0.0, float(passes * prod(shape)), count)


def work(model: ModelSection | nn.Module, task: TaskSection, sizes: Sizes, *, launched: bool = False) -> Work:
    """The work of one sample: a row of `sizes.sequence_length` tokens, an image, a row of features.

    A section is enough for our networks; a transformers architecture is built without memory and traced, and so is a
    module. `launched`: also what training launches and keeps (of a section; about 1 s more, to import what torch knows
    of shapes), unless the architecture asks for numbers on the way. Raises InputError as `build` does.
    """
    found = _operations(model, task, sizes)
    if not launched or isinstance(model, nn.Module):
        return found
    section = model.model_copy(update={"pretrained": False}) if isinstance(model, TransformersModel) else model
    network = partial(build_module, section, task, sizes, seed=0)
    try:
        seen = launching.trace(network, task, sizes)
    except Exception:  # an architecture that asks for numbers fails in a way of its own; operations are known still
        return found
    library = _TRANSFORMERS if isinstance(model, TransformersModel) else 0.0
    return replace(found, launches=seen.launches, weights=seen.weights, matrices=seen.matrices, library_bytes=library)


def _operations(model: ModelSection | nn.Module, task: TaskSection, sizes: Sizes) -> Work:
    if isinstance(model, DecoderModel):
        return decoder(model, sizes.vocabulary_size or 0, sizes.sequence_length or 0)
    if isinstance(model, ResNetModel):
        return resnet(model, sizes.image or (1, 1, 1), outputs(task, sizes))
    if isinstance(model, TextCNNModel):
        return textcnn(model, sizes.vocabulary_size or 0, sizes.sequence_length or 0, outputs(task, sizes))
    if isinstance(model, MLPModel):
        return mlp(model, sizes.features or 0, outputs(task, sizes))
    if isinstance(model, nn.Module):
        return traced(model, task, sizes)
    with torch.device("meta"):
        module = build_module(model.model_copy(update={"pretrained": False}), task, sizes, seed=0)
    return traced(module, task, sizes)


def decoder(section: DecoderModel, vocabulary: int, length: int) -> Work:
    width, layers, heads = section.width, section.layers, section.heads
    narrow = width // heads * (section.key_value_heads or heads)
    hidden = hidden_width(section)
    operations = (
        Operation("embedding", "gather", (length, width), 0.0, 2.0 * length * width),
        _map("norm", (length, width), 5, 2 * layers + 1),
        _matmul("query", length, width, width, layers),
        _matmul("key, value", length, narrow, width, 2 * layers),
        _map("rotary", (length, width + narrow), 7, layers),
        Operation(
            "attention",
            "attention",
            (heads, length, width // heads),
            tracing.attention_flops(heads, length, length, width // heads, causal=True),
            2.0 * length * (width + narrow),
            layers,
        ),
        _matmul("output", length, width, width, layers),
        _matmul("gate, up", length, hidden, width, 2 * layers),
        _map("swiglu", (length, hidden), 5, layers),
        _matmul("down", length, width, hidden, layers),
        _map("residual", (length, width), 3, 2 * layers),
        _matmul("head", length, vocabulary, width),
        Operation("cross-entropy", "reduction", (length, vocabulary), 0.0, 3.0 * length * vocabulary),
    )
    block = 2 * width * width + 2 * width * narrow + 3 * width * hidden + 2 * width
    parameters = vocabulary * width * (1 if section.tie_embeddings else 2) + layers * block + width
    kept = layers * (7 * width + 2 * narrow + 4 * hidden + heads + 2) + 2 * width + 2 + width // heads
    return Work(parameters, operations, float(length * kept), "tokens", length)


def resnet(section: ResNetModel, image: tuple[int, int, int], answers: int) -> Work:
    channels, height, side = image
    operations: list[Operation] = []
    parameters, kept = 0, 0

    def convolve(name: str, inputs: int, wider: int, size: int, shape: tuple[int, int]) -> None:
        nonlocal parameters
        weights = wider * inputs * size * size
        parameters += weights
        area = shape[0] * shape[1]
        operations.append(
            Operation(name, "convolution", (wider, *shape), 2.0 * weights * area, (inputs + wider) * area + weights)
        )

    def activate(width: int, shape: tuple[int, int]) -> None:
        nonlocal parameters, kept
        parameters += 2 * width
        kept += 2 * width * shape[0] * shape[1] + 2 * width
        operations.append(_map("norm, relu", (width, *shape), 4))

    shape, width = (height, side), section.width
    convolve("stem", channels, width, 3, shape)
    kept += channels * height * side
    for stage, count in enumerate(section.blocks):
        for index in range(count):
            wider, strided = section.width * 2**stage, bool(stage and not index)
            activate(width, shape)
            shape = tuple((size + 1) // 2 for size in shape) if strided else shape  # type: ignore[assignment]
            convolve("first", width, wider, 3, shape)
            if strided or width != wider:
                convolve("shortcut", width, wider, 1, shape)
            activate(wider, shape)
            convolve("second", wider, wider, 3, shape)
            operations.append(_map("residual", (wider, *shape), 3))
            width = wider
    activate(width, shape)
    operations.append(_matmul("head", 1, answers, width))
    return Work(parameters + (width + 1) * answers, tuple(operations), float(kept + width), "samples", 1)


def textcnn(section: TextCNNModel, vocabulary: int, length: int, answers: int) -> Work:
    operations = [
        Operation("embedding", "gather", (length, section.width), 0.0, 2.0 * length * section.width),
        _map("mask", (length, section.width), 2),
    ]
    parameters, kept = vocabulary * section.width, length * (section.width + 1)
    for size in section.kernels:
        area = length + 1 - size % 2
        weights = section.filters * section.width * size
        parameters += weights + section.filters
        moved = (section.width + section.filters) * area + weights
        operations.append(Operation("convolution", "convolution", (section.filters, area), 2.0 * weights * area, moved))
        operations.append(_map("relu, pool", (section.filters, length), 3))
        kept += 2 * section.filters * length + section.filters
    pooled = section.filters * len(section.kernels)
    operations.append(_matmul("head", 1, answers, pooled))
    parameters += (pooled + 1) * answers
    return Work(parameters, tuple(operations), float(kept + 2 * pooled), "samples", 1)


def mlp(section: MLPModel, features: int, answers: int) -> Work:
    widths = (features, *section.hidden, answers)
    pairs = tuple(pairwise(widths))
    layers = tuple(_matmul("linear", 1, wider, width) for width, wider in pairs)
    maps = tuple(_map("gelu", (width,), 2) for width in section.hidden)
    kept = features + sum(width * (3 if section.dropout else 2) for width in section.hidden)
    return Work(sum((width + 1) * wider for width, wider in pairs), layers + maps, float(kept), "samples", 1)


def traced(module: nn.Module, task: TaskSection, sizes: Sizes) -> Work:
    """The work of any network, by its operations on one sample without numbers."""
    training = module.training
    module.train()
    try:
        return _traced(module, task, sizes)
    finally:
        module.train(training)


def _traced(module: nn.Module, task: TaskSection, sizes: Sizes) -> Work:
    language = task.kind in ("causal_lm", "masked_lm")
    length = (sizes.sequence_length or 1) if language else 1
    sample = _sample(module, sizes)
    if language and getattr(module, "splits", True):
        operations, kept = tracing.trace(module, _hidden, sample)
        head: Tensor = module.head_weight  # type: ignore[assignment]
        rows = max(1, round(length * (task.mask_share if task.kind == "masked_lm" else 1)))
        operations += (
            _matmul("head", rows, *head.shape),
            Operation("cross-entropy", "reduction", (rows, head.shape[0]), 0.0, 3.0 * rows * head.shape[0]),
        )
        kept += rows * head.shape[1]
    else:
        operations, kept = tracing.trace(module, _answer, sample)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return Work(parameters, operations, float(kept), "tokens" if language else "samples", length)


def _answer(module: nn.Module, inputs: Tensor) -> object:
    return module(inputs)


def _hidden(module: nn.Module, tokens: Tensor) -> object:
    return module.hidden(tokens)  # type: ignore[operator]


def _sample(module: nn.Module, sizes: Sizes) -> Tensor:
    kind = getattr(module, "inputs", "tokens")
    if kind == "pixels":
        return torch.empty(1, *(sizes.image or (1, 1, 1)), dtype=torch.uint8, device="meta")
    if kind == "features":
        return torch.empty(1, sizes.features or 1, device="meta")
    return torch.empty(1, sizes.sequence_length or 1, dtype=torch.int64, device="meta")
