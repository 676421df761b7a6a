"""What people send and what they read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fullbore.base.errors import InputError
from fullbore.models import predict, tokenizer, weights
from fullbore.models.build import Sizes, build
from fullbore.models.supervised import answers
from fullbore.models.weights import LoadedModel
from fullbore.spec.data import TokenizerSection
from fullbore.spec.model import DecoderModel, MLPModel, ModelSection, ResNetModel, TaskSection, TextCNNModel

MLP = MLPModel(kind="mlp", hidden=(8,))


def made(folder: Path, section: ModelSection, kind: str, sizes: Sizes, texts: bool = False, **data: Any) -> LoadedModel:
    task = TaskSection.model_validate({"kind": kind})
    words = None
    if texts:
        words = tokenizer.train(["good words", "bad words"], TokenizerSection(vocabulary_size=270), folder / "t").folder
    module = build(section, task, sizes, seed=0)
    weights.save(
        module, folder / "m", model=section, task=task, sizes=sizes, tokenizer=words, info={"data": data}, parents=()
    )
    return weights.load(folder / "m")


def test_texts_get_labels(tmp_path: Path) -> None:
    section = TextCNNModel(kind="textcnn", width=8, filters=4)
    sizes = Sizes(vocabulary_size=270, classes=2, sequence_length=16)
    loaded = made(tmp_path, section, "classification", sizes, texts=True, classes=["ham", "spam"])
    found = predict.predict(loaded, ["good words", "bad 字", "x" * 500])
    assert [set(one["scores"]) for one in found] == [{"ham", "spam"}] * 3
    for one in found:
        assert one["score"] == max(one["scores"].values()) == one["scores"][one["label"]]
        assert sum(one["scores"].values()) == pytest.approx(1)
    assert predict.preprocess(loaded, ["x" * 500])["tokens"].shape == (1, 16)
    alone = predict.predict(loaded, ["good words"])[0]
    assert alone["label"] == found[0]["label"] and alone["score"] == pytest.approx(found[0]["score"], rel=1e-4)


def test_values_come_in_the_targets_own_units(tmp_path: Path) -> None:
    statistics = {"mean": [10.0, 20.0], "deviation": [2.0, 4.0], "target_mean": 100.0, "target_deviation": 7.0}
    loaded = made(tmp_path, MLP, "regression", Sizes(features=2), statistics=statistics)
    raw = np.array([[12.0, 20.0], [10.0, 28.0]])
    with torch.no_grad():
        bare = loaded.module(torch.tensor([[1.0, 0.0], [0.0, 2.0]])).squeeze(-1)
    found = [one["value"] for one in predict.predict(loaded, raw.tolist())]
    assert found == pytest.approx((bare * 7 + 100).tolist(), rel=1e-5)


def test_images_are_taken_as_people_hold_them(tmp_path: Path) -> None:
    section = ResNetModel(kind="resnet", width=4, blocks=(1,))
    loaded = made(tmp_path, section, "classification", Sizes(classes=3, image=(1, 9, 8)), classes=["a", "b", "c"])
    pixels = np.random.default_rng(0).integers(0, 256, (2, 9, 8), dtype=np.uint8)
    flat = predict.predict(loaded, pixels.tolist())
    assert flat == predict.predict(loaded, pixels[:, None])
    with torch.no_grad():
        exact = answers(loaded.module, {"pixels": torch.from_numpy(pixels[:, None])}).softmax(1)
    assert [one["score"] for one in flat] == pytest.approx(exact.amax(1).tolist())


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "found none"),
        ([[1.0, 2.0, 3.0]], r"expected \[1, 2\]"),
        ([[1.0], [2.0, 3.0]], "rows of 2 numbers"),
        (["text"], "rows of 2 numbers"),
        ([[1.0, float("nan")]], "NaN"),
    ],
)
def test_features_that_do_not_fit(tmp_path: Path, inputs: list[Any], message: str) -> None:
    loaded = made(tmp_path, MLP, "classification", Sizes(features=2, classes=2))
    with pytest.raises(InputError, match=message):
        predict.predict(loaded, inputs)


@pytest.mark.parametrize(
    "inputs", [["text"], [[1, 2]], [[[300] * 8] * 9], [[[-1] * 8] * 9], [[[0.5] * 8] * 9], [[[1]], [[1, 2]]]]
)
def test_images_that_do_not_fit(tmp_path: Path, inputs: list[Any]) -> None:
    loaded = made(
        tmp_path, ResNetModel(kind="resnet", width=4, blocks=(1,)), "classification", Sizes(classes=2, image=(1, 9, 8))
    )
    with pytest.raises(InputError, match=r"\[1, 9, 8\]"):
        predict.predict(loaded, inputs)


def test_texts_that_are_none_and_models_that_generate(tmp_path: Path) -> None:
    sizes = Sizes(vocabulary_size=270, classes=2, sequence_length=16)
    loaded = made(tmp_path, TextCNNModel(kind="textcnn", width=8, filters=4), "classification", sizes, texts=True)
    with pytest.raises(InputError, match="found int, expected text"):
        predict.predict(loaded, ["fine", 3])
    assert predict.predict(loaded, ["fine"])[0]["label"] in ("0", "1")
    decoder = made(tmp_path / "d", DecoderModel(kind="decoder", width=16, layers=1, heads=2), "causal_lm", sizes)
    with pytest.raises(InputError, match="use generate"):
        predict.predict(decoder, ["text"])
