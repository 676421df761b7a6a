"""The compress stage of real runs: which samples it takes, and what becomes of a run whose variants cannot be kept."""

from __future__ import annotations

import json
import signal
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from tests.flow.conftest import Bench

from fullbore.base.paths import RunPaths
from fullbore.flow import materials, shrink
from fullbore.record import artifact
from fullbore.spec.load import load

pytestmark = pytest.mark.slow

PICTURES = """
name = "pictures"
[data]
source = "{source}"
format = "images"
deduplicate = false
validation = 0
[task]
kind = "classification"
[model]
kind = "resnet"
width = 4
blocks = [1]
[train]
budget = "2 steps"
global_batch_size = 8
threads = 1
precision = "fp32"
[compress]
[serve]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A bench whose pictures say their split themselves, the caches shared.

    `halves`: 24 to train on, 8 to judge, of which 3 are to train on too. `copies`: the same 8 for both. `unjudged`: 24
    to train on, no others.
    """
    bench = Bench(tmp_path_factory.mktemp("shrink"))
    for number in range(29):
        picture(bench, "halves/train" if number < 24 else "halves/val", number)
    for number in range(3):
        picture(bench, "halves/val", number)
    for number in range(8):
        picture(bench, "copies/train", number)
        picture(bench, "copies/val", number)
    for number in range(24):
        picture(bench, "unjudged/train", number)
    return bench


def picture(bench: Bench, folder: str, number: int) -> None:
    path: Path = bench.folder / folder / "ab"[number % 2] / f"{number}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    path.write_bytes(simplejpeg.encode_jpeg(pixels))


def test_a_sample_that_judges_never_calibrates_whatever_split_it_is_also_in(made: Bench) -> None:
    result = made.done("run", made.job(PICTURES.format(source="halves")), "--name", "halves")
    assert {row["variant"] for row in result["compression"]} == {"fp32", "bf16", "int8"}
    paths = RunPaths(made.folder / "runs" / "halves")
    prepared = materials.load(load(paths.job).job, paths)
    judged = shrink.pick(prepared, "validation", 256)
    everything = shrink.pick(prepared, "train", 256)
    assert (len(judged.contents), len(everything.contents)) == (8, 24)
    assert len(set(judged.contents) & set(everything.contents)) == 3
    calibrating = shrink.pick(prepared, "train", 256, besides=judged.contents)
    assert calibrating.contents == [one for one in everything.contents if one not in judged.contents]
    assert [len(batch["pixels"]) for batch in calibrating.batches] == [21]
    assert len(shrink.pick(prepared, "train", 7, besides=judged.contents).contents) == 7


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("unjudged", "no samples to judge variants on, the validation and the test split are empty"),
        ("copies", "no samples to calibrate with, all of the training split are in validation too"),
    ],
)
def test_without_samples_that_could_tell_the_trained_model_is_kept_with_a_warning(
    made: Bench, source: str, said: str
) -> None:
    result = made.done("run", made.job(PICTURES.format(source=source)), "--name", source)
    assert [text for text in result["warnings"] if said in text and "the trained model is kept in fp32" in text]
    assert "compression" not in result
    assert artifact.read(Path(result["model"]), "model").info["variant"] == "fp32"
    assert result["completion"]["outputs"]["label"]
    alone = made.run("compress", source)
    assert alone.code == 2 and said in alone.stderr and "Traceback" not in alone.stderr


def test_a_gate_that_nothing_passes_ends_with_5_and_the_trained_model_serves(made: Bench) -> None:
    """Without linear layers below the head there is nothing for int8 to do, and fp32 is left out."""
    job = made.job(PICTURES.format(source="halves").replace("[compress]", '[compress]\nvariants = ["int8"]'))
    outcome = made.run("run", job, "--name", "gated")
    assert outcome.code == 5, outcome.stderr
    assert "no variant qualifies (compress.max_drop = 0.50%)" in outcome.stderr
    assert "int8: it has no linear layers below its head" in outcome.stderr
    assert "fullbore serve gated serves the trained model" in outcome.stderr and "Traceback" not in outcome.stderr
    result = made.result("gated")
    assert (result["status"], result["error"]["kind"]) == ("failed", "GateFailed")
    alone = made.run("compress", "gated")
    assert alone.code == 5 and "int8: it has no linear layers" in alone.stderr
    process = made.start("serve", "gated", "--json", "--set", "serve.port=0")
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())["url"]
    with urllib.request.urlopen(f"{url}/v2/models/pictures") as answer:
        assert json.load(answer)["inputs"][0]["name"] == "pixels"
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 0
    assert made.done("compress", "gated", "--set", "compress.variants=['fp32', 'int8']")["chosen"]["variant"] == "fp32"
