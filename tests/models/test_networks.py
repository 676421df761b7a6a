"""ResNet, TextCNN, MLP: shapes, seeds, what padding and scaling must not change, and which task fits which network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fullbore.base.errors import InputError
from fullbore.models import collate
from fullbore.models.build import Sizes, build
from fullbore.models.resnet import scaled
from fullbore.models.supervised import Classification
from fullbore.spec.model import DecoderModel, MLPModel, ModelSection, ResNetModel, TaskSection, TextCNNModel

CLASSIFY = TaskSection(kind="classification")
SIZES = Sizes(vocabulary_size=50, classes=3, features=5, image=(1, 14, 13), sequence_length=16)
SECTIONS: list[ModelSection] = [
    ResNetModel(kind="resnet", width=8, blocks=(1, 1)),
    TextCNNModel(kind="textcnn", width=8, filters=6),
    MLPModel(kind="mlp", hidden=(16, 8)),
]


def columns(kind: str, rows: int) -> dict[str, object]:
    source = np.random.default_rng(0)
    made: dict[str, object] = {"label": source.integers(0, 3, rows)}
    if kind == "resnet":
        made["pixels"] = source.integers(0, 256, (rows, 14, 13), dtype=np.uint8)
    elif kind == "textcnn":
        made["tokens"] = [source.integers(0, 50, 4 + row % 5).astype(np.uint16) for row in range(rows)]
    else:
        made["features"] = source.normal(size=(rows, 5)).astype(np.float32)
    return made


@pytest.mark.parametrize("section", SECTIONS)
def test_same_seed_same_bits_and_the_loss_falls(section: ModelSection) -> None:
    module, twin = (build(section, CLASSIFY, SIZES, seed=7) for _ in range(2))
    torch.rand(3)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), twin.parameters(), strict=True))
    asked = Classification()
    batch = asked.collate(columns(section.kind, 12), np.arange(12))
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        loss = asked.loss(module, batch) / asked.units(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("section", SECTIONS)
def test_a_regression_answers_one_number(section: ModelSection) -> None:
    module = build(section, TaskSection(kind="regression"), SIZES, seed=0).eval()
    batch = Classification().collate(columns(section.kind, 4), np.arange(4))
    del batch["label"]
    assert module(*batch.values()).shape == (4, 1)


def test_padding_does_not_change_what_a_text_gets() -> None:
    module = build(SECTIONS[1], CLASSIFY, SIZES, seed=0).eval()
    text = np.arange(3, 9)
    alone = collate.padded([text], pad=0)
    beside = collate.padded([text, np.arange(40)], pad=9)
    torch.testing.assert_close(module(*alone.values())[0], module(*beside.values())[0])
    torch.testing.assert_close(module(torch.from_numpy(text)[None])[0], module(*alone.values())[0])


def test_pixels_are_scaled_to_one_around_zero() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    expected = (pixels.float() / 255 - 0.5) / 0.5
    torch.testing.assert_close(scaled(pixels, torch.float32), expected)
    assert scaled(pixels, torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("section", SECTIONS)
def test_networks_run_in_bf16(section: ModelSection) -> None:
    module = build(section, CLASSIFY, SIZES, seed=0).eval()
    batch = Classification().collate(columns(section.kind, 4), np.arange(4))
    del batch["label"]
    exact = module(*batch.values())
    torch.testing.assert_close(module.to(torch.bfloat16)(*batch.values()).float(), exact, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("section", "task", "fitting"),
    [
        (SECTIONS[0], "causal_lm", "decoder"),
        (SECTIONS[1], "masked_lm", "transformers"),
        (DecoderModel(kind="decoder"), "classification", "textcnn"),
    ],
)
def test_a_network_that_cannot_do_the_task_is_refused(section: ModelSection, task: str, fitting: str) -> None:
    with pytest.raises(InputError, match=fitting):
        build(section, TaskSection.model_validate({"kind": task}), SIZES, seed=0)


@pytest.mark.parametrize("section", SECTIONS)
def test_data_that_lacks_what_the_network_reads(section: ModelSection) -> None:
    with pytest.raises(InputError):
        build(section, CLASSIFY, Sizes(), seed=0)
    with pytest.raises(InputError):
        build(section, CLASSIFY, Sizes(classes=3), seed=0)
