"""What users and machines do wrong, met by the real program: it says what, where and what to do, and loses nothing."""

from __future__ import annotations

import os
import random
import resource
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch

from fullbore.base.errors import InputError
from fullbore.record import artifact
from tests.flow.conftest import FULLBORE, TINY, Bench, Outcome, kill

pytestmark = pytest.mark.slow

PICTURES = """
name = "pictures"
[data]
source = "pictures"
validation = "25%"
error_budget = "5%"
[task]
kind = "classification"
[model]
kind = "resnet"
width = 4
blocks = [1]
[train]
budget = "12 steps"
global_batch_size = 8
threads = 1
precision = "fp32"
evaluate_every = 3
checkpoint_every = 2
"""


PACKING = (
    *("--set", 'data.include=["json/*.py", "email/*.py"]'),
    *("--set", "data.shard_bytes=16KiB"),
    *("--set", "data.validation=20%"),
)


def refused(bench: Bench, outcome: Outcome, code: int, *said: str) -> None:
    """It ended with `code` and these words, without a traceback, and left nothing half written."""
    assert outcome.code == code, outcome.stderr
    for words in said:
        assert words in outcome.stderr, (words, outcome.stderr)
    assert "Traceback" not in outcome.stderr and "fault of fullbore" not in outcome.stderr
    assert leftovers(bench.folder) == []


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith((".tmp", ".next"))]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A bench whose caches the tests here share; jobs in it begin with what is prepared already."""
    return Bench(tmp_path_factory.mktemp("bad-input"))


def test_mistakes_in_a_job_come_at_once_and_start_nothing(bench: Bench) -> None:
    wrong = TINY.replace("heads = 2", "heads = 3").replace("budget", "buget").replace("threads = 1", 'threads = "one"')
    outcome = bench.run("run", bench.job(wrong))
    refused(
        bench,
        outcome,
        2,
        "train.buget: unknown key; did you mean budget?",
        'train.threads: found "one", expected auto or a whole number above 0',
        "model.heads: 3 does not divide model.width = 32",
    )
    assert all(line.startswith(str(bench.folder / "job.toml:")) for line in outcome.stderr.splitlines())
    assert [path.name for path in bench.folder.iterdir()] == ["job.toml"]


def test_a_missing_source(tiny: Bench) -> None:
    before = tiny.runs()
    outcome = tiny.run("run", tiny.job(), "--set", "data.source=nowhere")
    refused(tiny, outcome, 2, "--set data.source: nowhere: no such file or folder", f"looked in {tiny.folder}")
    assert tiny.runs() == before


def test_paths_that_lead_nowhere_are_named_at_once_with_their_lines(bench: Bench) -> None:
    wrong = TINY.replace("python://stdlib", "nowhere").replace(
        "vocabulary_size = 300", 'kind = "folder"\nfolder = "no-tokenizer"'
    )
    wrong = wrong.replace(
        'kind = "decoder"\nwidth = 32\nlayers = 2\nheads = 2', 'kind = "transformers"\nfolder = "no-model"'
    )
    job = bench.job(wrong)
    outcome = bench.run("run", job)
    refused(bench, outcome, 2)
    assert outcome.stderr.splitlines()[:3] == [
        f"{job}:4 data.source: nowhere: no such file or folder",
        f"{job}:10 tokenizer.folder: no-tokenizer: neither tokenizer.json nor vocab.txt is there",
        f"{job}:16 model.folder: no-model: no config.json is there",
    ]
    assert bench.runs() == []
    assert bench.run("check", job).stderr == outcome.stderr


def test_a_source_that_cannot_be_read(tiny: Bench) -> None:
    """A socket among the files: who opens it is refused, root too."""
    folder = tiny.folder / "unreadable"
    folder.mkdir()
    (folder / "a.py").write_text("print('a good one')\n")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(folder / "b.py"))
        outcome = tiny.run("run", tiny.job(), "--set", "data.source=unreadable", "--set", 'data.include=["*.py"]')
    refused(tiny, outcome, 2, "unreadable/b.py: cannot be read (No such device or address)", "who may read it")


def test_a_link_that_leads_nowhere(tiny: Bench) -> None:
    folder = tiny.folder / "links"
    folder.mkdir()
    (folder / "gone.py").symlink_to("away.py")
    outcome = tiny.run("pack", folder, tiny.folder / "packed-links")
    refused(tiny, outcome, 2, "gone.py: cannot be read (No such file or directory)")
    assert not (tiny.folder / "packed-links").exists()


@pytest.mark.parametrize(
    ("content", "said"), [(None, "no files to read"), ("", "the data set is empty (1 samples read")]
)
def test_an_empty_data_set(tiny: Bench, content: str | None, said: str) -> None:
    folder = tiny.folder / ("empty" if content is None else "blank")
    folder.mkdir()
    if content is not None:
        (folder / "a.py").write_text(content)
    job = tiny.job(TINY.replace("python://stdlib", folder.name).replace('"json/*.py", "email/*.py", "http/*.py"', ""))
    before = tiny.runs()
    refused(tiny, tiny.run("run", job), 2, folder.name, said, "data.include")
    if content is None:
        assert tiny.runs() == before
    else:
        assert tiny.done("runs", "ls")["runs"][-1]["status"] == "failed"


@pytest.fixture(scope="module")
def packed(tiny: Bench) -> Path:
    """Shards that `pack` wrote, several of them."""
    folder = tiny.folder / "packed"
    tiny.done("pack", "python://stdlib", folder, *PACKING)
    return folder


def test_a_damaged_shard_is_named(tiny: Bench, packed: Path) -> None:
    shard, job = sorted(packed.glob("train-*.arrow"))[1], tiny.job(TINY.split("[compress]")[0])
    whole = shard.read_bytes()
    flipped = whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:]
    for content, said in ((whole[: len(whole) // 2], "truncated"), (flipped, "xxh3")):
        shard.write_bytes(content)
        refused(tiny, tiny.run("run", job, "--set", f"data.source={packed}"), 2, str(shard), said, "run again")
        refused(tiny, tiny.run("inspect", packed, "--verify"), 2, str(shard), said)
    shard.write_bytes(whole)
    assert tiny.done("run", job, "--set", f"data.source={packed}", "--set", "train.budget=2 steps")["steps"] == 2


def test_a_folder_of_something_else_as_a_source(tiny: Bench, finished: tuple[Bench, dict[str, Any], Outcome]) -> None:
    model = Path(finished[1]["model"])
    outcome = tiny.run("run", tiny.job(), "--set", f"data.source={model}")
    refused(tiny, outcome, 2, str(model), "holds 'model', expected 'corpus'")


TABLE = """
name = "table"
[data]
source = "table.csv"
label = "last"
[task]
kind = "classification"
[model]
kind = "mlp"
[train]
budget = "2 steps"
"""


def test_numbers_to_predict_are_no_classes(bench: Bench) -> None:
    """Whether the run reads them itself or `pack` did, which knows nothing of the task."""
    rows = [f"{number},{25 + 3.5 * (number % 100)}" for number in range(200)]
    (bench.folder / "table.csv").write_text("\n".join(["x,progression", *rows]))
    said = ("data.label: found 100 distinct values in 200 samples (25.0, 28.5, 32.0, …), expected classes",
            'hint: task.kind = "regression"')  # fmt: skip
    refused(bench, bench.run("run", bench.job(TABLE), "--name", "numbers"), 2, *said)
    shown = bench.run("runs", "show", "numbers").stdout.splitlines()
    assert "error: data.label: found 100" in shown[3] and "hint: task.kind" in shown[4]
    bench.done("pack", "table.csv", "packed", "--set", "data.label=last")
    refused(bench, bench.run("run", bench.job(TABLE), "--set", "data.source=packed"), 2, *said)


def pictures(folder: Path, bad: int) -> None:
    """Forty pictures of two classes, `bad` of them damaged in turns: cut short, and no picture at all."""
    chance = np.random.default_rng(0)
    for number in range(40):
        path = folder / "pictures" / ("dark", "light")[number % 2] / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = (chance.integers(0, 60, (16, 16, 3)) + 160 * (number % 2)).astype(np.uint8)
        content = simplejpeg.encode_jpeg(image, quality=90)
        path.write_bytes(content if number >= bad else (content[: len(content) // 2], b"no picture")[number % 2])


def test_a_corrupt_jpeg_among_good_ones_is_left_out_and_named(bench: Bench) -> None:
    pictures(bench.folder, 2)
    outcome = bench.run("run", bench.job(PICTURES), "--name", "pictures", "--json")
    assert outcome.code == 0, outcome.stderr
    assert outcome.answer["steps"] == 12
    assert "38 of 40 samples kept" in outcome.stderr and "2 quarantined" in outcome.stderr
    corpus = bench.done("inspect", bench.folder / "runs" / "pictures" / "artifacts" / "corpus")["artifacts"][0]
    left_out = {entry["id"]: entry["reason"] for entry in corpus["info"]["quarantined"]}
    assert set(left_out) == {"dark/00.jpg#1", "light/01.jpg#1"} and all(left_out.values())


def test_too_many_corrupt_jpegs_stop_the_run(bench: Bench) -> None:
    pictures(bench.folder, 3)
    outcome = bench.run("run", bench.job(PICTURES))
    refused(
        bench, outcome, 2, "3 of 40 samples cannot be used", "error budget of 5", "dark/00.jpg", "data.error_budget"
    )


class Bomb:
    """Writes a file where somebody unpickles it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.mark,)


def test_pickled_weights_are_never_opened(bench: Bench) -> None:
    folder, mark = bench.folder / "pickled", bench.folder / "executed"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama", "hidden_size": 32, "vocab_size": 300}')
    torch.save({"weight": Bomb(mark)}, folder / "pytorch_model.bin")
    said = (f"{folder}/pytorch_model.bin: pickled weights", "expected safetensors", "save_file")
    refused(bench, bench.run("serve", folder), 2, *said)
    hub = TINY.replace(
        'kind = "decoder"\nwidth = 32\nlayers = 2\nheads = 2', f'kind = "transformers"\nfolder = "{folder}"'
    )
    refused(bench, bench.run("run", bench.job(hub)), 2, *said)
    assert not mark.exists()


def test_a_port_in_use(finished: tuple[Bench, dict[str, Any], Outcome]) -> None:
    bench = finished[0]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outcome = bench.run("serve", "tiny-run", "--set", f"serve.port={port}")
    refused(bench, outcome, 4, "serve.port", f":{port} is in use", "--set serve.port=")


def small_files() -> None:
    """A full disk, as far as one process can be given one without root: no file grows beyond 32 kB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (32_768, 32_768))


def test_a_full_disk_while_packing_leaves_nothing(bench: Bench) -> None:
    arguments = ("pack", "python://stdlib", bench.folder / "packed", "--set", 'data.include=["email/*.py"]')
    refused(bench, bench.run(*arguments, preexec_fn=small_files), 1, "no space left", "train-00000.arrow", "whole")
    assert not (bench.folder / "packed").exists()
    assert bench.done(*arguments)["kept"] > 10


CHECKPOINTS = TINY.replace('"30 steps"', '"120 steps"').replace("evaluate_every = 10", "evaluate_every = 60")


def test_a_full_disk_while_checkpointing_keeps_the_last_good_one(tiny: Bench) -> None:
    """The limit comes from outside while it trains; without it, the run goes on and ends with the same loss."""
    reference = tiny.done("run", tiny.job(CHECKPOINTS, "long.toml"))
    process = tiny.start("run", tiny.folder / "long.toml", "--name", "full")
    tiny.wait_for_run(process, "full", "checkpoint", 2)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in stderr and "fault of fullbore" not in stderr
    assert "the checkpoint of step" in stderr and "File too large" in stderr
    assert "fullbore resume full" in stderr or "resume the run" in stderr
    assert tiny.done("inspect", "full", "--verify")["verified"]
    result = tiny.done("resume", "full")
    assert result["loss"] == reference["loss"] and result["steps"] == 120
    assert tiny.losses("full") == tiny.losses(reference["run"])
    assert leftovers(tiny.folder / "runs" / "full") == []


@pytest.mark.real
def test_a_small_disk_runs_full_while_training(bench: Bench) -> None:
    """A tmpfs of its own (root) holds the runs folder: two checkpoints fit, a third only with more room."""
    job = bench.job(TINY.replace("width = 32", "width = 320"))
    (bench.folder / "runs").mkdir()
    script = (
        'mount -t tmpfs -o size=72m none runs || exit 9; "$0" run "$1" --name full; echo "ended $?"; '
        'mount -o remount,size=300m runs; "$0" inspect full --verify > /dev/null && echo intact; '
        '"$0" resume full --json | tail -1'
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, str(FULLBORE), str(job)],
        cwd=bench.folder, env=bench.environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    said = done.stdout.splitlines()
    assert "ended 1" in said and "intact" in said, done.stderr
    assert "No space left on device" in done.stderr and "Traceback" not in done.stderr
    assert '"status": "done"' in said[-1]


SEEDS = [*range(3), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(3, 33))]


def whole_or_absent(folder: Path) -> bool:
    try:
        return artifact.verify(artifact.read(folder)) == []
    except InputError:
        return not folder.exists()


@pytest.mark.parametrize("seed", SEEDS)
def test_pack_killed_at_a_random_moment(tiny: Bench, packed: Path, seed: int) -> None:
    out = tiny.folder / f"killed-{seed}" / "packed"
    arguments = ("pack", "python://stdlib", out, *PACKING)
    process = tiny.start(*arguments)
    wait_for_imports(process)
    time.sleep(random.Random(seed).uniform(0, 0.3))
    kill(process)
    assert whole_or_absent(out)
    assert tiny.done(*arguments)["digest"] == artifact.read(packed).digest
    assert leftovers(out.parent) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_compress_killed_at_a_random_moment(
    finished: tuple[Bench, dict[str, Any], Outcome], tmp_path: Path, seed: int
) -> None:
    bench, out = finished[0], tmp_path / "compressed"
    process = bench.start("compress", "tiny-run", "--out", out)
    wait_for_imports(process)
    time.sleep(random.Random(seed).uniform(0, 2.5))
    kill(process)
    assert whole_or_absent(out)
    assert {row["variant"] for row in bench.done("compress", "tiny-run", "--out", out)["compression"]} >= {"fp32"}
    assert artifact.verify(artifact.read(out, "model")) == []
    assert [path.name for path in tmp_path.iterdir()] == ["compressed"]
    assert bench.done("inspect", "tiny-run", "--verify")["verified"]


def wait_for_imports(process: subprocess.Popen[str]) -> None:
    """Return once pyarrow is mapped into the process: from there on it does what it was asked to."""
    while process.poll() is None and "libarrow" not in Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.01)
