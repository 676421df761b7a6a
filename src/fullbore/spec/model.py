"""`[model]` and `[task]`: the network and what it is asked to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from fullbore.spec.section import Count, Nothing, Section


class DecoderModel(Section):
    """Decoder language model: RMSNorm, rotary positions, SwiGLU (a Llama-class network)."""

    kind: Literal["decoder"]
    """A decoder language model of the Llama class."""
    width: int = Field(256, gt=0)
    """Width of the residual stream; the heads divide it."""
    layers: int = Field(4, gt=0)
    """Decoder layers."""
    heads: int = Field(4, gt=0)
    """Attention heads."""
    key_value_heads: Count | Nothing = None
    """Heads of keys and values (grouped-query attention); none means as many as `heads`."""
    hidden: Count | Nothing = None
    """Width of the feed-forward layer; none means 8/3 of the width, rounded up to 64."""
    rope_theta: float = Field(10000.0, gt=0)
    """Base of the rotary frequencies."""
    tie_embeddings: bool = True
    """Whether the output layer shares the embedding's weights."""

    def misfits(self) -> Iterator[tuple[str, str, str]]:
        """Sizes that do not divide: the field, what is wrong with it ({} stands for the other field), the other."""
        if self.width % self.heads:
            yield "heads", f"{self.heads} does not divide {{}}", "width"
        elif self.width // self.heads % 2:
            wide = self.width // self.heads
            yield "heads", f"{self.heads} makes heads {wide} wide; rotary positions need an even width; {{}}", "width"
        if self.key_value_heads is not None and self.heads % self.key_value_heads:
            yield "key_value_heads", f"{self.key_value_heads} does not divide {{}}", "heads"


class ResNetModel(Section):
    """Residual network for images (He et al. 2016)."""

    kind: Literal["resnet"]
    """A residual network for images."""
    width: int = Field(32, gt=0)
    """Channels of the first stage."""
    blocks: tuple[Count, ...] = Field((2, 2, 2), min_length=1)
    """Residual blocks in each stage; every stage after the first halves the side and doubles the width."""


class TextCNNModel(Section):
    """Kim (2014), Convolutional Neural Networks for Sentence Classification."""

    kind: Literal["textcnn"]
    """A convolutional network over tokens (Kim 2014)."""
    width: int = Field(128, gt=0)
    """Width of the token embeddings."""
    kernels: tuple[Count, ...] = Field((3, 4, 5), min_length=1)
    """Tokens that each bank of filters sees at once."""
    filters: int = Field(128, gt=0)
    """Filters in each bank."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Share of the pooled features dropped while training."""


class MLPModel(Section):
    """Perceptron for tabular features."""

    kind: Literal["mlp"]
    """A perceptron for tabular features."""
    hidden: tuple[Count, ...] = (128, 128)
    """Widths of the hidden layers."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the hidden features dropped while training."""


class TransformersModel(Section):
    """Any transformers architecture, from a local folder."""

    kind: Literal["transformers"]
    """Any transformers architecture, from a local folder."""
    folder: str
    """A folder with config.json, and safetensors weights unless `pretrained` is false; relative to where the command
    runs."""
    pretrained: bool = True
    """Whether training starts from the folder's weights."""


ModelSection = Annotated[
    DecoderModel | ResNetModel | TextCNNModel | MLPModel | TransformersModel, Field(discriminator="kind")
]


TASKS = {
    "decoder": ("causal_lm",),
    "resnet": ("classification", "regression"),
    "textcnn": ("classification", "regression"),
    "mlp": ("classification", "regression"),
    "transformers": ("causal_lm", "masked_lm", "classification", "regression"),
}
"""What each kind of model can be asked to do."""


BLOCKS = ("decoder", "resnet", "transformers")
"""Kinds of models made of blocks, each of which can compute its activations again."""
MIXING = ("resnet",)
"""Kinds of models with batch norm: what a sample gives depends on the others of its micro-batch."""
ATTENTION: dict[str, tuple[Literal["fused", "plain", "packed"], ...]] = {
    "decoder": ("fused", "plain"),
    "transformers": ("fused", "packed"),
}
"""Kinds of models whose attention can be computed in several ways, and these."""


class TaskSection(Section):
    """What the model is asked to do: this decides its loss, its metrics and its head."""

    kind: Literal["causal_lm", "masked_lm", "classification", "regression"]
    """Predict the next token, masked tokens, a class or a number."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced` weighs every class by the inverse of its frequency (classification)."""
    baselines: tuple[Literal["bigram", "trigram"], ...] = ()
    """Language models counted from the training tokens and judged beside the model."""
    mask_share: float = Field(0.15, gt=0, lt=1)
    """masked_lm: share of the tokens that is masked."""
