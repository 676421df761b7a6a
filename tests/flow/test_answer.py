"""The last stage of a run: whatever the model's context and the server's limits are, it is asked what it can answer."""

from __future__ import annotations

import numpy as np
import pytest
import simplejpeg

from tests.flow.conftest import TINY, Bench

pytestmark = pytest.mark.slow

SHORT = TINY.replace("sequence_length = 32", "sequence_length = 16").replace('"30 steps"', '"2 steps"')
SHORT = SHORT.replace("[compress]\nsamples = 64\n", "").replace("prompt_tokens = 8\n", "")

PICTURES = """
name = "pictures"
[data]
source = "pictures"
validation = "25%"
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
[serve]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A bench with pictures of 16 × 16 pixels in it, whose caches the tests here share."""
    bench = Bench(tmp_path_factory.mktemp("answers"))
    random = np.random.default_rng(0)
    for number in range(32):
        folder = bench.folder / "pictures" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(100, 256, (16, 16, 3), dtype=np.uint8)
        (folder / f"{number}.jpg").write_bytes(simplejpeg.encode_jpeg(pixels))
    return bench


def test_a_short_context_gets_a_short_answer(made: Bench) -> None:
    """With [serve] at its defaults: 48 new tokens are asked for, 16 is all that the model reads."""
    asked = made.done("run", made.job(SHORT))["completion"]
    assert asked["prompt"] == "def "
    assert asked["usage"]["prompt_tokens"] < asked["usage"]["total_tokens"] <= 16


def test_a_prompt_longer_than_the_context_loses_its_beginning(made: Bench) -> None:
    prompt = "".join(f"def f{number}(): pass\n" for number in range(40))
    asked = made.done("run", made.job(SHORT), "--set", f"serve.prompt={prompt}")["completion"]
    assert asked["prompt"] and prompt.endswith(asked["prompt"])
    assert (asked["usage"]["prompt_tokens"], asked["usage"]["total_tokens"]) == (8, 16)


@pytest.mark.parametrize(("limit", "samples"), [("8MiB", 4), ("4KiB", 1)])
def test_as_many_samples_are_sent_as_the_body_limit_allows(made: Bench, limit: str, samples: int) -> None:
    asked = made.done("run", made.job(PICTURES), "--set", f"serve.body_bytes={limit}")["completion"]
    assert asked["prompt"] == f"{samples} validation samples (pixels)"
    assert len(asked["outputs"]["label"]) == samples


def test_a_sample_that_no_request_can_hold_is_told_and_the_run_goes_on_from_there(made: Bench) -> None:
    outcome = made.run("run", made.job(PICTURES), "--name", "large", "--set", "serve.body_bytes=1KiB")
    assert outcome.code == 1, outcome.stderr
    assert "serve: one sample makes a request of" in outcome.stderr
    assert "expected at most serve.body_bytes = 1024" in outcome.stderr
    assert "raise serve.body_bytes" in outcome.stderr and "fullbore resume large" in outcome.stderr
    job = made.folder / "runs" / "large" / "job.toml"
    job.write_text(job.read_text().replace("body_bytes = 1024", 'body_bytes = "8KiB"'))
    assert made.done("resume", "large")["completion"]["outputs"]["label"]


@pytest.mark.parametrize(
    ("text", "setting", "said"),
    [
        (
            SHORT,
            "serve.queue_tokens=4",
            "/v1/completions answered 400: 16 tokens in one request, the queue holds at most 4",
        ),
        (PICTURES, "serve.queue_tokens=2", "/infer answered 400: 4 tokens in one request, the queue holds at most 2"),
    ],
)
def test_what_the_server_refuses_ends_the_run_with_the_server_s_words(
    made: Bench, text: str, setting: str, said: str
) -> None:
    outcome = made.run("run", made.job(text), "--set", setting)
    assert outcome.code == 1, outcome.stderr
    assert "error: serve: " in outcome.stderr and said in outcome.stderr
    assert "change [serve] in " in outcome.stderr and "Traceback" not in outcome.stderr
