"""Encoders compute no padding, and answer and learn as if they did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from architectures import write
from torch import Tensor, nn

from fullbore.base.errors import InputError
from fullbore.models import execution
from fullbore.models.hub import Hub
from fullbore.models.language import MaskedLM
from fullbore.models.packing import packed_attention
from fullbore.models.supervised import Classification
from fullbore.spec.model import DecoderModel, ModelSection, TaskSection, TransformersModel

LENGTHS = (30, 3, 17, 8)


def build(folder: Path, name: str, kind: str = "classification", dropout: float = 0.0) -> Hub:
    settings = {"distilbert": {"dropout": dropout, "attention_dropout": dropout, "seq_classif_dropout": dropout}}.get(
        name, {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    )
    torch.manual_seed(0)
    hub = Hub.open(
        write(folder / name, name, **settings),
        kind,  # type: ignore[arg-type]
        outputs=3 if kind == "classification" else None,
        vocabulary_size=None,
        pretrained=False,
    )
    with torch.no_grad():
        for parameter in hub.parameters():
            parameter.normal_(0, 0.2)
    return hub.train()


def batch() -> dict[str, Tensor]:
    draw = np.random.default_rng(0)
    rows = [draw.integers(3, 60, size=length).astype(np.uint16) for length in LENGTHS]
    return Classification(pad=0).collate({"tokens": rows, "label": np.array([0, 1, 2, 1])}, np.arange(len(rows)))


def learned(hub: Hub, given: dict[str, Tensor]) -> tuple[float, list[Tensor | None]]:
    hub.zero_grad()
    loss = Classification().loss(hub, given)
    loss.backward()
    return loss.item(), [None if p.grad is None else p.grad.clone() for p in hub.parameters()]


def rows_of(hub: Hub, given: dict[str, Tensor]) -> set[int]:
    """How many rows the products inside the layers had."""
    seen: set[int] = set()

    def note(_: nn.Module, inputs: tuple[Tensor, ...], __: object) -> None:
        if inputs[0].ndim == 3:
            seen.add(inputs[0].shape[0] * inputs[0].shape[1])

    layers = next(module for module in hub.modules() if isinstance(module, nn.ModuleList))
    handles = [part.register_forward_hook(note) for part in layers.modules() if isinstance(part, nn.Linear)]
    hub(given["tokens"], given["attention_mask"])
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
def test_only_tokens_are_computed_and_gradients_are_those_of_the_padded_batch(tmp_path: Path, name: str) -> None:
    hub, given = build(tmp_path, name), batch()
    packing = hub._packing
    assert packing is not None
    assert rows_of(hub, given) == {sum(LENGTHS)}
    loss, gradients = learned(hub, given)
    hub._packing = None
    assert rows_of(hub, given) == {given["tokens"].numel()}
    expected, padded = learned(hub, given)
    assert loss == pytest.approx(expected, rel=1e-5)
    for one, other in zip(gradients, padded, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["modernbert", "mpnet"])
def test_architectures_whose_tokens_see_more_than_their_sample_stay_padded(tmp_path: Path, name: str) -> None:
    hub = build(tmp_path, name, "masked_lm")
    assert hub._packing is None
    given = batch()
    assert hub(given["tokens"], given["attention_mask"]).shape == (*given["tokens"].shape, 60)


def test_attention_that_is_set_is_taken_or_refused(tmp_path: Path) -> None:
    given, hub = batch(), build(tmp_path, "bert")
    for path, rows in (("fused", given["tokens"].numel()), ("packed", sum(LENGTHS)), ("auto", sum(LENGTHS))):
        execution.attend(hub, path)  # type: ignore[arg-type]
        assert rows_of(hub, given) == {rows}
    other = build(tmp_path, "mpnet", "masked_lm")
    with pytest.raises(InputError, match=r"train\.attention: found packed"):
        execution.attend(other, "packed")


def test_what_auto_takes_goes_by_the_architecture_the_task_and_the_length(tmp_path: Path) -> None:
    def path(section: ModelSection, task: str, length: int = 128) -> list[str | None]:
        found = execution.attention(section, TaskSection.model_validate({"kind": task}), length)
        return [None if found is None else found(precision) for precision in ("bf16", "fp32")]

    def hub(name: str) -> ModelSection:
        return TransformersModel(kind="transformers", folder=str(write(tmp_path / name, name)))

    decoder = DecoderModel(kind="decoder", width=32, layers=1, heads=4)
    assert path(decoder, "causal_lm") == ["plain", "fused"]
    assert path(decoder, "causal_lm", 1024) == ["fused", "fused"]
    assert path(decoder.model_copy(update={"key_value_heads": 2}), "causal_lm") == [None, None]
    assert path(hub("bert"), "classification") == ["packed", "packed"]
    assert path(hub("bert"), "masked_lm") == ["packed", "packed"]
    assert path(hub("mpnet"), "masked_lm") == [None, None]
    assert path(hub("gpt2"), "causal_lm") == [None, None]


def test_masked_models_learn_the_same_packed(tmp_path: Path) -> None:
    hub = build(tmp_path, "bert", "masked_lm")
    given = batch()
    labels = given["tokens"].long().masked_fill(~given["attention_mask"], -100)
    asked = {"tokens": given["tokens"], "attention_mask": given["attention_mask"], "labels": labels}
    task = MaskedLM(vocabulary_size=60, mask=1, pad=0, specials=(0, 1, 2), share=0.5, length=32)
    losses = [task.loss(hub, asked).item()]
    assert hub._packing is not None
    hub._packing = None
    losses.append(task.loss(hub, asked).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_dropout_of_attention_goes_by_the_seed(tmp_path: Path) -> None:
    hub, given = build(tmp_path, "bert", dropout=0.3), batch()
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(learned(hub, given))
    assert found[0][0] == found[1][0] != found[2][0]
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert one is None or other is None or torch.equal(one, other)


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_the_gradient_of_packed_attention_is_right(dropout: float) -> None:
    draw = torch.Generator().manual_seed(0)
    given = [torch.randn(7, 2, 3, generator=draw, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    starts = torch.tensor([0, 4, 5, 7])
    assert torch.autograd.gradcheck(lambda *rows: packed_attention(*rows, starts, 0.5, dropout, 3), given)


def test_a_compiler_takes_any_number_of_tokens_in_one_graph() -> None:
    torch.library.opcheck(
        packed_attention,
        (*(torch.randn(7, 2, 3, requires_grad=True) for _ in range(3)), torch.tensor([0, 4, 5, 7]), 0.5, 0.0, 3),
    )
