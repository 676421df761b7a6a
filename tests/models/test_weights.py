"""Model folders: everything comes back, damage is named, nothing of the past is needed."""

from __future__ import annotations

import copy
import errno
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fullbore.base.errors import CorruptError, InputError
from fullbore.models import quantized, tokenizer, weights
from fullbore.models.build import Sizes, build
from fullbore.models.supervised import Classification, answers
from fullbore.record import artifact
from fullbore.record.artifact import Artifact
from fullbore.spec.data import TokenizerSection
from fullbore.spec.model import DecoderModel, MLPModel, ModelSection, ResNetModel, TaskSection, TextCNNModel

CLASSIFY = TaskSection(kind="classification")
GENERATE = TaskSection(kind="causal_lm")
SIZES = Sizes(vocabulary_size=50, classes=3, features=5, image=(1, 14, 13), sequence_length=16)
DECODER = DecoderModel(kind="decoder", width=16, layers=1, heads=2)
SECTIONS: list[ModelSection] = [
    ResNetModel(kind="resnet", width=8, blocks=(1, 1)),
    TextCNNModel(kind="textcnn", width=8, filters=6),
    MLPModel(kind="mlp", hidden=(16, 8)),
]


def keep(module: nn.Module, out: Path, section: ModelSection, task: TaskSection, **info: object) -> Artifact:
    return weights.save(module, out, model=section, task=task, sizes=SIZES, tokenizer=None, info=info, parents=())


def batch(kind: str) -> dict[str, torch.Tensor]:
    source = np.random.default_rng(0)
    columns = {
        "resnet": {"pixels": source.integers(0, 256, (3, 14, 13), dtype=np.uint8)},
        "textcnn": {"tokens": [source.integers(0, 50, 6).astype(np.uint16) for _ in range(3)]},
        "mlp": {"features": source.normal(size=(3, 5)).astype(np.float32)},
    }
    return Classification().collate(columns[kind], np.arange(3))


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("variant", ["fp32", "bf16", "int8"])
def test_networks_come_back_in_every_variant(tmp_path: Path, section: ModelSection, variant: str) -> None:
    module = build(section, CLASSIFY, SIZES, seed=1).eval()
    if variant == "bf16":
        module.to(torch.bfloat16)
    if variant == "int8":
        quantized.quantize(module)
    statistics = {"mean": [0.0] * 5, "deviation": [1.0] * 5}
    saved = keep(
        module, tmp_path / "model", section, CLASSIFY, variant=variant, metrics={"accuracy": 0.9},
        data={"classes": ["a", "b", "c"], "statistics": statistics, "splits": {"much": 1}},
    )  # fmt: skip
    loaded = weights.load(tmp_path / "model")
    assert not loaded.module.training
    with torch.no_grad():
        assert torch.equal(answers(loaded.module, batch(section.kind)), answers(module, batch(section.kind)))
    assert loaded.model == section and loaded.task == CLASSIFY and loaded.sizes == SIZES
    assert loaded.classes == ("a", "b", "c") and loaded.statistics == statistics
    assert loaded.variant == variant and loaded.name == "model" and loaded.tokenizer is None
    assert loaded.artifact is not None and loaded.artifact.digest == saved.digest
    assert "data" not in saved.info and saved.info["metrics"] == {"accuracy": 0.9}
    whole = sum(parameter.numel() for parameter in build(section, CLASSIFY, SIZES, seed=1).parameters())
    assert saved.info["parameters"] == whole
    assert {parameter.dtype for parameter in loaded.module.parameters()} == {p.dtype for p in module.parameters()}


def test_a_decoder_in_int8_comes_back_and_is_no_llama_for_transformers(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    module = build(DECODER, GENERATE, SIZES, seed=1).eval()
    exact = copy.deepcopy(module)
    quantized.quantize(module)
    keep(module, tmp_path / "m", DECODER, GENERATE, variant="int8")
    loaded = weights.load(tmp_path / "m")
    tokens = torch.arange(12).view(2, 6)
    with torch.no_grad():
        assert torch.equal(loaded.module(tokens), module(tokens))
        torch.testing.assert_close(loaded.module(tokens), exact(tokens), rtol=0.1, atol=0.02)
    with pytest.raises(ValueError, match="fullbore-int8"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "m")


def test_the_tokenizer_comes_along(tmp_path: Path) -> None:
    made = tokenizer.train(["some text to learn from"], TokenizerSection(vocabulary_size=270), tmp_path / "t")
    sizes = Sizes(vocabulary_size=tokenizer.load(made.folder).vocabulary_size, sequence_length=16)
    module = build(DECODER, GENERATE, sizes, seed=0)
    saved = weights.save(
        module,
        tmp_path / "m",
        model=DECODER,
        task=GENERATE,
        sizes=sizes,
        tokenizer=made.folder,
        info={},
        parents=[made],
    )
    loaded = weights.load(tmp_path / "m")
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("some text")) == "some text"
    assert saved.parents == (made.as_parent(),)
    config = json.loads((tmp_path / "m/config.json").read_text())
    assert (config["eos_token_id"], config["pad_token_id"]) == (0, 1)


def test_equal_networks_are_equal_files(tmp_path: Path) -> None:
    digests = {
        keep(build(DECODER, GENERATE, SIZES, seed=2), tmp_path / name, DECODER, GENERATE).digest for name in ("a", "b")
    }
    assert len(digests) == 1


def test_loading_does_not_draw_from_the_generator(tmp_path: Path) -> None:
    for section in SECTIONS:
        keep(build(section, CLASSIFY, SIZES, seed=0), tmp_path / section.kind, section, CLASSIFY)
        before = torch.get_rng_state()
        weights.load(tmp_path / section.kind)
        assert torch.equal(before, torch.get_rng_state())


def _saved(tmp_path: Path) -> Path:
    return keep(build(DECODER, GENERATE, SIZES, seed=0), tmp_path / "m", DECODER, GENERATE).folder


def test_a_file_cut_short_is_named(tmp_path: Path) -> None:
    path = _saved(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CorruptError, match=r"model\.safetensors"):
        weights.load(path.parent)
    (path.parent / artifact.MANIFEST).unlink()
    with pytest.raises(CorruptError, match=r"model\.safetensors"):
        weights.load(path.parent)


def test_weights_of_another_model_are_named(tmp_path: Path) -> None:
    folder = _saved(tmp_path)
    (folder / artifact.MANIFEST).unlink()
    config = json.loads((folder / "config.json").read_text())
    config["fullbore"]["model"]["layers"] = 2
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CorruptError, match=r"model\.layers\.1"):
        weights.load(folder)
    config["fullbore"]["model"] = {"kind": "decoder", "wdith": 4}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="wdith"):
        weights.load(folder)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = _saved(tmp_path)
    (folder / artifact.MANIFEST).unlink()
    (folder / "model.safetensors").write_bytes(pickle.dumps({"w": 1}, 4))
    with pytest.raises(InputError, match="pickled"):
        weights.load(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin"):
        weights.load(folder)


def test_what_is_no_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        weights.load(tmp_path)
    with pytest.raises(InputError, match="holds 'tokenizer'"):
        tokenizer.train(["text"], TokenizerSection(vocabulary_size=270), tmp_path / "t")
        weights.load(tmp_path / "t")


def test_a_file_that_may_not_grow_is_named(tmp_path: Path) -> None:
    """As on a full disk, in a process whose files may hold 4 KiB."""
    code = (
        "import resource, signal, sys, torch; from pathlib import Path; from fullbore.models import weights\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: weights._write_weights(torch.nn.Linear(64, 64), Path(sys.argv[1]))\n"
        "except OSError as error: print(error.errno, error.filename)"
    )
    target = tmp_path / "model.safetensors"
    done = subprocess.run([sys.executable, "-c", code, target], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(errno.EFBIG), str(target)], done.stderr
