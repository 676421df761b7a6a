"""`[model]` and `[task]`: the network and what it is asked to do."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fullbore.spec.section import Section


class DecoderModel(Section):
    """Decoder language model: RMSNorm, rotary positions, SwiGLU (a Llama-class network)."""

    kind: Literal["decoder"]
    width: int = Field(256, gt=0)
    layers: int = Field(4, gt=0)
    heads: int = Field(4, gt=0)
    key_value_heads: int | None = Field(None, gt=0)
    hidden: int | None = Field(None, gt=0)
    """Width of the feed-forward layer; none means 8/3 of the width, rounded up to 64."""
    rope_theta: float = Field(10000.0, gt=0)
    tie_embeddings: bool = True


class ResNetModel(Section):
    kind: Literal["resnet"]
    width: int = Field(32, gt=0)
    blocks: tuple[int, ...] = (2, 2, 2)
    """Residual blocks in each stage; every stage after the first halves the side and doubles the width."""


class TextCNNModel(Section):
    """Kim (2014), Convolutional Neural Networks for Sentence Classification."""

    kind: Literal["textcnn"]
    width: int = Field(128, gt=0)
    kernels: tuple[int, ...] = (3, 4, 5)
    filters: int = Field(128, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)


class MLPModel(Section):
    kind: Literal["mlp"]
    hidden: tuple[int, ...] = (128, 128)
    dropout: float = Field(0.0, ge=0, lt=1)


class TransformersModel(Section):
    """Any transformers architecture, from a local folder (config.json, and safetensors weights unless `pretrained` is false)."""

    kind: Literal["transformers"]
    folder: str
    pretrained: bool = True


ModelSection = Annotated[
    DecoderModel | ResNetModel | TextCNNModel | MLPModel | TransformersModel, Field(discriminator="kind")
]


class TaskSection(Section):
    kind: Literal["causal_lm", "masked_lm", "classification", "regression"]
    class_weights: Literal["none", "balanced"] = "none"
    baselines: tuple[Literal["bigram", "trigram"], ...] = ()
    """Language models counted from the training tokens and judged beside the model."""
    mask_share: float = Field(0.15, gt=0, lt=1)
    """masked_lm: share of the tokens that is masked."""
