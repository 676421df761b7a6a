"""Any transformers architecture: from its config or its weights, with our methods."""

from __future__ import annotations

import copy
import json
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from architectures import write
from torch import Tensor

from fullbore.base.errors import InputError
from fullbore.models import weights
from fullbore.models.build import Sizes, build
from fullbore.models.hub import Hub
from fullbore.models.language import CausalLM, MaskedLM
from fullbore.spec.model import TaskSection, TransformersModel

SIZES = Sizes(vocabulary_size=60, classes=3, sequence_length=16)


def make(folder: Path, kind: str, *, pretrained: bool = False, seed: int = 0) -> Hub:
    section = TransformersModel(kind="transformers", folder=str(folder), pretrained=pretrained)
    module = build(section, TaskSection.model_validate({"kind": kind}), SIZES, seed)
    assert isinstance(module, Hub)
    return module.eval()


def tokens() -> Tensor:
    return torch.randint(0, 60, (2, 9), generator=torch.Generator().manual_seed(5), dtype=torch.int32)


@pytest.mark.parametrize(("name", "splits"), [("gpt2", True), ("qwen2", True), ("gemma2", False)])
def test_causal_models_have_a_head_that_can_be_cut_unless_they_bend_its_logits(
    tmp_path: Path, name: str, splits: bool
) -> None:
    module = make(write(tmp_path, name), "causal_lm")
    assert module.splits is splits
    with torch.no_grad():
        logits = module(tokens())
        assert logits.shape == (2, 9, 60)
        if splits:
            hidden = module.hidden(tokens())
            torch.testing.assert_close(torch.nn.functional.linear(hidden, module.head_weight, module.head_bias), logits)
    batch = {"tokens": tokens()}
    loss = CausalLM().loss(module, batch)
    exact = torch.nn.functional.cross_entropy(
        module(tokens()[:, :-1]).flatten(0, 1), tokens()[:, 1:].flatten().long(), reduction="sum"
    )
    torch.testing.assert_close(loss, exact, rtol=1e-4, atol=1e-4)
    loss.backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_a_masked_model_predicts_what_is_hidden(tmp_path: Path) -> None:
    module = make(write(tmp_path, "bert"), "masked_lm")
    assert module.splits
    asked = MaskedLM(60, 4, 0, (0, 4), 0.4, 9)
    batch = asked.collate({"tokens": tokens().numpy().astype(np.uint16)}, np.arange(2))
    chosen = batch["labels"] != -100
    logits = module(batch["tokens"], batch["attention_mask"])
    exact = torch.nn.functional.cross_entropy(logits[chosen], batch["labels"][chosen], reduction="sum")
    torch.testing.assert_close(asked.loss(module, batch), exact, rtol=1e-4, atol=1e-4)


def test_the_same_seed_starts_the_same_and_leaves_the_generator_alone(tmp_path: Path) -> None:
    folder = write(tmp_path, "bert")
    first = make(folder, "classification", seed=3).state_dict()
    before = torch.get_rng_state()
    second = make(folder, "classification", seed=3).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_pretrained_weights_are_read_and_a_new_head_is_drawn_from_the_seed(tmp_path: Path) -> None:
    encoder = make(write(tmp_path / "a", "bert"), "masked_lm", seed=1)
    encoder.network.save_pretrained(tmp_path / "b")
    one, two = (make(tmp_path / "b", "classification", pretrained=True, seed=seed) for seed in (5, 6))
    assert one.network.config.num_labels == 3
    same = encoder.network.bert.embeddings.word_embeddings.weight
    assert torch.equal(one.network.bert.embeddings.word_embeddings.weight, same)
    assert torch.equal(make(tmp_path / "b", "classification", pretrained=True, seed=5)(tokens()), one(tokens()))
    assert not torch.equal(one.network.classifier.weight, two.network.classifier.weight)


def test_a_copy_is_a_network_of_its_own(tmp_path: Path) -> None:
    module = make(write(tmp_path, "gpt2"), "causal_lm")
    copied = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        assert copied(tokens()).abs().sum() > 0
        assert copied.hidden(tokens()).shape == (2, 9, 16)
        assert module(tokens()).abs().sum() == 0


@pytest.mark.parametrize(
    ("name", "kind"), [("gpt2", "causal_lm"), ("bert", "masked_lm"), ("bert", "classification"), ("bert", "regression")]
)
def test_saved_and_loaded_again_by_us_and_by_transformers(tmp_path: Path, name: str, kind: str) -> None:
    import transformers

    from fullbore.models.hub import _DOORS

    folder = write(tmp_path / "source", name)
    module = make(folder, kind)
    section = TransformersModel(kind="transformers", folder=str(folder), pretrained=False)
    asked = TaskSection.model_validate({"kind": kind})
    out = tmp_path / "model"
    weights.save(module, out, model=section, task=asked, sizes=SIZES, tokenizer=None, info={}, parents=())
    (folder / "config.json").unlink()
    loaded = weights.load(out)
    with torch.no_grad():
        assert torch.equal(loaded.module(tokens()), module(tokens()))
    theirs = getattr(transformers, _DOORS[kind]).from_pretrained(out).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens().long()).logits, module(tokens()))
    half = copy.deepcopy(module).to(torch.bfloat16)
    narrow = weights.save(
        half,
        tmp_path / "half",
        model=section,
        task=asked,
        sizes=SIZES,
        tokenizer=None,
        info={"variant": "bf16"},
        parents=(),
    )
    assert narrow.files["model.safetensors"]["bytes"] < 0.6 * (out / "model.safetensors").stat().st_size
    with torch.no_grad():
        assert torch.equal(weights.load(narrow.folder).module(tokens()), half(tokens()))


def test_a_folder_of_transformers_loads_by_its_architecture(tmp_path: Path) -> None:
    module = make(write(tmp_path / "a", "bert", id2label={"0": "no", "1": "maybe", "2": "yes"}), "classification")
    module.network.save_pretrained(tmp_path / "b")
    loaded = weights.load(tmp_path / "b")
    assert loaded.task.kind == "classification"
    assert loaded.classes == ("no", "maybe", "yes")
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(tokens()), module(tokens()))


def test_code_beside_the_weights_is_never_executed(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    folder = write(tmp_path / "m", "bert", auto_map={"AutoModelForMaskedLM": "evil.Evil", "AutoConfig": "evil.Config"})
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')")
    with pytest.raises(InputError, match="auto_map"):
        make(folder, "masked_lm")
    with pytest.raises(InputError, match="auto_map"):
        weights.load(folder)
    assert not mark.exists()


def test_nothing_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    folder = write(tmp_path, "bert")
    make(folder, "masked_lm")
    with pytest.raises(InputError, match="no weights"):
        make(folder, "masked_lm", pretrained=True)


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"model_type": "nonsense"}, "nonsense"),
        ({"model_type": "vit", "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}, "vit"),
        ({"model_type": "bert", "hidden_size": "wide"}, "bert"),
    ],
)
def test_architectures_that_do_not_open(tmp_path: Path, config: dict[str, object], found: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=found):
        make(tmp_path, "masked_lm")


def test_an_unknown_purpose_is_named(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    write(tmp_path, "bert", architectures=["BertModel"])
    save_file({"w": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="BertModel"):
        weights.load(tmp_path)


def test_more_tokens_than_the_network_takes_are_refused_before_training(tmp_path: Path) -> None:
    make(write(tmp_path / "a", "bert"), "masked_lm").network.save_pretrained(tmp_path / "b")
    section, task = TransformersModel(kind="transformers", folder=str(tmp_path / "b")), TaskSection(kind="masked_lm")
    with pytest.raises(InputError, match=r"train\.sequence_length: found 65.*at most 64"):
        build(section, task, Sizes(vocabulary_size=60, sequence_length=65), seed=0)
    with pytest.raises(InputError, match="knows 60 tokens, and the tokenizer gives 61"):
        build(section, task, Sizes(vocabulary_size=61, sequence_length=64), seed=0)
