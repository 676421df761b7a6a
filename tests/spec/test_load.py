"""Jobs: what is loaded, where each value came from, and that it is written back exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullbore.base.errors import InputError, JobError, UsageError
from fullbore.base.units import Budget, parse_budget
from fullbore.spec.job import Job
from fullbore.spec.load import LoadedJob, load, load_section, to_toml
from fullbore.spec.serve import ServeSection

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))

BASE = """name = "base"
[data]
source = "texts"
include = ["*.txt", "*.md"]
[tokenizer]
[task]
kind = "causal_lm"
[model]
kind = "decoder"
heads = 8
[train]
budget = "90s"
clip = "none"
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.toml").write_text(BASE)
    return tmp_path


def problems(target: str, **overrides: Any) -> list[str]:
    with pytest.raises(JobError) as caught:
        load(target, {key.replace("__", "."): value for key, value in overrides.items()})
    return str(caught.value).splitlines()


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_load_and_write_back(recipe: Path, tmp_path: Path) -> None:
    loaded = load(recipe)
    copy = tmp_path / "copy.toml"
    copy.write_text(to_toml(loaded.job))
    assert load(copy).job == loaded.job


def test_origins_name_file_line_set_and_default(here: Path) -> None:
    loaded = load("base.toml", {"train.seed": "7", "train.budget": "200 steps"})
    assert loaded.job.train is not None
    assert loaded.job.train.budget == Budget(200, "steps")
    assert loaded.job.train.clip is None
    assert loaded.origins["model.heads"] == "base.toml:10"
    assert loaded.origins["data.include"] == "base.toml:4"
    assert loaded.origins["train.seed"] == loaded.origins["train.budget"] == "--set"
    assert loaded.origins["train.keep"] == loaded.origins["serve"] == "default"
    assert loaded.path == Path("base.toml")


def test_extends_chain_nearest_wins_and_lists_replace(here: Path) -> None:
    (here / "sub").mkdir()
    (here / "sub" / "middle.toml").write_text(
        'extends = "../base.toml"\n[data]\ninclude = ["*.py"]\n[model]\nlayers = 2\n'
    )
    (here / "top.toml").write_text('extends = "sub/middle.toml"\nname = "top"\n[model]\nlayers = 3\n')
    loaded = load("top.toml")
    job = loaded.job
    assert (job.name, job.data.source, job.data.include) == ("top", "texts", ("*.py",))
    assert job.model is not None and job.model.kind == "decoder"
    assert (job.model.layers, job.model.heads) == (3, 8)
    assert loaded.origins["model.layers"] == "top.toml:4"
    assert loaded.origins["data.include"] == "sub/middle.toml:3"
    assert loaded.origins["model.heads"] == "base.toml:10"


def test_another_kind_replaces_the_table(here: Path) -> None:
    (here / "top.toml").write_text(
        'extends = "base.toml"\n[model]\nkind = "textcnn"\nwidth = 8\n[task]\nkind = "classification"\n'
    )
    job = load("top.toml").job
    assert job.model is not None and job.model.kind == "textcnn" and job.model.width == 8


def test_extends_refuses_circles_and_missing_files(here: Path) -> None:
    (here / "a.toml").write_text('extends = "b.toml"\n')
    (here / "b.toml").write_text('\nextends = "a.toml"\n')
    (here / "c.toml").write_text('extends = "nowhere.toml"\n')
    assert problems("a.toml") == ["b.toml:2 extends: goes in a circle: a.toml → b.toml → a.toml"]
    assert problems("c.toml")[0].startswith("c.toml:1 extends: no such file: nowhere.toml")
    (here / "d.toml").write_text('extends = ["a.toml"]\n')
    assert "expected the path of one job file" in problems("d.toml")[0]


def test_set_values_are_toml_or_text(here: Path) -> None:
    job = load(
        "base.toml",
        {"data.include": '["a", "b"]', "data.source": "s3://bucket/x y", "model.tie_embeddings": "false", "name": "n2"},
    ).job
    assert job.data.include == ("a", "b") and job.data.source == "s3://bucket/x y" and job.name == "n2"
    assert job.model is not None and job.model.kind == "decoder" and job.model.tie_embeddings is False
    assert problems("base.toml", train="5") == ["--set train: found 5, expected a table"]
    assert "not a setting" in problems("base.toml", train__="5")[0]
    assert load("base.toml", {"data.text": "x\ny = 3"}).job.data.text == "x\ny = 3"


def test_functions_give_jobs(here: Path) -> None:
    (here / "made.py").write_text(
        "from fullbore.spec.job import Job\n"
        "def job(): return Job(name='made', data={'source': 'x'})\n"
        "def wrong(): return 5\n"
        "def broken(): return {}['key']\n"
        "def invalid(): return Job(name='made', data={'source': 5})\n"
    )
    loaded = load("made.py:job", {"data.test": "5%"})
    assert loaded.job.name == "made" and loaded.job.data.test == 0.05 and loaded.path is None
    assert loaded.origins["data.source"] == "made.py:job" and loaded.origins["data.text"] == "default"
    with pytest.raises(UsageError, match="returned int"):
        load("made.py:wrong")
    with pytest.raises(UsageError, match="KeyError") as raised:
        load("made.py:broken")
    assert raised.value.hint is not None and raised.value.hint.endswith("made.py:4")
    with pytest.raises(JobError, match=r"made\.py:invalid"):
        load("made.py:invalid")
    with pytest.raises(InputError, match="no function"):
        load("made.py:absent")
    with pytest.raises(InputError, match="no such"):
        load("absent.py:job")
    with pytest.raises(InputError, match="no such"):
        load("absent_module:job")


def test_a_job_loads_itself(here: Path) -> None:
    job = load("base.toml").job
    assert load(job) == LoadedJob(job, {**load(job).origins}, None)


def test_a_section_alone() -> None:
    section = load_section("serve", {"port": 1}, {"serve.prompt": "x"})
    assert isinstance(section, ServeSection) and (section.port, section.prompt) == (1, "x")
    with pytest.raises(JobError, match=r"--set serve\.batch_sise: unknown key; did you mean batch_size"):
        load_section("serve", {}, {"serve.batch_sise": "1"})
    with pytest.raises(JobError, match=r"--set data\.source: missing"):
        load_section("data", {}, {})
    with pytest.raises(JobError, match=r"--set train\.seed: only serve\.\* settings"):
        load_section("serve", {}, {"train.seed": "1"})


def test_missing_and_unreadable_files(here: Path) -> None:
    with pytest.raises(InputError, match="no such file") as raised:
        load("bse.toml")
    assert raised.value.hint == "did you mean base.toml?"
    with pytest.raises(InputError, match="cannot be read"):
        load(here)
    (here / "bytes.toml").write_bytes(b'name = "x"\nb = "\xff"\n')
    assert problems("bytes.toml") == ["bytes.toml:2 TOML: not UTF-8 text"]


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
shares = st.floats(0, 0.4)
counts = st.integers(1, 10**6)
budgets = st.builds(
    Budget,
    st.floats(1e-3, 1e12) | counts.map(float),
    st.sampled_from(["seconds", "steps", "samples", "epochs"]),
)


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    data = {
        "source": draw(texts),
        "include": draw(st.lists(texts, max_size=3)),
        "format": draw(st.sampled_from(["auto", "text", "idx"])),
        "label": draw(st.none() | texts),
        "validation": draw(shares),
        "test": draw(shares),
        "limit": draw(st.none() | counts),
        "shard_bytes": draw(counts),
        "standardise": draw(st.booleans()),
    }
    if draw(st.booleans()):
        return Job.model_validate({"name": "only-data", "data": data})
    train = {
        "budget": draw(budgets),
        "learning_rate": draw(st.floats(1e-300, 1e300)),
        "clip": draw(st.none() | st.floats(1e-9, 1e9)),
        "threads": draw(st.just("auto") | counts),
        "compile": draw(st.just("auto") | st.booleans()),
        "checkpoint_every": draw(st.just("auto") | counts | st.floats(1e-9, 1e9)),
    }
    model = {"kind": "mlp", "hidden": draw(st.lists(counts, max_size=3)), "dropout": draw(st.floats(0, 0.9))}
    task = {"kind": "classification", "class_weights": draw(st.sampled_from(["none", "balanced"]))}
    serve = {"prompt": draw(texts), "drain_timeout": draw(st.floats(0, 1e6))}
    return Job.model_validate({"name": "j", "data": data, "train": train, "model": model, "task": task, "serve": serve})


def test_a_lone_value_of_set_is_a_list_of_one(here: Path) -> None:
    job = load("base.toml", {"data.include": "*.rst", "compress.variants": "int8", "model.hidden": "64"}).job
    assert job.data.include == ("*.rst",) and job.compress is not None and job.compress.variants == ("int8",)
    assert job.model is not None and job.model.kind == "decoder" and job.model.hidden == 64
    perceptron = {"model.kind": "mlp", "model.hidden": "64", "task.kind": "regression"}
    (here / "mlp.toml").write_text('extends = "base.toml"\n[model]\nkind = "mlp"\n')
    model = load("mlp.toml", perceptron).job.model
    assert model is not None and model.kind == "mlp" and model.hidden == (64,)
    assert problems("base.toml", compress__variants="int9") == [
        '--set compress.variants.0: found "int9", expected one of fp32, bf16, int8; did you mean int8?'
    ]
    assert load_section("compress", {}, {"compress.variants": "bf16"}).variants == ("bf16",)  # type: ignore[attr-defined]


def test_none_unsets_what_the_file_below_set(here: Path) -> None:
    (here / "below.toml").write_text(BASE + '[serve]\nprompt = "none"\n')
    (here / "below.toml").write_text(
        (here / "below.toml").read_text().replace("[tokenizer]", 'label = "kind"\n[tokenizer]')
    )
    job = load("below.toml", {"data.label": "none"}).job
    assert job.data.label is None and job.serve is not None and job.serve.prompt == "none"
    assert load("below.toml").job.data.label == "kind"
    assert problems("below.toml", data__label="3") == ['--set data.label: found 3, expected text or "none"']


@settings(max_examples=150, deadline=None)
@given(jobs())
def test_to_toml_round_trips_exactly(tmp_path_factory: pytest.TempPathFactory, job: Job) -> None:
    path = tmp_path_factory.getbasetemp() / "round.toml"
    path.write_bytes(to_toml(job).encode())
    again = load(path).job
    assert again == job
    assert to_toml(again) == to_toml(job)


@given(budgets)
def test_budgets_are_written_exactly(budget: Budget) -> None:
    assert parse_budget(str(budget)) == budget
