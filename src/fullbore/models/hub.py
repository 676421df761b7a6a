"""Any architecture that transformers contains, from a local folder: its config, and its safetensors or a fresh start.

Nothing is fetched and no code beside the weights is ever executed.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullbore.base.errors import InputError
from fullbore.models.kernels import Path as Attention
from fullbore.models.packing import Packing, first_position
from fullbore.record import artifact
from fullbore.record.artifact import Artifact
from fullbore.trust import loadsafe

TaskKind = Literal["causal_lm", "masked_lm", "classification", "regression"]

_DOORS = {
    "causal_lm": "AutoModelForCausalLM",
    "masked_lm": "AutoModelForMaskedLM",
    "classification": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
}


def files(folder: Path, *, pretrained: bool) -> list[Path]:
    """What `Hub.open` reads of a folder: config.json and, with `pretrained`, the weights and their index.

    Raises InputError for pickles, code and what is missing, CorruptError for damaged weights.
    """
    loadsafe.read_config(folder)
    index = folder / "model.safetensors.index.json"
    weights = [*([index] if index.is_file() else []), *loadsafe.weight_files(folder)] if pretrained else []
    return [folder / "config.json", *weights]


def adopt(folder: Path, out: Path, *, pretrained: bool) -> Artifact:
    """Copy what `Hub.open` reads of a folder into an artifact. Raises InputError as `files` does."""
    with artifact.create(out, "base") as draft:
        for path in files(folder, pretrained=pretrained):
            shutil.copyfile(path, draft.folder / path.name)
    return artifact.read(out, "base")


def read_architecture(folder: Path) -> dict[str, Any]:
    """The transformers config in `folder`, without what fullbore keeps beside it."""
    config = loadsafe.read_config(folder)
    return {key: value for key, value in config.items() if key != "fullbore"}


def _configure(folder: Path, config: dict[str, Any], outputs: int | None, vocabulary_size: int | None) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    kind = str(config.get("model_type"))
    fields = {key: value for key, value in config.items() if key not in ("model_type", "transformers_version")}
    if outputs is not None and outputs != len(fields.get("id2label", ())):
        fields = {key: value for key, value in fields.items() if key not in ("id2label", "label2id", "num_labels")}
        fields["num_labels"] = outputs
    if vocabulary_size is not None:
        fields["vocab_size"] = vocabulary_size
    try:
        with _quiet():
            return AutoConfig.for_model(kind, **fields)
    except (KeyError, ValueError, TypeError, StrictDataclassError) as error:
        raise InputError(
            f"{folder}/config.json model_type: found {kind!r}, which transformers cannot build ({_line(error)})"
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers says nothing but errors, and draws no bars."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    said = logging.getLogger("transformers")
    level = said.level
    said.setLevel(logging.ERROR)
    try:
        yield
    finally:
        said.setLevel(level)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


class _Head(nn.Linear):
    """Output embeddings that can be passed by."""

    bare = False

    def forward(self, x: Tensor) -> Tensor:
        return x if self.bare else super().forward(x)


class Hub(nn.Module):
    """A transformers network with the methods of our own: tokens [B, T] and mask [B, T] to logits."""

    inputs = "tokens"

    def __init__(self, network: Any, kind: TaskKind) -> None:
        super().__init__()
        self.network = network
        self.kind = kind
        self._packing: Packing | None = None
        self._packs = True
        self.splits = kind in ("causal_lm", "masked_lm") and self._split_head()
        """Whether logits are exactly hidden @ head_weight.T + head_bias, so that the head can be cut in chunks."""
        if kind != "causal_lm" and not _meta(network):
            first = first_position(network.config, type(network))
            self._packing = None if first is None else Packing(network, first)

    @classmethod
    def open(
        cls, folder: Path, kind: TaskKind, *, outputs: int | None, vocabulary_size: int | None, pretrained: bool
    ) -> Hub:
        """The network that `folder` describes, in fp32: its weights, or with `pretrained` false the architecture's own
        random start, drawn from torch's generator.

        Raises InputError if the folder, its architecture or its weights cannot be used.
        """
        config = read_architecture(folder)
        if pretrained:
            loadsafe.weight_files(folder)
            vocabulary_size = None
        settings = _configure(folder, config, outputs, vocabulary_size)
        if kind == "regression":
            settings.problem_type = "regression"
        return cls(_open(folder, settings, kind, pretrained), kind)

    @classmethod
    def describe(cls, config: dict[str, Any], kind: TaskKind) -> Hub:
        """The network of a config alone, randomly started."""
        return cls(_open(Path(), _configure(Path(), config, None, None), kind, pretrained=False), kind)

    def attend(self, path: Attention) -> None:
        """Compute no padding, as far as the architecture allows ("auto"), or all of it ("fused").

        Raises InputError for "packed" where tokens attend to more than their own sample, or to earlier ones alone.
        """
        if path == "packed" and self._packing is None:
            name = type(self.network).__name__
            raise InputError(
                f"train.attention: found packed, which {name} does not answer the same with",
                hint="--set train.attention=auto",
            )
        self._packs = path != "fused"

    def _split_head(self) -> bool:
        """Let `hidden` pass by the output embeddings, if the logits are nothing but their product."""
        head = self.network.get_output_embeddings()
        if type(head) is not nn.Linear:
            return False
        head.__class__ = _Head
        if head.weight.is_meta:
            return True
        tokens = torch.arange(4).unsqueeze(0) % head.weight.shape[0]
        training = self.network.training
        with torch.no_grad():
            self.network.eval()
            same = torch.allclose(self(tokens), F.linear(self.hidden(tokens), head.weight, head.bias), atol=1e-5)
            self.network.train(training)
        return bool(same)

    @property
    def head_weight(self) -> Tensor:
        weight: Tensor = self.network.get_output_embeddings().weight
        return weight

    @property
    def head_bias(self) -> Tensor | None:
        bias: Tensor | None = self.network.get_output_embeddings().bias
        return bias

    def hidden(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """What the output embeddings read: [B, T, D]. Only where `splits`."""
        head = self.network.get_output_embeddings()
        head.bare = True
        try:
            return self.forward(tokens, attention_mask)
        finally:
            head.bare = False

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if self._packing is not None and self._packs and attention_mask is not None and tokens.device.type == "cpu":
            packed: Tensor = self._packing(tokens, attention_mask.bool()).logits
            return packed
        asked: dict[str, Any] = {"input_ids": tokens.long(), "return_dict": True}
        if attention_mask is not None:
            asked["attention_mask"] = attention_mask.long()
        if self.kind == "causal_lm":
            asked["use_cache"] = False
        logits: Tensor = self.network(**asked).logits
        return logits

    def cache(self, *_: int) -> Any:
        """An empty cache for `next_logits`; it grows as it is used."""
        from transformers import DynamicCache

        return DynamicCache(config=self.network.config)

    def next_logits(self, tokens: Tensor, cache: Any) -> Tensor:
        """Logits [B, V] of the token after `tokens` [B, T], which follow what `cache` holds."""
        answer = self.network(input_ids=tokens.long(), past_key_values=cache, use_cache=True, return_dict=True)
        logits: Tensor = answer.logits[:, -1]
        return logits

    def architecture(self) -> dict[str, Any]:
        """Its config.json."""
        config: dict[str, Any] = json.loads(self.network.config.to_json_string(use_diff=False))
        config.pop("auto_map", None)
        return {**config, "architectures": [type(self.network).__name__]}


def _open(folder: Path, settings: Any, kind: TaskKind, pretrained: bool) -> Any:
    import transformers

    door = getattr(transformers, _DOORS[kind])
    try:
        with _quiet():
            if not pretrained:
                return door.from_config(settings, trust_remote_code=False).float()
            return door.from_pretrained(
                folder,
                config=settings,
                dtype=torch.float32,
                trust_remote_code=False,
                local_files_only=True,
                use_safetensors=True,
                ignore_mismatched_sizes=kind in ("classification", "regression"),
            )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise InputError(
            f"{folder}: {settings.model_type} does not open as a model for {kind} ({_line(error)})",
            hint="check task.kind, and that the folder holds config.json and its safetensors",
        ) from None


def packs(folder: Path, kind: TaskKind) -> bool:
    """Whether the architecture in `folder` computes no padding. Raises InputError as `Hub.open` does."""
    settings = _configure(folder, read_architecture(folder), None, None)
    return kind != "causal_lm" and first_position(settings, lambda small: _open(folder, small, kind, False)) is not None


def _meta(network: nn.Module) -> bool:
    return any(parameter.is_meta for parameter in network.parameters())


def task_of(config: dict[str, Any], folder: Path) -> TaskKind:
    """What the network in a transformers folder was made for, by its `architectures`."""
    name = str(next(iter(config.get("architectures") or [""])))
    ends: dict[str, TaskKind] = {
        "ForCausalLM": "causal_lm",
        "LMHeadModel": "causal_lm",
        "ForMaskedLM": "masked_lm",
        "ForSequenceClassification": "classification",
    }
    for end, kind in ends.items():
        if name.endswith(end):
            return "regression" if config.get("problem_type") == "regression" else kind
    raise InputError(
        f"{folder}/config.json architectures: found {name or 'nothing'!r}, expected one that ends in {', '.join(ends)}",
        hint='to fine-tune it, set model.kind = "transformers" and model.folder',
    )
