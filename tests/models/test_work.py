"""Work: the closed forms agree with what the networks really do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from architectures import TINY, write
from torch import nn

from fullbore.models.build import Sizes, build
from fullbore.models.work import traced, work
from fullbore.spec.model import (
    DecoderModel,
    MLPModel,
    ModelSection,
    ResNetModel,
    TaskSection,
    TextCNNModel,
    TransformersModel,
)
from fullbore.spec.work import Work

GENERATE, CLASSIFY = TaskSection(kind="causal_lm"), TaskSection(kind="classification")
SIZES = Sizes(vocabulary_size=300, classes=7, features=11, image=(3, 17, 16), sequence_length=24)
CASES: list[tuple[ModelSection, TaskSection]] = [
    (DecoderModel(kind="decoder", width=64, layers=3, heads=4), GENERATE),
    (DecoderModel(kind="decoder", width=32, layers=1, heads=4, key_value_heads=2, tie_embeddings=False), GENERATE),
    (ResNetModel(kind="resnet", width=8, blocks=(1, 2, 1)), CLASSIFY),
    (ResNetModel(kind="resnet", width=4, blocks=(2,)), TaskSection(kind="regression")),
    (TextCNNModel(kind="textcnn", width=16, filters=12), CLASSIFY),
    (MLPModel(kind="mlp", hidden=(20, 30)), CLASSIFY),
    (MLPModel(kind="mlp", hidden=(20,), dropout=0.5), CLASSIFY),
]


def flops(found: Work, kind: str) -> float:
    return sum(operation.flops * operation.count for operation in found.operations if operation.kind == kind)


@pytest.mark.parametrize(("section", "task"), CASES)
def test_closed_forms_equal_the_trace(section: ModelSection, task: TaskSection) -> None:
    module = build(section, task, SIZES, seed=0)
    closed, seen = work(section, task, SIZES), traced(module, task, SIZES)
    for kind in ("matmul", "convolution", "attention"):
        assert flops(closed, kind) == pytest.approx(flops(seen, kind), rel=0.01)
    assert closed.forward_flops > 0
    assert closed.parameters == seen.parameters == sum(parameter.numel() for parameter in module.parameters())
    assert closed.activation_elements == pytest.approx(seen.activation_elements, rel=0.05)
    moved, counted = (sum(o.elements * o.count for o in found.operations) for found in (closed, seen))
    assert closed.units == seen.units and closed.units_per_sample == seen.units_per_sample
    assert 0.6 < moved / counted < 1.2


def test_a_llama_of_transformers_is_the_same_work_as_ours(tmp_path: Path) -> None:
    TINY["llama"] = {
        "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 192, "vocab_size": 300,
    }  # fmt: skip
    theirs = TransformersModel(kind="transformers", folder=str(write(tmp_path, "llama")), pretrained=False)
    ours = DecoderModel(kind="decoder", width=64, layers=3, heads=4, key_value_heads=2, tie_embeddings=False)
    one, two = work(theirs, GENERATE, SIZES), work(ours, GENERATE, SIZES)
    assert one.parameters == two.parameters
    assert one.forward_flops == pytest.approx(two.forward_flops, rel=1e-6)
    assert one.units_per_sample == 24


@pytest.mark.parametrize(
    ("name", "kind"),
    [("gpt2", "causal_lm"), ("gemma2", "causal_lm"), ("bert", "masked_lm"), ("bert", "classification")],
)
def test_any_architecture_is_traced_without_weights(tmp_path: Path, name: str, kind: str) -> None:
    section = TransformersModel(kind="transformers", folder=str(write(tmp_path, name)))
    task = TaskSection.model_validate({"kind": kind})
    sizes = Sizes(vocabulary_size=60, classes=3, sequence_length=16)
    found = work(section, task, sizes)
    module = build(section.model_copy(update={"pretrained": False}), task, sizes, seed=0)
    assert found.parameters == sum(parameter.numel() for parameter in module.parameters())
    assert flops(found, "attention") > 0 or any(operation.name == "bmm" for operation in found.operations)
    again = work(module, task, sizes)
    assert again.parameters == found.parameters
    assert again.forward_flops == pytest.approx(found.forward_flops)
    assert Work.from_json(found.to_json()) == found


def test_tracing_computes_nothing_and_changes_nothing() -> None:
    module = build(CASES[2][0], CLASSIFY, SIZES, seed=0).eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    traced(module, CLASSIFY, SIZES)
    assert not module.training
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_the_trace_counts_products_by_hand() -> None:
    class Mixed(nn.Module):
        inputs = "features"

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(11, 5), nn.Linear(5, 3, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(torch.relu(self.first(x)))

    found = traced(Mixed(), CLASSIFY, SIZES)
    assert [(o.kind, o.shape, o.flops) for o in found.operations] == [
        ("matmul", (1, 5, 11), 110.0),
        ("elementwise", (1, 5), 0.0),
        ("matmul", (1, 3, 5), 30.0),
    ]
    assert found.forward_flops == 140 and found.training_flops == 420
    assert found.activation_elements == 11 + 5
    assert np.isfinite(found.activation_elements)
