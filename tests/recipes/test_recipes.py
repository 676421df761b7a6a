"""Every recipe, run end to end by the real program: at small size here, at full size and to its goal in `make soak`."""

from __future__ import annotations

import math
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fullbore.record import artifact
from tests.flow.conftest import ROOT, Bench

RECIPES = ROOT / "recipes"
FETCH = RECIPES / "fetch.py"

SMALL: dict[str, dict[str, object]] = {
    "python-lm": {
        "data.include": '["json/*.py", "email/*.py"]',
        "data.validation": "10%",
        "tokenizer.vocabulary_size": 512,
        "model.width": 64,
        "model.layers": 2,
        "model.heads": 2,
        "train.budget": "30 steps",
        "train.sequence_length": 64,
        "compress.samples": 32,
    },
    "digits-mlp": {"train.budget": "6 epochs"},
    "diabetes-mlp": {},
    "fashion": {"model.width": 8, "train.budget": "200 steps", "train.evaluate_samples": 512},
    "spam-cnn": {"tokenizer.vocabulary_size": 2048, "model.width": 32, "model.filters": 32, "train.budget": "60 steps"},
    "spam-encoder": {"train.budget": "12 steps", "train.sequence_length": 64, "compress.samples": 64},
    "chinese-lm": {
        "data.include": '["[a-d]*.txt"]',
        "tokenizer.vocabulary_size": 1024,
        "model.width": 64,
        "model.layers": 2,
        "model.heads": 2,
        "train.budget": "30 steps",
        "train.sequence_length": 64,
        "compress.samples": 32,
    },
}
"""What makes each recipe small. The bundled sets of scikit-learn are small by themselves."""

SETS = {
    "fashion": ("fashion",),
    "spam-cnn": ("spam",),
    "spam-encoder": ("spam", "minilm"),
    "chinese-lm": ("chinese",),
}
"""What `make test-real` fetches for a recipe."""


def fetched(bench: Bench, name: str) -> None:
    """Put the repository's data where a user's would be."""
    for needed in SETS.get(name, ()):
        if not (ROOT / "data" / needed).is_dir():
            pytest.fail(f"data/{needed} is missing: python recipes/fetch.py {needed}", pytrace=False)
    if not (bench.folder / "data").exists():
        (bench.folder / "data").symlink_to(ROOT / "data")


def run(bench: Bench, name: str, settings: dict[str, object], patience: float = 300) -> dict[str, Any]:
    overrides = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    outcome = bench.run("run", RECIPES / f"{name}.toml", *overrides, "--name", name, "--json", patience=patience)
    assert outcome.code == 0, outcome.stderr
    whole(bench, name, outcome.answer, outcome.stderr)
    return outcome.answer


def whole(bench: Bench, name: str, result: dict[str, Any], said: str) -> None:
    """What every recipe promises."""
    job = tomllib.loads((bench.folder / "runs" / name / "job.toml").read_text())
    assert result["status"] == "done" and result["error"] is None and result["job"] == name
    assert [stage["stage"] for stage in result["stages"]][-3:] in (
        ["train", "compress", "serve"],
        ["baselines", "compress", "serve"],
    )
    assert math.isfinite(result["loss"]) and all(map(math.isfinite, result["metrics"].values()))
    assert result["verdict"]["limit"] and result["verdict"]["evidence"]
    assert result["ledger"].get("other", {"share": 0})["share"] <= 0.01
    assert {row["variant"] for row in result["compression"]} == {"fp32", "bf16", "int8"}
    assert artifact.verify(artifact.read(Path(result["model"]), "model")) == []
    assert result["completion"]["text"]
    if job["task"]["kind"] != "causal_lm":
        answers = result["completion"]["outputs"]
        assert len(answers.get("label", answers.get("value"))) == 4
    assert "Traceback" not in said and "Warning" not in said


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Recipes share their caches, as a user's do."""
    return Bench(tmp_path_factory.mktemp("recipes"))


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A folder in which somebody ran `recipes/fetch.py digits diabetes`."""
    made = Bench(tmp_path_factory.mktemp("bundled"))
    subprocess.run([sys.executable, FETCH, "digits", "diabetes"], cwd=made.folder, check=True, capture_output=True)
    return made


def test_every_recipe_is_tested_here() -> None:
    assert {path.stem for path in RECIPES.glob("*.toml")} == set(SMALL)


def test_recipes_are_named_as_their_files_and_say_how_to_run_them() -> None:
    for path in RECIPES.glob("*.toml"):
        text = path.read_text()
        assert tomllib.loads(text)["name"] == path.stem
        assert f"#   fullbore run recipes/{path.name}" in text
        for needed in SETS.get(path.stem, ()):
            assert needed in text.split("recipes/fetch.py ", 1)[1].splitlines()[0]


@pytest.mark.slow
def test_python_lm(bench: Bench) -> None:
    result = run(bench, "python-lm", SMALL["python-lm"])
    assert 0 < result["metrics"]["bits_per_byte"] < 8
    assert result["completion"]["usage"]["completion_tokens"] > 0


@pytest.mark.slow
def test_digits_mlp(bundled: Bench) -> None:
    result = run(bundled, "digits-mlp", SMALL["digits-mlp"])
    assert result["metrics"]["accuracy"] > 0.9
    assert result["metrics"]["test_accuracy"] > 0.9
    assert {event["split"] for event in bundled.events("digits-mlp", "metric")} == {"validation", "test"}
    assert set(result["completion"]["outputs"]["label"]) <= set("0123456789")


@pytest.mark.slow
def test_diabetes_mlp_on_two_processes(bundled: Bench) -> None:
    result = run(bundled, "diabetes-mlp", SMALL["diabetes-mlp"])
    assert result["metrics"]["r2"] > 0.3 and result["metrics"]["test_r2"] > 0.3
    assert result["metrics"]["test_mean_squared_error"] < 4500
    assert (bundled.folder / "runs" / "diabetes-mlp" / "events.rank1.jsonl").stat().st_size > 0
    assert all(25 < value < 350 for value in result["completion"]["outputs"]["value"])


@pytest.mark.real
def test_fashion(bench: Bench) -> None:
    fetched(bench, "fashion")
    result = run(bench, "fashion", SMALL["fashion"])
    assert result["metrics"]["test_accuracy"] > 0.6


@pytest.mark.real
@pytest.mark.parametrize("name", ["spam-cnn", "spam-encoder"])
def test_spam(bench: Bench, name: str) -> None:
    fetched(bench, name)
    result = run(bench, name, SMALL[name])
    assert result["metrics"]["test_accuracy"] > 0.75
    assert set(result["completion"]["outputs"]["label"]) <= {"ham", "spam"}


@pytest.mark.real
def test_chinese_lm(bench: Bench) -> None:
    fetched(bench, "chinese-lm")
    result = run(bench, "chinese-lm", SMALL["chinese-lm"])
    assert 0 < result["metrics"]["bits_per_byte"] < 8
    assert result["completion"]["prompt"] == "该命令"


@pytest.mark.soak
def test_fashion_reaches_its_goal(bench: Bench) -> None:
    fetched(bench, "fashion")
    assert run(bench, "fashion", {}, patience=1800)["metrics"]["test_accuracy"] >= 0.90


@pytest.mark.soak
def test_the_spam_encoder_reaches_its_goal(bench: Bench) -> None:
    fetched(bench, "spam-encoder")
    assert run(bench, "spam-encoder", {}, patience=1800)["metrics"]["test_accuracy"] >= 0.98


@pytest.mark.soak
def test_the_spam_cnn_reaches_its_goal(bench: Bench) -> None:
    fetched(bench, "spam-cnn")
    assert run(bench, "spam-cnn", {}, patience=1800)["metrics"]["test_accuracy"] >= 0.97


@pytest.mark.soak
def test_python_lm_beats_models_counted_from_its_tokens(bench: Bench) -> None:
    result = run(bench, "python-lm", {}, patience=1800)
    assert result["metrics"]["bits_per_byte"] < result["baselines"]["trigram"] < result["baselines"]["bigram"]
