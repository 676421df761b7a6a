"""Tasks: batches, losses as sums, and figures that add up over batches and ranks."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullbore.base.errors import InputError
from fullbore.models import collate
from fullbore.models.build import Sizes, build, sizes
from fullbore.models.language import CausalLM, MaskedLM, draws
from fullbore.models.supervised import Classification, Regression, balanced
from fullbore.models.tasks import Task, bytes_per_token, task
from fullbore.spec.model import DecoderModel, MLPModel, TaskSection

SPECIALS: Any = SimpleNamespace(vocabulary_size=60, pad=1, mask=2, specials=(0, 1, 2))


def decoder() -> nn.Module:
    section = DecoderModel(kind="decoder", width=16, layers=1, heads=2)
    return build(section, TaskSection(kind="causal_lm"), Sizes(vocabulary_size=60), seed=0)


def mlp(outputs: int) -> nn.Module:
    kind = "classification" if outputs > 1 else "regression"
    section = MLPModel(kind="mlp", hidden=(8,))
    return build(section, TaskSection(kind=kind), Sizes(features=3, classes=outputs), seed=0)


def packed(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    return {"tokens": np.random.default_rng(seed).integers(0, 60, (rows, 9)).astype(np.uint16)}


def tabular(rows: int, classes: int | None) -> dict[str, np.ndarray]:
    source = np.random.default_rng(1)
    columns: dict[str, np.ndarray] = {"features": source.normal(size=(rows, 3)).astype(np.float32)}
    if classes:
        columns["label"] = source.integers(0, classes, rows)
    else:
        columns["target"] = source.normal(size=rows).astype(np.float32)
    return columns


class Everything(nn.Module):
    """A masked language model over one-hot embeddings."""

    splits = True

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(60, 12)
        self.head_weight = nn.Parameter(torch.randn(60, 12, generator=torch.Generator().manual_seed(2)))
        self.head_bias = None

    def hidden(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return self.embedding(tokens) * mask.unsqueeze(-1)


CASES: list[tuple[Task, nn.Module, dict[str, np.ndarray]]] = [
    (CausalLM(3.0), decoder(), packed(7)),
    (MaskedLM(60, 2, 1, (0, 1, 2), 0.3, 8), Everything(), packed(7)),
    (Classification(), mlp(4), tabular(7, 4)),
    (Classification((0.5, 2.0, 1.0, 1.0)), mlp(4), tabular(7, 4)),
    (Regression(3.0), mlp(1), tabular(7, None)),
]


@pytest.mark.parametrize(("asked", "model", "columns"), CASES)
def test_losses_units_and_sums_add_over_parts(asked: Task, model: nn.Module, columns: dict[str, np.ndarray]) -> None:
    model.eval()
    ids = np.arange(7)
    whole = asked.collate(columns, ids)
    parts = [
        asked.collate({name: column[part] for name, column in columns.items()}, ids[part])
        for part in (slice(0, 3), slice(3, 7))
    ]
    loss = asked.loss(model, whole)
    assert loss.dtype == torch.float32 and loss.shape == () and loss.requires_grad
    torch.testing.assert_close(loss, sum(asked.loss(model, part) for part in parts), rtol=1e-4, atol=1e-4)
    assert asked.units(whole) == pytest.approx(sum(asked.units(part) for part in parts))
    sums = asked.judge(model, whole)
    added = [asked.judge(model, part) for part in parts]
    for name, value in sums.items():
        assert value == pytest.approx(sum(one[name] for one in added), rel=1e-4)
    metrics = asked.metrics(sums)
    assert metrics["loss"] == pytest.approx(loss.item() / asked.units(whole), rel=1e-4)
    assert asked.metric in metrics
    each = asked.judge_each(model, whole)
    assert each.shape == (7,) and each.dtype == np.float64
    np.testing.assert_allclose(each, np.concatenate([asked.judge_each(model, part) for part in parts]), rtol=1e-4)


def test_causal_language_modelling_predicts_the_next_token() -> None:
    model, asked = decoder(), CausalLM(bytes_per_token=3.5)
    batch = asked.collate(packed(3), np.arange(3))
    assert batch["tokens"].dtype == torch.int32 and batch["tokens"].shape == (3, 9)
    assert asked.units(batch) == 24
    logits = model(batch["tokens"][:, :-1])
    exact = F.cross_entropy(logits.flatten(0, 1), batch["tokens"][:, 1:].flatten().long(), reduction="sum")
    torch.testing.assert_close(asked.loss(model, batch), exact)
    metrics = asked.metrics(asked.judge(model, batch))
    assert metrics["bits_per_byte"] == pytest.approx(exact.item() / 24 / math.log(2) / 3.5, rel=1e-5)
    assert metrics["perplexity"] == pytest.approx(math.exp(exact.item() / 24), rel=1e-5)
    assert asked.metric == "bits_per_byte" and CausalLM().metric == "loss"
    assert asked.judge_each(model, batch).mean() == pytest.approx(metrics["loss"], rel=1e-5)


def test_masks_are_a_pure_function_of_seed_and_sample() -> None:
    asked = MaskedLM(60, 2, 1, (0, 1, 2), 0.15, 8)
    columns = packed(6)
    whole = asked.collate(columns, np.array([10, 11, 12, 13, 14, 15]))
    again = asked.collate({"tokens": columns["tokens"][4:]}, np.array([14, 15]))
    for name in whole:
        assert torch.equal(whole[name][4:], again[name])
    other = asked.collate(columns, np.array([20, 21, 22, 23, 24, 25]))
    assert not torch.equal(whole["labels"], other["labels"])
    reseeded = MaskedLM(60, 2, 1, (0, 1, 2), 0.15, 8, seed=1).collate(columns, np.arange(10, 16))
    assert not torch.equal(whole["labels"], reseeded["labels"])


def test_masks_follow_the_recipe() -> None:
    asked = MaskedLM(1000, 2, 1, (0, 1, 2), 0.15, 512)
    clear = np.random.default_rng(0).integers(0, 1000, (64, 513)).astype(np.uint16)
    clear[:, ::10] = 0
    batch = asked.collate({"tokens": clear}, np.arange(64))
    tokens, labels, original = batch["tokens"], batch["labels"], torch.from_numpy(clear[:, :512].astype(np.int64))
    chosen = labels != -100
    assert tokens.shape == (64, 512)
    assert not chosen[:, ::10].any()
    assert torch.equal(labels[chosen], original[chosen])
    assert torch.equal(tokens[~chosen].long(), original[~chosen])
    assert chosen.float().mean().item() == pytest.approx(0.15 * 0.9, abs=0.01)
    assert (tokens[chosen] == 2).float().mean().item() == pytest.approx(0.8, abs=0.03)
    assert (tokens[chosen] == labels[chosen]).float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert asked.units(batch) == int(chosen.sum())


def test_every_row_has_a_masked_token_and_padding_never() -> None:
    asked = MaskedLM(60, 2, 1, (0, 1, 2), 0.01, 8)
    rows: list[np.ndarray] = [
        np.array([5, 6, 7], np.uint16),
        np.array([9], np.uint16),
        np.arange(10, 18, dtype=np.uint16),
    ]
    batch = asked.collate({"tokens": rows}, np.arange(3))
    chosen = batch["labels"] != -100
    assert (chosen.sum(1) >= 1).all()
    assert not (chosen & ~batch["attention_mask"]).any()


def test_draws_are_uniform() -> None:
    uniform = draws(7, np.arange(200), 500, 0)
    assert abs(uniform.mean() - 0.5) < 0.005
    assert np.histogram(uniform, 10, (0, 1))[0] == pytest.approx(10000, rel=0.05)
    assert len(np.unique(uniform)) == uniform.size
    largest = draws(2**63 - 1, np.arange(200), 500, 2)
    assert abs(largest.mean() - 0.5) < 0.005 and not np.isin(largest, uniform).any()


def test_token_lists_are_padded_to_a_multiple_of_eight() -> None:
    batch = collate.padded([np.arange(3), np.arange(9), np.arange(0)], pad=7)
    assert batch["tokens"].shape == (3, 16) and batch["tokens"].dtype == torch.int32
    assert batch["attention_mask"].sum(1).tolist() == [3, 9, 0]
    assert batch["tokens"][0].tolist() == [0, 1, 2] + [7] * 13


@pytest.mark.parametrize(
    ("shape", "image"),
    [((28, 27), (1, 28, 27)), ((3, 28, 27), (3, 28, 27)), ((28, 27, 3), (3, 28, 27)), ((1, 8, 8), (1, 8, 8))],
)
def test_images_become_channels_first(shape: tuple[int, ...], image: tuple[int, int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8)
    tensor = collate.pixels(pixels)
    assert tensor.dtype == torch.uint8 and tuple(tensor.shape) == (2, *image)
    assert collate.image_shape(shape) == image
    if shape[-1] == 3:
        assert torch.equal(tensor, torch.from_numpy(pixels).permute(0, 3, 1, 2))


def test_pixels_of_another_dtype_are_refused() -> None:
    with pytest.raises(InputError, match="float32"):
        collate.pixels(np.zeros((2, 8, 8), np.float32))


def test_class_weights_balance() -> None:
    assert balanced([1, 3]) == (2.0, pytest.approx(2 / 3))
    asked = Classification(balanced([1, 3]))
    batch = {"label": torch.tensor([0, 1, 1, 1])}
    assert asked.units(batch) == pytest.approx(4)


def test_regression_reports_in_the_targets_own_units() -> None:
    model = mlp(1)
    batch = Regression(3.0).collate(tabular(9, None), np.arange(9))
    own, scaled = (Regression(d).metrics(Regression(d).judge(model, batch)) for d in (1.0, 3.0))
    assert scaled["mean_squared_error"] == pytest.approx(9 * own["mean_squared_error"])
    assert scaled["mean_absolute_error"] == pytest.approx(3 * own["mean_absolute_error"])
    assert scaled["r2"] == pytest.approx(own["r2"])
    from sklearn.metrics import r2_score

    with torch.no_grad():
        assert own["r2"] == pytest.approx(r2_score(batch["target"], model(batch["features"]).squeeze(-1)), rel=1e-4)
    each = Regression(3.0).judge_each(model, batch)
    assert each.mean() == pytest.approx(scaled["mean_squared_error"])


def test_answers_may_be_absent_where_nothing_is_judged() -> None:
    columns = tabular(4, 4)
    del columns["label"]
    assert set(Classification().collate(columns, np.arange(4))) == {"features"}
    with pytest.raises(InputError, match="expected tokens, pixels or features"):
        Classification().collate({"label": np.zeros(2)}, np.arange(2))


def test_a_task_is_made_from_what_is_known_of_the_data() -> None:
    info: dict[str, Any] = {
        "columns": {"tokens": {"kind": "tokens", "dtype": "uint16", "shape": None}, "label": {"shape": []}},
        "classes": ["ham", "spam"], "class_counts": [30, 10], "sequence_length": 16,
        "text_bytes": {"train": 900, "validation": 100}, "tokens": {"train": 300, "validation": 25},
        "statistics": {"target_deviation": 2.5},
    }  # fmt: skip
    assert task(TaskSection(kind="causal_lm"), info, SPECIALS) == CausalLM(4.0)
    assert task(TaskSection(kind="classification"), info, SPECIALS) == Classification(None, 1)
    weighed = task(TaskSection(kind="classification", class_weights="balanced"), info, SPECIALS)
    assert weighed == Classification((40 / 60, 2.0), 1)
    assert task(TaskSection(kind="regression"), info, None) == Regression(2.5, 0)
    masked = task(TaskSection(kind="masked_lm", mask_share=0.2), info, SPECIALS, seed=5)
    assert masked == MaskedLM(60, 2, 1, (0, 1, 2), 0.2, 16, 5)
    assert sizes(info, SPECIALS, 16) == Sizes(vocabulary_size=60, classes=2, sequence_length=16)
    assert bytes_per_token({"text_bytes": {"train": 900}, "tokens": {"train": 300}}) == 3.0
    assert bytes_per_token({}) is None
    sizes_of = {"text_bytes": {"train": 9, "test": 20, "validation": 12}, "tokens": dict.fromkeys(info["tokens"], 3)}
    sizes_of["tokens"]["test"] = 4
    assert [bytes_per_token(sizes_of, split) for split in ("train", "validation", "test")] == [3.0, 4.0, 5.0]
    assert task(TaskSection(kind="causal_lm"), sizes_of, SPECIALS, split="test") == CausalLM(5.0)


def test_what_a_task_lacks_is_said() -> None:
    with pytest.raises(InputError, match="mask token"):
        task(TaskSection(kind="masked_lm"), {"sequence_length": 8}, None)
    with pytest.raises(InputError, match="needs classes"):
        task(TaskSection(kind="classification"), {"classes": None}, None)


def test_sizes_of_images_and_features() -> None:
    pixels = {"columns": {"pixels": {"shape": [28, 28]}}, "classes": ["a", "b"]}
    assert sizes(pixels, None, 64) == Sizes(classes=2, image=(1, 28, 28))
    assert sizes({"columns": {"features": {"shape": [64]}}}, None, 64) == Sizes(features=64)
