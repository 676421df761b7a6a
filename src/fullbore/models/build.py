"""From a job's sections to a network: same seed, same bits, whatever drew random numbers before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fullbore.base.errors import InputError
from fullbore.models import hub
from fullbore.models.collate import image_shape
from fullbore.models.decoder import Decoder
from fullbore.models.mlp import MLP
from fullbore.models.resnet import ResNet
from fullbore.models.textcnn import TextCNN
from fullbore.models.tokenizer import Tokenizer
from fullbore.spec.model import (
    TASKS,
    DecoderModel,
    MLPModel,
    ModelSection,
    ResNetModel,
    TaskSection,
    TextCNNModel,
    TransformersModel,
)


@dataclass(frozen=True)
class Sizes:
    """What the data decides about a network."""

    vocabulary_size: int | None = None
    classes: int | None = None
    features: int | None = None
    image: tuple[int, int, int] | None = None
    """Channels, height, width."""
    sequence_length: int | None = None


def check(model: ModelSection, task: TaskSection) -> None:
    """Raises InputError where the network cannot do the task."""
    if task.kind not in TASKS[model.kind]:
        fitting = [kind for kind, tasks in TASKS.items() if task.kind in tasks]
        raise InputError(
            f"model.kind: {model.kind!r} does not do {task.kind}, expected one of {', '.join(fitting)}",
            hint=f"set model.kind to one of these, or task.kind to one of {', '.join(TASKS[model.kind])}",
        )


def outputs(task: TaskSection, sizes: Sizes) -> int:
    """How many numbers the network answers with for one sample."""
    return 1 if task.kind == "regression" else _need(sizes.classes, "classes")


def _need(value: int | None, what: str) -> int:
    if value is None:
        raise InputError(
            f"the data has no {what}, which this model and task need", hint="check data.label and task.kind"
        )
    return value


def build(model: ModelSection, task: TaskSection, sizes: Sizes, seed: int) -> nn.Module:
    """The network of `model` for `task`, in fp32 on the CPU, its parameters a pure function of the arguments.

    Raises InputError if model, task and data do not fit together, or a model folder cannot be read.
    """
    check(model, task)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _construct(model, task, sizes)


def _construct(model: ModelSection, task: TaskSection, sizes: Sizes) -> nn.Module:
    if isinstance(model, DecoderModel):
        return Decoder(model, _need(sizes.vocabulary_size, "vocabulary"))
    if isinstance(model, TransformersModel):
        return _fitting(
            hub.Hub.open(
                Path(model.folder),
                task.kind,
                outputs=outputs(task, sizes) if task.kind in ("classification", "regression") else None,
                vocabulary_size=sizes.vocabulary_size,
                pretrained=model.pretrained,
            ),
            sizes,
        )
    count = outputs(task, sizes)
    if isinstance(model, ResNetModel):
        if sizes.image is None:
            raise InputError("model.kind: 'resnet' needs images, and the data has none")
        return ResNet(model, sizes.image[0], count)
    if isinstance(model, TextCNNModel):
        return TextCNN(model, _need(sizes.vocabulary_size, "vocabulary"), count)
    assert isinstance(model, MLPModel)
    return MLP(model, _need(sizes.features, "features"), count)


def sizes(info: Mapping[str, Any], vocabulary: Tokenizer | None, sequence_length: int | None) -> Sizes:
    """What a corpus or shards (their `info`) and a tokenizer decide about a network."""
    columns = info["columns"]
    shapes = {name: tuple(columns[name]["shape"] or ()) for name in ("features", "pixels") if name in columns}
    return Sizes(
        vocabulary_size=vocabulary.vocabulary_size if vocabulary is not None else None,
        classes=len(info["classes"]) if info.get("classes") else None,
        features=shapes["features"][0] if "features" in shapes else None,
        image=image_shape(shapes["pixels"]) if "pixels" in shapes else None,
        sequence_length=sequence_length if vocabulary is not None else None,
    )


def with_vocabulary(known: Sizes, vocabulary_size: int, sequence_length: int) -> Sizes:
    """The sizes of a network over tokens, before there is a tokenizer."""
    return replace(known, vocabulary_size=vocabulary_size, sequence_length=sequence_length)


def _fitting(module: hub.Hub, sizes: Sizes) -> hub.Hub:
    """`module`, or InputError if the data's tokens or texts are more than it takes."""
    known = module.network.get_input_embeddings().weight.shape[0]
    if (sizes.vocabulary_size or 0) > known:
        raise InputError(
            f"model.folder: its network knows {known} tokens, and the tokenizer gives {sizes.vocabulary_size}",
            hint='use its own tokenizer: tokenizer.kind = "folder", and tokenizer.folder the same as model.folder',
        )
    longest = getattr(module.network.config, "max_position_embeddings", None)
    if longest is not None and (sizes.sequence_length or 0) > longest:
        raise InputError(
            f"train.sequence_length: found {sizes.sequence_length}, and model.folder's reads at most {longest} tokens",
            hint=f"set train.sequence_length = {longest}",
        )
    return module
