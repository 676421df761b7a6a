"""Tiny real models, saved and loaded once, and a server of them all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch

from fullbore.models import tokenizer, weights
from fullbore.models.build import Sizes, build
from fullbore.models.weights import LoadedModel
from fullbore.serve.run import background
from fullbore.spec.data import TokenizerSection
from fullbore.spec.model import DecoderModel, MLPModel, ModelSection, ResNetModel, TaskSection, TextCNNModel
from fullbore.spec.serve import ServeSection

TEXTS = [
    "def add(a, b):\n    return a + b\n",
    "中文也是一等公民。\n",
    "the quick brown fox jumps over the lazy dog\n",
] * 20
CONTEXT = 256


def make_tokenizer(folder: Path) -> Path:
    return tokenizer.train(TEXTS, TokenizerSection(vocabulary_size=400), folder).folder


def save(
    folder: Path,
    section: ModelSection,
    task: TaskSection,
    sizes: Sizes,
    vocabulary: Path | None = None,
    seed: int = 0,
    **info: object,
) -> LoadedModel:
    module = build(section, task, sizes, seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    weights.save(module, folder, model=section, task=task, sizes=sizes, tokenizer=vocabulary, info=info, parents=())
    return weights.load(folder)


def language_model(folder: Path, vocabulary: Path, width: int = 32, layers: int = 2) -> LoadedModel:
    count = tokenizer.load(vocabulary).vocabulary_size
    sizes = Sizes(vocabulary_size=count, sequence_length=CONTEXT)
    section = DecoderModel(kind="decoder", width=width, layers=layers, heads=2)
    return save(folder, section, TaskSection(kind="causal_lm"), sizes, vocabulary)


def text_classifier(folder: Path, vocabulary: Path) -> LoadedModel:
    count = tokenizer.load(vocabulary).vocabulary_size
    sizes = Sizes(vocabulary_size=count, classes=2, sequence_length=32)
    section = TextCNNModel(kind="textcnn", width=16, filters=8)
    return save(folder, section, TaskSection(kind="classification"), sizes, vocabulary, classes=["ham", "spam"])


def image_classifier(folder: Path) -> LoadedModel:
    section = ResNetModel(kind="resnet", width=4, blocks=(1, 1))
    sizes = Sizes(classes=3, image=(1, 8, 8))
    return save(folder, section, TaskSection(kind="classification"), sizes, classes=["coat", "bag", "shoe"])


def regression(folder: Path) -> LoadedModel:
    statistics = {"mean": [1.0, 2.0, 3.0], "deviation": [2.0, 2.0, 4.0], "target_mean": 150.0, "target_deviation": 75.0}
    sizes = Sizes(features=3)
    return save(
        folder, MLPModel(kind="mlp", hidden=(16,)), TaskSection(kind="regression"), sizes, statistics=statistics
    )


def tabular_classifier(folder: Path) -> LoadedModel:
    sizes = Sizes(features=4, classes=3)
    return save(folder, MLPModel(kind="mlp", hidden=(16,)), TaskSection(kind="classification"), sizes)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Networks this small only lose by more."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="session")
def models(folder: Path) -> dict[str, LoadedModel]:
    vocabulary = make_tokenizer(folder / "tokenizer")
    return {
        "lm": language_model(folder / "lm", vocabulary),
        "spam": text_classifier(folder / "spam", vocabulary),
        "fashion": image_classifier(folder / "fashion"),
        "diabetes": regression(folder / "diabetes"),
        "digits": tabular_classifier(folder / "digits"),
    }


@pytest.fixture(scope="session")
def slow_model(folder: Path, models: dict[str, LoadedModel]) -> LoadedModel:
    """A language model large enough that 200 of its tokens take a noticeable time."""
    return language_model(folder / "slow", folder / "tokenizer", width=128, layers=8)


@pytest.fixture(scope="session")
def url(models: dict[str, LoadedModel]) -> Iterator[str]:
    with background(models, ServeSection(max_tokens=200, body_bytes=1 << 20)) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client
