"""What a run works with: its data, tokenizer and base model, wherever the user's own have gone since."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fullbore.record import artifact
from tests.flow.conftest import TINY, Bench, kill

pytestmark = pytest.mark.slow

HUB = """
name = "hub"
[data]
source = "texts"
validation = "20%"
[tokenizer]
kind = "folder"
folder = "words"
[task]
kind = "{task}"
[model]
kind = "transformers"
folder = "network"
[train]
budget = "{steps} steps"
global_batch_size = 8
sequence_length = 32
threads = 1
precision = "fp32"
seed = {seed}
evaluate_every = 10
checkpoint_every = 100000
"""

TABLE = """
name = "table"
[data]
source = "packed"
[task]
kind = "{task}"
[model]
kind = "mlp"
hidden = [8]
[train]
budget = "20 steps"
threads = 1
precision = "fp32"
"""

SHAPES = {
    "masked_lm": {"model_type": "bert", "intermediate_size": 32, "max_position_embeddings": 64},
    "causal_lm": {"model_type": "llama", "intermediate_size": 32, "max_position_embeddings": 64},
}
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 300}


def tokenizer(folder: Path, merges: int = 0) -> None:
    """A byte-level tokenizer of 259 tokens and `merges` more."""
    from fullbore.models.tokenizer import train
    from fullbore.spec.data import TokenizerSection

    section = TokenizerSection(vocabulary_size=max(260, 259 + merges))
    train(["def ab(): return 'ab ab ab'\n" * 9], section, folder)


def network(folder: Path, task: str) -> None:
    """A folder of transformers with weights."""
    import torch
    import transformers

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**SHAPES[task], **SIZES}))
    door = {"masked_lm": transformers.AutoModelForMaskedLM, "causal_lm": transformers.AutoModelForCausalLM}[task]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        door.from_config(transformers.AutoConfig.from_pretrained(folder)).save_pretrained(folder)


def hub(bench: Bench, task: str = "causal_lm", steps: int = 20, seed: int = 0) -> Path:
    """A job over the user's own texts, tokenizer and network."""
    if not (bench.folder / "texts").exists():
        (bench.folder / "texts").mkdir()
        for number in range(40):
            (bench.folder / "texts" / f"{number}.txt").write_text(f"text {number} of forty, {number * number}\n" * 9)
        tokenizer(bench.folder / "words")
        network(bench.folder / "network", task)
    return bench.job(HUB.format(task=task, steps=steps, seed=seed), f"{task}-{steps}-{seed}.toml")


def test_a_run_goes_on_when_all_it_was_made_from_is_gone(bench: Bench) -> None:
    """Before its first checkpoint: the network starts from the weights that the folder held."""
    job = hub(bench, steps=3000)
    process = bench.start("run", job, "--name", "killed")
    bench.wait_for_run(process, "killed", "step", 3)
    kill(process)
    assert not list((bench.folder / "runs" / "killed" / "checkpoints").glob("step-*"))
    before = bench.losses("killed")
    for name in ("texts", "words", "network"):
        (bench.folder / name).rename(bench.folder / f"{name}-elsewhere")
    shutil.rmtree(bench.folder / "runs" / ".cache")
    process = bench.start("resume", "killed")
    bench.wait_for_run(process, "killed", "step", len(before) + 20)
    process.terminate()
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert not (bench.folder / "texts").exists()
    again = [event for event in bench.events("killed", "step") if event["step"] in before]
    assert {event["loss"] for event in again} == set(before.values())


def test_a_network_changed_under_a_run_does_not_change_it(bench: Bench) -> None:
    whole = bench.done("run", hub(bench, steps=10), "--name", "whole")
    base = artifact.read(bench.folder / "runs" / "whole" / "artifacts" / "base", "base")
    weights = bench.folder / "network" / "model.safetensors"
    with open(weights, "r+b") as file:
        file.seek(-4, 2)
        file.write(np.float32(4).tobytes())
    assert artifact.verify(base) == []
    other = bench.done("run", bench.folder / "causal_lm-10-0.toml", "--name", "other")
    assert other["loss"] != whole["loss"]
    folder = json.loads((Path(other["model"]) / "config.json").read_text())["fullbore"]["model"]["folder"]
    assert folder == "."


def test_a_changed_tokenizer_is_seen_whatever_its_folder_is_called(bench: Bench) -> None:
    job = hub(bench, steps=2)
    bench.done("run", job, "--name", "first")
    shutil.rmtree(bench.folder / "words")
    tokenizer(bench.folder / "words", merges=9)
    bench.done("run", job, "--name", "second")
    sizes = [
        artifact.read(bench.folder / "runs" / name / "artifacts" / "tokenizer").info["vocabulary_size"]
        for name in ("first", "second")
    ]
    assert sizes[1] > sizes[0]


def test_masks_are_drawn_by_the_seed_anew_in_each_epoch_and_alike_when_judged(bench: Bench) -> None:
    from fullbore.base.paths import RunPaths
    from fullbore.flow import materials
    from fullbore.spec.load import load

    bench.done("run", hub(bench, "masked_lm", steps=2), "--name", "masked")
    job = load(hub(bench, "masked_lm", seed=7)).job
    prepared = materials.load(job, RunPaths(bench.folder / "runs" / "masked"))
    rows = prepared.shards.rows("train")
    with prepared.feed(0, 1) as feed:
        epochs: list[dict[int, list[int]]] = [{}, {}]
        for step in range(2 * rows // 8):
            batch = next(feed)
            for place, (row, labels) in enumerate(zip(feed.last_ids.tolist(), batch["labels"].tolist(), strict=True)):
                epochs[(step * 8 + place) // rows][row] = labels
    assert sum(epochs[0][row] == epochs[1][row] for row in epochs[1]) < len(epochs[1]) / 10
    judged = [[batch["labels"].tolist() for batch in prepared.judged("validation")] for _ in range(2)]
    assert judged[0] == judged[1]
    other = materials.load(load(hub(bench, "masked_lm", seed=8)).job, RunPaths(bench.folder / "runs" / "masked"))
    assert judged[0] != [batch["labels"].tolist() for batch in other.judged("validation")]


def test_packed_numbers_serve_either_task(bench: Bench) -> None:
    rows = np.random.default_rng(0).integers(0, 9, (300, 2))
    (bench.folder / "table.csv").write_text("a,b,sum\n" + "\n".join(f"{a},{b},{a + b}" for a, b in rows.tolist()))
    settings = ("--set", "data.label=sum", "--set", "data.validation=20%", "--set", "data.deduplicate=false")
    packed = bench.done("pack", "table.csv", "packed", *settings)
    assert packed["kept"] == 300 and packed["conflicting"] == 0
    for task, metric in (("regression", "mean_squared_error"), ("classification", "accuracy")):
        assert metric in bench.done("run", bench.job(TABLE.format(task=task)))["metrics"]


def test_packed_words_are_no_numbers(bench: Bench) -> None:
    (bench.folder / "table.csv").write_text("a,kind\n" + "\n".join(f"{row},{'ab'[row % 2]}" for row in range(50)))
    bench.done("pack", "table.csv", "packed", "--set", "data.label=kind")
    outcome = bench.run("run", bench.job(TABLE.format(task="regression")))
    assert outcome.code == 2 and "Traceback" not in outcome.stderr
    assert "packed was packed with 'a', 'b', expected numbers for task.kind = 'regression'" in outcome.stderr
    bench.done("pack", "table.csv", "packed", "--set", 'data.exclude=["none"]', "--set", "data.text=kind")
    outcome = bench.run("run", bench.job(TABLE.format(task="classification")))
    assert outcome.code == 2
    assert "packed was packed with no labels, expected a label for task.kind = 'classification'" in outcome.stderr
    assert "data.label=…" in outcome.stderr


def test_conflicting_labels_are_told(bench: Bench) -> None:
    lines = [{"text": f"text {number // 2}", "label": "ab"[number % 2]} for number in range(40)]
    (bench.folder / "mail.jsonl").write_text("\n".join(map(json.dumps, [*lines, lines[0]])))
    outcome = bench.run("pack", "mail.jsonl", "packed", "--set", "data.label=label", "--json")
    assert outcome.code == 0, outcome.stderr
    assert (outcome.answer["kept"], outcome.answer["duplicates"], outcome.answer["conflicting"]) == (40, 1, 20)
    assert "20 with the inputs of another and a different label" in outcome.answer["summary"]


def test_nothing_to_stop_early_by(bench: Bench) -> None:
    text = TINY.replace('baselines = ["bigram", "trigram"]', "").replace('"20%"', '"0.0001%"')
    outcome = bench.run("run", bench.job(text), "--set", "train.early_stopping=3")
    assert outcome.code == 2
    assert "train.early_stopping: there are no validation samples to judge by" in outcome.stderr
    assert "raise data.validation" in outcome.stderr
