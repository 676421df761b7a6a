"""Compression of real tiny models: what is written, what is rejected, and that nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fullbore.base.errors import GateFailed, InputError
from fullbore.compress import quantize, speed
from fullbore.compress import run as compression
from fullbore.compress.guard import Ratio
from fullbore.compress.run import Compression, Judgement
from fullbore.models import quantized, tasks, tokenizer, weights
from fullbore.models.build import Sizes, build
from fullbore.models.generate import generate
from fullbore.models.quantized import Int8Linear
from fullbore.perf.measure import proc
from fullbore.record import artifact
from fullbore.record.artifact import Artifact
from fullbore.record.progress import no_progress
from fullbore.record.span import Recorder
from fullbore.spec.compress import CompressSection
from fullbore.spec.data import TokenizerSection
from fullbore.spec.model import DecoderModel, MLPModel, ResNetModel, TaskSection

TEXTS = ["def add(a, b):\n    return a + b\n", "for each in range(10):\n    print(each)\n"] * 30
TARGETS = ("throughput", "latency")
Batch = dict[str, torch.Tensor]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Networks this small only lose by more."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compressed")


@pytest.fixture(scope="session")
def trained(folder: Path) -> Artifact:
    """A decoder that has learned two sentences a little, so that its loss is a quality that can be lost."""
    vocabulary = tokenizer.train(TEXTS, TokenizerSection(vocabulary_size=300), folder / "tokenizer").folder
    loaded = tokenizer.load(vocabulary)
    sizes = Sizes(vocabulary_size=loaded.vocabulary_size, sequence_length=64)
    section, task = DecoderModel(kind="decoder", width=64, layers=2, heads=2), TaskSection(kind="causal_lm")
    module = build(section, task, sizes, seed=0)
    job = tasks.task(task, {}, loaded)
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    for batch in batches(loaded, 40):
        optimizer.zero_grad()
        (job.loss(module, batch) / job.units(batch)).backward()
        optimizer.step()
    return weights.save(
        module,
        folder / "model",
        model=section,
        task=task,
        sizes=sizes,
        tokenizer=vocabulary,
        info={"metrics": {"loss": 1.0}},
        parents=(),
    )


def batches(vocabulary: tokenizer.Tokenizer, count: int, length: int = 32) -> list[Batch]:
    stream = np.concatenate(vocabulary.encode_batch(TEXTS))
    starts = np.random.default_rng(0).integers(0, len(stream) - length - 1, (count, 8))
    rows = [np.stack([stream[start : start + length + 1] for start in row]) for row in starts]
    return [{"tokens": torch.from_numpy(row.astype(np.int32))} for row in rows]


def judging(model: Artifact, judged: Sequence[Batch]) -> Callable[[nn.Module], Judgement]:
    loaded = weights.load(model.folder)
    task = tasks.task(loaded.task, {"class_counts": [1]}, loaded.tokenizer)

    def judge(module: nn.Module) -> Judgement:
        sums: dict[str, float] = {}
        for batch in judged:
            for key, value in task.judge(module, batch).items():
                sums[key] = sums.get(key, 0.0) + value
        scores = np.concatenate([task.judge_each(module, batch) for batch in judged])
        return Judgement(task.metric, task.metrics(sums)[task.metric], task.higher_is_better, scores)

    return judge


def compress(
    model: Artifact, out: Path, data: Sequence[Batch], contents: Any = ((), ()), **section: Any
) -> Compression:
    return compression.run(
        model,
        CompressSection.model_validate(section),
        judge=judging(model, data[: len(data) // 2]),
        calibration=data[len(data) // 2 :],
        speed=data[:1],
        out=out,
        recorder=Recorder(),
        progress=no_progress,
        judged_contents=contents[0],
        calibration_contents=contents[1],
    )


@pytest.fixture
def data(folder: Path, trained: Artifact) -> list[Batch]:
    return batches(tokenizer.load(folder / "tokenizer"), 8)


@pytest.fixture
def always_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timings on a busy machine decide nothing here: each later variant is twice as fast as the one before."""

    def compare(networks: Any, *_: Any, **__: Any) -> dict[str, speed.Speed]:
        times = {name: 2.0**index for index, name in enumerate(networks)}
        return {
            name: speed.Speed(100 * t, (99 * t, 101 * t), 1 / t, 1, 5, dict.fromkeys(TARGETS, Ratio(t, t, t)))
            for name, t in times.items()
        }

    monkeypatch.setattr(speed, "compare", compare)
    monkeypatch.setattr(quantize.Layer, "pays", lambda self, needs_speed: self.error <= 0.05)


def test_every_variant_is_measured_and_the_chosen_one_is_written(
    trained: Artifact, data: list[Batch], tmp_path: Path
) -> None:
    found = compress(trained, tmp_path / "out", data)
    assert [row.variant for row in found.table] == ["fp32", "bf16", "int8"]
    for row in found.table:
        assert row.reason
        if row.value is not None:
            assert row.samples_per_second > 0 and row.latency_ms > 0 and row.bytes > 0
            assert row.spread is not None and row.spread[0] <= row.samples_per_second <= row.spread[1]
            assert row.threads >= 1
            assert row.interval is not None and row.interval[0] <= row.interval[1]
    written = artifact.require_intact(artifact.read(tmp_path / "out", "model"))
    assert written.parents == (trained.as_parent(),)
    assert written.info["variant"] == found.chosen.variant
    assert len(written.info["evidence"]["table"]) == 3
    assert written.info["evidence"]["samples"] == 32
    assert set(written.files) >= {"model.safetensors", "config.json", "tokenizer.json"}


@pytest.mark.usefixtures("always_faster")
@pytest.mark.parametrize("variant", ["fp32", "bf16", "int8"])
def test_what_is_written_loads_back_with_equal_outputs(
    trained: Artifact, data: list[Batch], tmp_path: Path, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[str, nn.Module] = {}
    build_variant = quantize.build

    def build_and_keep(name: str, *arguments: Any, **rest: Any) -> quantize.Variant:
        made = build_variant(name, *arguments, **rest)
        kept[name] = made.module
        return made

    monkeypatch.setattr(quantize, "build", build_and_keep)
    found = compress(trained, tmp_path / "out", data, variants=[variant], max_drop=0.5)
    assert found.chosen.variant == variant
    loaded = weights.load(found.artifact.folder)
    assert loaded.variant == variant
    tokens = data[0]["tokens"][:, :-1]
    with torch.inference_mode():
        assert torch.equal(loaded.module(tokens), kept[variant](tokens))
    prompt = tokens[0, :5].tolist()
    assert list(generate(loaded.module, prompt, max_tokens=10)) == list(generate(kept[variant], prompt, max_tokens=10))


@pytest.mark.usefixtures("always_faster")
def test_int8_is_smaller_and_keeps_embeddings_and_head(trained: Artifact, data: list[Batch], tmp_path: Path) -> None:
    found = compress(trained, tmp_path / "out", data, max_drop=0.5)
    sizes = {row.variant: row.bytes for row in found.table}
    assert sizes["int8"] < sizes["bf16"] < sizes["fp32"]
    module = weights.load(found.artifact.folder).module
    assert sum(isinstance(layer, Int8Linear) for layer in module.modules()) == 14
    assert module.get_parameter("model.embed_tokens.weight").dtype in (torch.bfloat16, torch.float32)


@pytest.mark.usefixtures("always_faster")
def test_a_damaged_variant_is_rejected_with_its_reason(
    trained: Artifact, data: list[Batch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    intact = Int8Linear.from_linear

    def damage(linear: nn.Linear) -> Int8Linear:
        made = intact(linear)
        made.scale *= 1 + 0.5 * torch.randn(made.scale.shape, generator=torch.Generator().manual_seed(0))
        return made

    fine = compress(trained, tmp_path / "fine", data, max_drop=0.02)
    assert fine.chosen.variant == "int8"
    monkeypatch.setattr(quantize, "inspect", lambda *_: [quantize.Layer(n, 0.0, 2.0) for n in fine_layers(trained)])
    monkeypatch.setattr(Int8Linear, "from_linear", damage)
    found = compress(trained, tmp_path / "out", data, max_drop=0.02)
    rejected = next(row for row in found.table if row.variant == "int8")
    assert not rejected.kept
    assert rejected.drop is not None and rejected.drop > 0.02
    assert "worse" in rejected.reason and "at most 2.00% is allowed" in rejected.reason
    assert found.chosen.variant == "bf16"
    assert artifact.read(tmp_path / "out").info["variant"] == "bf16"


@pytest.mark.usefixtures("always_faster")
def test_without_fp32_a_limit_that_nothing_meets_fails_and_leaves_the_model(
    trained: Artifact, data: list[Batch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_variant = quantize.build

    def damaged(name: str, *arguments: Any, **rest: Any) -> quantize.Variant:
        made = build_variant(name, *arguments, **rest)
        if name != "fp32":
            with torch.no_grad():
                made.module.get_parameter("model.embed_tokens.weight").mul_(-1)
        return made

    monkeypatch.setattr(quantize, "build", damaged)
    with pytest.raises(GateFailed) as failed:
        compress(trained, tmp_path / "out", data, variants=["bf16", "int8"], max_drop=0.01)
    told = failed.value.message.splitlines()
    assert "compress.max_drop = 1.00%" in told[0] and "compress.variants leaves fp32 out" in told[0]
    assert [line.split(":")[0].strip() for line in told[1:]] == ["bf16", "int8"]
    assert all("% worse" in line and "at most 1.00% is allowed" in line for line in told[1:])
    assert failed.value.exit_code == 5
    assert list(tmp_path.iterdir()) == []
    artifact.require_intact(trained)
    with_fp32 = compress(trained, tmp_path / "out", data, max_drop=0.01)
    assert with_fp32.chosen.variant == "fp32"


def fine_layers(model: Artifact) -> list[str]:
    return quantized.linears(weights.load(model.folder).module)


def test_a_layer_that_int8_hurts_stays_as_it_is(trained: Artifact, data: list[Batch]) -> None:
    """One output channel of one layer reads inputs that differ by four orders of magnitude."""
    module = weights.load(trained.folder).module
    name = "model.layers.0.mlp.down_proj"
    with torch.no_grad():
        module.get_parameter("model.layers.0.mlp.up_proj.weight")[0] *= 1e4
        module.get_parameter(f"{name}.weight")[:, 0] = 0

    def calibrate(network: nn.Module) -> None:
        speed.answer(network, data[0], "causal_lm")

    errors = {layer.name: layer.error for layer in quantize.inspect(module, calibrate)}
    assert errors[name] > 0.05 > max(error for other, error in errors.items() if other != name)
    made = quantize.build("int8", module, calibrate, needs_speed=False, base=torch.float32)
    assert type(made.module.get_submodule(name)) is nn.Linear
    assert made.note == "13 of 14 linear layers in int8, the rest in fp32"
    assert type(module.get_submodule("model.layers.0.mlp.up_proj")) is nn.Linear


def test_a_convolutional_network_says_that_int8_has_nothing_to_do(tmp_path: Path) -> None:
    section, task = ResNetModel(kind="resnet", width=4, blocks=(1,)), TaskSection(kind="classification")
    sizes = Sizes(classes=3, image=(1, 8, 8))
    module = build(section, task, sizes, seed=0).eval()
    model = weights.save(
        module, tmp_path / "m", model=section, task=task, sizes=sizes, tokenizer=None, info={}, parents=()
    )
    generator = torch.Generator().manual_seed(0)
    data = [
        {
            "pixels": torch.randint(0, 256, (16, 1, 8, 8), dtype=torch.uint8, generator=generator),
            "label": torch.randint(0, 3, (16,), generator=generator),
        }
        for _ in range(4)
    ]
    found = compress(model, tmp_path / "out", data, max_drop=1.0)
    int8 = next(row for row in found.table if row.variant == "int8")
    assert (int8.kept, int8.value) == (False, None)
    assert int8.reason == "it has no linear layers below its head; convolutions are not quantised"


def test_classes_and_statistics_go_along(tmp_path: Path) -> None:
    section, task = MLPModel(kind="mlp", hidden=(32, 32)), TaskSection(kind="classification")
    sizes = Sizes(features=4, classes=2)
    info = {"classes": ["a", "b"], "statistics": {"mean": [1.0] * 4, "deviation": [2.0] * 4}}
    model = weights.save(
        build(section, task, sizes, seed=0),
        tmp_path / "m",
        model=section,
        task=task,
        sizes=sizes,
        tokenizer=None,
        info=info,
        parents=(),
    )
    generator = torch.Generator().manual_seed(0)
    data = [
        {"features": torch.randn(16, 4, generator=generator), "label": torch.zeros(16, dtype=torch.int64)}
        for _ in range(2)
    ]
    found = compress(model, tmp_path / "out", data, target="size", max_drop=1.0)
    loaded = weights.load(found.artifact.folder)
    assert found.chosen.variant == "int8"
    assert loaded.classes == ("a", "b")
    assert loaded.statistics == info["statistics"]


@pytest.mark.usefixtures("always_faster")
def test_every_calibration_sample_counts(tmp_path: Path) -> None:
    """What int8 cannot stand shows in the last batch only: a feature that is large and that no weight reads."""
    section, task = MLPModel(kind="mlp", hidden=(32, 32)), TaskSection(kind="regression")
    sizes = Sizes(features=4)
    module = build(section, task, sizes, seed=0)
    with torch.no_grad():
        module.get_parameter("layers.0.weight")[:, 3] = 0
    model = weights.save(
        module, tmp_path / "m", model=section, task=task, sizes=sizes, tokenizer=None, info={}, parents=()
    )
    generator = torch.Generator().manual_seed(0)

    def batch() -> Batch:
        return {"features": torch.randn(16, 4, generator=generator), "target": torch.zeros(16)}

    usual, odd = [batch() for _ in range(4)], batch()
    odd["features"][:, 3] = 1e4
    notes = {}
    for name, last in (("usual", batch()), ("odd", odd)):
        found = compress(model, tmp_path / name, [*usual, *usual[:3], last], max_drop=1.0)
        notes[name] = next(row.reason for row in found.table if row.variant == "int8").rsplit("; ", 1)[1]
    assert notes["usual"].startswith("2 of 2 linear layers in int8")
    assert notes["odd"].startswith("1 of 2 linear layers in int8")


class Sleeper(nn.Module):
    """Answers in a time that depends on the threads."""

    def __init__(self, seconds: dict[int, float]) -> None:
        super().__init__()
        self.seconds = seconds
        self.used: list[int] = []

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        self.used.append(torch.get_num_threads())
        time.sleep(self.seconds[self.used[-1]])
        return features


def test_each_network_is_timed_with_the_threads_that_suit_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "core_count", lambda: 2)
    monkeypatch.setattr(speed, "answers", lambda module, batch: module(batch["features"]))
    before = torch.get_num_threads()
    networks = {"alone": Sleeper({1: 0.001, 2: 0.02}), "together": Sleeper({1: 0.02, 2: 0.0005})}
    found = speed.compare(networks, [{"features": torch.zeros(4, 2)}], "regression", rounds=(3, 50), limit=0.02)
    assert {name: each.threads for name, each in found.items()} == {"alone": 1, "together": 2}
    assert all(set(each.used[6:]) == {found[name].threads} for name, each in networks.items())
    assert 3 <= found["alone"].rounds < 50, "no round is begun when the time is over"
    ratio = found["together"].speedup["throughput"]
    assert ratio.low <= ratio.middle <= ratio.high and found["alone"].speedup["latency"] == Ratio(1, 1, 1)
    assert torch.get_num_threads() == before


def test_samples_may_not_both_calibrate_and_judge(trained: Artifact, data: list[Batch], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 samples both calibrate and judge, expected none"):
        compress(trained, tmp_path / "out", data, contents=([b"6", b"7"], [b"7", b"8"]))
    with pytest.raises(InputError, match="no samples"):
        compress(trained, tmp_path / "out", [])
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_compress as test
from fullbore.base import files
from fullbore.models import tokenizer
from fullbore.record import artifact
folder, out, when = Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
data = test.batches(tokenizer.load(folder / "tokenizer"), 8)
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
if when == "sealing":
    artifact.seal = die
elif when == "moving":
    files.sync_file = die
else:
    test.quantize.build = die
test.compress(artifact.read(folder / "model", "model"), out, data)
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["building", "sealing", "moving"])
def test_a_kill_leaves_the_model_and_a_second_run_succeeds(
    folder: Path, trained: Artifact, data: list[Batch], tmp_path: Path, when: str
) -> None:
    out = tmp_path / "compressed"
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(folder), str(out), when]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    assert subprocess.run(command, check=False, env=environment).returncode == -signal.SIGKILL
    assert not out.exists()
    artifact.require_intact(trained)
    found = compress(trained, out, data)
    artifact.require_intact(found.artifact)
    assert [path.name for path in tmp_path.iterdir()] == ["compressed"]
