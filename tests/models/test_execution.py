"""How a network is executed changes no gradient: attention by either path, activations kept or computed again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import architectures
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fullbore.models import execution
from fullbore.models.build import Sizes, build
from fullbore.models.language import CausalLM
from fullbore.models.supervised import Classification
from fullbore.spec.model import (
    DecoderModel,
    MLPModel,
    ModelSection,
    ResNetModel,
    TaskSection,
    TextCNNModel,
    TransformersModel,
)

SIZES = Sizes(vocabulary_size=64, classes=3, features=5, image=(1, 16, 16), sequence_length=16)
DECODER = DecoderModel(kind="decoder", width=32, layers=3, heads=2)


def decoder(_: Path) -> ModelSection:
    return DECODER


def resnet(_: Path) -> ModelSection:
    return ResNetModel(kind="resnet", width=32, blocks=(1, 2))


def encoder(folder: Path) -> ModelSection:
    """BERT, whose dropout draws."""
    architectures.write(folder, "bert", num_hidden_layers=3)
    return TransformersModel(kind="transformers", folder=str(folder), pretrained=False)


def material(section: ModelSection) -> tuple[nn.Module, Any, list[dict[str, Tensor]]]:
    """A network, its task and two micro-batches."""
    source = np.random.default_rng(0)
    causal = section.kind == "decoder"
    kind = "causal_lm" if causal else "classification"
    network = build(section, TaskSection.model_validate({"kind": kind}), SIZES, seed=0).train()
    task: Any = CausalLM() if causal else Classification()
    columns: dict[str, Any] = {"label": source.integers(0, 3, 8)}
    if section.kind == "resnet":
        columns["pixels"] = source.integers(0, 256, (8, 16, 16), dtype=np.uint8)
    else:
        columns["tokens"] = list(source.integers(0, 60, (8, 17)).astype(np.uint16))
    batch = task.collate(columns, np.arange(8))
    return network, task, [{name: value[part] for name, value in batch.items()} for part in (slice(0, 5), slice(5, 8))]


def learnt(network: nn.Module, task: Any, parts: list[dict[str, Tensor]], dtype: torch.dtype) -> tuple[Any, int]:
    """Gradients and running averages after a step of several micro-batches, as `train.step` takes it, and the bytes
    that the first of them kept."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(3)
    narrow = torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)
    with narrow:
        for number, part in enumerate(parts):
            with torch.autograd.graph.saved_tensors_hooks(keep if number == 0 else lambda t: t, lambda t: t):
                loss = task.loss(network, part)
            with torch.autocast("cpu", enabled=False):
                loss.backward()
    found = {name: weight.grad for name, weight in network.named_parameters()} | dict(network.named_buffers())
    return found, sum(kept.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("section", [decoder, resnet, encoder])
def test_activations_computed_again_give_the_same_bits_from_less_memory(
    tmp_path: Path, section: Callable[[Path], ModelSection], dtype: torch.dtype
) -> None:
    made = section(tmp_path)
    expected, much = learnt(*material(made), dtype)
    network, *rest = material(made)
    assert execution.recompute(network) == 3
    found, little = learnt(network, *rest, dtype)
    assert found.keys() == expected.keys() and len(found) > 5
    assert [name for name, value in found.items() if not torch.equal(value, expected[name])] == []
    assert little < 0.7 * much


@pytest.mark.parametrize("section", [MLPModel(kind="mlp"), TextCNNModel(kind="textcnn", width=8, filters=6)])
def test_networks_without_blocks_stay_as_they_are(section: ModelSection) -> None:
    network = build(section, TaskSection(kind="classification"), SIZES, seed=0)
    assert execution.recompute(network) == 0


def test_both_paths_of_attention_give_the_same_gradients() -> None:
    found = {}
    for path in ("auto", "fused", "plain"):
        network, task, parts = material(DECODER)
        execution.attend(network, path)  # type: ignore[arg-type]
        found[path] = learnt(network, task, parts, torch.float32)
    for path in ("fused", "plain"):
        for name, value in found[path][0].items():
            torch.testing.assert_close(value, found["auto"][0][name], rtol=1e-4, atol=1e-5)
    assert found["plain"][1] > found["fused"][1], "the shares of every pair of tokens are kept"


@pytest.mark.slow
def test_a_compiled_network_computes_again_too() -> None:
    expected, _ = learnt(*material(DECODER), torch.float32)
    network, task, parts = material(DECODER)
    execution.recompute(network)
    network.hidden = torch.compile(network.hidden)  # type: ignore[assignment]
    found, _ = learnt(network, task, parts, torch.float32)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5)
