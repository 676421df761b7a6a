# ruff: noqa: E501 (messages are compared whole)
"""Mistakes in a job: all at once, each with its line, what was found, what was expected, what was probably meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from fullbore.base.errors import JobError
from fullbore.spec.load import load

WRONG = """name = "Bad Name"
budget = "3s"
[data]
source = 3
seed = 2
format = "jsnl"
include = ["a",
  4]
validation = "150%"
limit = 0
text = 2020-01-01
shard_bytes = -3
[model]
kind = "decoder"
heads = 3
blocks = [1]
[task]
kind = "clasification"
[train]
batch_sise = 3
clip = "nne"
precision = "fp16"
checkpoint_every = 0
compile = "yes"
learning_rate = "1e-3"
threads = true
[trian]
[serve]
port = 70000
"""

EXPECTED = """\
job.toml:1 name: found "Bad Name", expected a name of lower-case letters, digits, - and _
job.toml:2 budget: unknown key; did you mean train.budget?
job.toml:4 data.source: found 3, expected text
job.toml:5 data.seed: unknown key; did you mean train.seed?
job.toml:6 data.format: found "jsnl", expected one of auto, text, jsonl, csv, images, idx; did you mean jsonl?
job.toml:8 data.include.1: found 4, expected text
job.toml:9 data.validation: found "150%", expected a share between 0 and 1 such as "5%" or 0.05
job.toml:10 data.limit: found 0, expected a whole number above 0 or "none"
job.toml:11 data.text: found 2020-01-01, expected text
job.toml:12 data.shard_bytes: found -3, expected a size such as "64MiB" or "2GB"
job.toml:16 model.blocks: not a setting of kind decoder; resnet has it
job.toml:18 task.kind: found "clasification", expected one of causal_lm, masked_lm, classification, regression; \
did you mean classification?
job.toml:19 train.budget: missing; expected a budget above zero such as "90s", "200 steps", "10M tokens" or "3 epochs"
job.toml:20 train.batch_sise: unknown key; did you mean global_batch_size or micro_batch_size?
job.toml:21 train.clip: found "nne", expected a number above 0 or "none"
job.toml:22 train.precision: found "fp16", expected one of auto, fp32, bf16; did you mean bf16?
job.toml:23 train.checkpoint_every: found 0, expected auto or a whole number above 0 or a duration such as "90s", \
"3min" or "1h30m" above 0
job.toml:24 train.compile: found "yes", expected auto or true or false
job.toml:25 train.learning_rate: found "1e-3", expected a number above 0
job.toml:26 train.threads: found true, expected auto or a whole number above 0
job.toml:27 trian: unknown section; did you mean train?
job.toml:29 serve.port: found 70000, expected a whole number from 0 to 65535
"""

GOOD = """name = "x"
[data]
source = "."
[task]
kind = "causal_lm"
[tokenizer]
[model]
kind = "decoder"
[train]
budget = "9 steps"
[serve]
"""


def mistakes(folder: Path, text: str, overrides: dict[str, str] | None = None) -> list[str]:
    (folder / "job.toml").write_text(text)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(JobError) as caught:
        patch.chdir(folder)
        load("job.toml", overrides)
    return [str(problem) for problem in caught.value.problems]


def test_all_at_once_in_the_order_they_are_written(tmp_path: Path) -> None:
    assert mistakes(tmp_path, WRONG) == EXPECTED.splitlines()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ('"resnt"', 'found "resnt", expected one of decoder, resnet, textcnn, mlp, transformers; did you mean resnet?'),
        ("3", "found 3, expected one of decoder, resnet, textcnn, mlp, transformers"),
    ],
)
def test_kinds(tmp_path: Path, kind: str, message: str) -> None:
    found = mistakes(tmp_path, f'name = "x"\n[data]\nsource = "."\n[model]\nkind = {kind}\n')
    assert found == [f"job.toml:5 model.kind: {message}"]
    without = mistakes(tmp_path, 'name = "x"\n[data]\nsource = "."\n[model]\nlayers = 3\n')
    assert without[0] == "job.toml:4 model.kind: missing; expected one of decoder, resnet, textcnn, mlp, transformers"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "x"\n[data\n', "job.toml:2 TOML: expected ']' at the end of a table declaration, column 6"),
        ('name = "x"\nname = "y"\n', "job.toml:2 TOML: cannot overwrite a value, column 11"),
        ('name = """x\n', "job.toml:2 TOML: unterminated string"),
        ("name = \n", "job.toml:1 TOML: invalid value, column 8"),
    ],
)
def test_syntax_errors_have_a_line(tmp_path: Path, text: str, message: str) -> None:
    assert mistakes(tmp_path, text) == [message]


def test_missing_sections_point_at_the_file(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "") == ["job.toml name: missing; expected a name of lower-case letters, digits, - and _",
                                      "job.toml data: missing; expected a table"]  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"model.heads": "3"}, "--set model.heads: 3 does not divide model.width = 256 (default)"),
        ({"model.width": "4"}, "job.toml:7 model.heads: 4 makes heads 1 wide; rotary positions need an even width; "
         "model.width = 4 (--set)"),
        ({"model.key_value_heads": "3"}, "--set model.key_value_heads: 3 does not divide model.heads = 4 (default)"),
        ({"train.micro_batch_size": "17", "train.world_size": "2"}, "--set train.micro_batch_size: 17 is more than the "
         "16 samples of one rank: train.global_batch_size = 32 (default), train.world_size = 2 (--set)"),
        ({"train.world_size": "64"}, "--set train.world_size: 64 processes cannot share train.global_batch_size = 32 (default)"),
        ({"task.kind": "regression"}, "job.toml:8 model.kind: decoder cannot do task.kind = regression (--set); "
         "resnet, textcnn, mlp, transformers can"),
        ({"task.class_weights": "balanced"}, "--set task.class_weights: balanced is for classification only, not "
         "task.kind = causal_lm (job.toml:5)"),
        ({"task.mask_share": "0.2"}, "--set task.mask_share: is for masked_lm only, not task.kind = causal_lm (job.toml:5)"),
        ({"data.validation": "0.5", "data.test": "0.5"}, "--set data.validation: 0.5 leaves nothing to train on beside "
         "data.test = 0.5 (--set)"),
        ({"data.validation": "0", "train.early_stopping": "2"}, "--set train.early_stopping: needs validation samples, "
         "but data.validation = 0.0 (--set)"),
        ({"tokenizer.kind": "folder"}, "job.toml:6 tokenizer.folder: missing; expected a folder with tokenizer.json for "
         "tokenizer.kind = folder (--set)"),
        ({"tokenizer.folder": "x"}, "--set tokenizer.folder: is for kind = folder only, not tokenizer.kind = byte_bpe (default)"),
        ({"compress.samples": "8", "data.validation": "0", "data.format": "text"}, "--set compress: has no held-out "
         "samples to judge variants on: data.validation = 0.0 (--set), data.test = 0.0 (default); raise one of them, or "
         "leave [compress] out"),
        ({"compress.samples": "8", "data.validation": "0"}, "--set compress: has no held-out samples to judge variants "
         "on: data.validation = 0.0 (--set), data.test = 0.0 (default); raise one of them, or leave [compress] out; files "
         'that hold a validation or test split of their own need data.format = "images" or "idx"'),
        ({"serve.prompt_tokens": "2048"}, "--set serve.prompt_tokens: 2048 is more than serve.max_tokens = 1024 (default)"),
    ],
)  # fmt: skip
def test_contradictions_name_both_places(tmp_path: Path, overrides: dict[str, str], expected: str) -> None:
    assert mistakes(tmp_path, GOOD, overrides) == [expected]


@pytest.mark.parametrize(
    "held_out", ["validation = 0.1", "validation = 0\ntest = 0.1", 'validation = 0\nformat = "idx"']
)
def test_variants_can_be_judged_on_either_split_and_on_one_that_the_files_bring(tmp_path: Path, held_out: str) -> None:
    text = GOOD.replace('source = "."', f'source = "."\n{held_out}') + "[compress]\n"
    (tmp_path / "job.toml").write_text(text)
    assert load(str(tmp_path / "job.toml")).job.compress is not None


MLP = '[task]\nkind = "classification"\n[model]\nkind = "mlp"\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[serve]\n", ["job.toml:4 serve: needs a section [train]: without one there is no model"]),
        ('[train]\nbudget = "1s"\n', ["job.toml:4 train: needs a section [task]", "job.toml:4 train: needs a section [model]"]),
        (MLP, ["job.toml:6 model: needs a section [train]: without one it is never built"]),
        ('[task]\nkind = "causal_lm"\n', ["job.toml:5 task.kind: causal_lm needs a section [tokenizer]"]),
        (MLP.replace("mlp", "textcnn") + '[train]\nbudget = "1s"\n', ["job.toml:7 model.kind: textcnn needs a section [tokenizer]"]),
        ('[task]\nkind = "masked_lm"\n[tokenizer]\n[model]\nkind = "transformers"\nfolder = "."\n[train]\nbudget = "1s"\n'
         '[serve]\n', ["job.toml:12 serve: has no answer to give of task.kind = masked_lm (job.toml:5); leave [serve] out"]),
        (MLP + '[train]\nbudget = "1M tokens"\n', ["job.toml:9 train.budget: 1000000 tokens: only language models count "
         "tokens; expected time, steps, samples or epochs with task.kind = classification (job.toml:5)"]),
    ],
)  # fmt: skip
def test_sections_need_each_other(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert mistakes(tmp_path, f'name = "x"\n[data]\nsource = "."\n{text}') == expected


def test_a_label_is_needed_where_a_column_holds_the_answer(tmp_path: Path) -> None:
    text = f'name = "x"\n[data]\nsource = "."\nformat = "csv"\n{MLP}[train]\nbudget = "1s"\n'
    assert mistakes(tmp_path, text) == [
        "job.toml:2 data.label: missing; classification needs the column that holds the answer with "
        "data.format = csv (job.toml:4)"
    ]


def test_wrong_sections_do_not_hide_contradictions_of_right_ones(tmp_path: Path) -> None:
    found = mistakes(tmp_path, GOOD, {"model.heads": "3", "serve.port": "x"})
    assert [line.split(":")[0] for line in found] == ["--set serve.port", "--set model.heads"]
