"""Launches: what is seen on tensors without numbers is what training really starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import TINY, write
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fullbore.models import launches
from fullbore.models.abstract import Abstract, Execution
from fullbore.models.build import Sizes, build
from fullbore.models.language import CausalLM
from fullbore.models.supervised import Classification
from fullbore.models.work import work
from fullbore.spec.model import (
    DecoderModel,
    MLPModel,
    ModelSection,
    ResNetModel,
    TaskSection,
    TextCNNModel,
    TransformersModel,
)
from fullbore.spec.work import Launches

GENERATE, CLASSIFY = TaskSection(kind="causal_lm"), TaskSection(kind="classification")
SIZES = Sizes(vocabulary_size=300, classes=7, features=11, image=(3, 17, 16), sequence_length=24)
CASES: list[tuple[ModelSection, TaskSection]] = [
    (DecoderModel(kind="decoder", width=64, layers=3, heads=4), GENERATE),
    (DecoderModel(kind="decoder", width=32, layers=1, heads=4, key_value_heads=2, tie_embeddings=False), GENERATE),
    (ResNetModel(kind="resnet", width=8, blocks=(1, 2, 1)), CLASSIFY),
    (TextCNNModel(kind="textcnn", width=16, filters=12), CLASSIFY),
    (MLPModel(kind="mlp", hidden=(20, 30), dropout=0.5), CLASSIFY),
]
SAMPLES = 5


class _Really(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Hears of operators on tensors with numbers."""

    def __init__(self, seen: launches._Seen) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen = seen

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket is not torch.ops.aten._local_scalar_dense:
            self._seen.launched(func, (*args, *(kwargs or {}).values()), result)
        return result


def batch(task: TaskSection, inputs: str) -> dict[str, Tensor]:
    length = SIZES.sequence_length or 0
    if task.kind == "causal_lm":
        return {"tokens": torch.randint(300, (SAMPLES, length + 1), dtype=torch.int32)}
    made: dict[str, Tensor] = {"label": torch.zeros(SAMPLES, dtype=torch.int64)}
    if inputs == "pixels":
        return {"pixels": torch.zeros(SAMPLES, *(SIZES.image or ()), dtype=torch.uint8), **made}
    if inputs == "features":
        return {"features": torch.zeros(SAMPLES, SIZES.features or 0), **made}
    tokens = torch.randint(300, (SAMPLES, length), dtype=torch.int32)
    return {"tokens": tokens, "attention_mask": torch.ones(SAMPLES, length, dtype=torch.bool), **made}


def really(section: ModelSection, task: TaskSection, precision: str) -> Counter[tuple[str, bool]]:
    module, seen = build(section, task, SIZES, seed=0).train(), launches._Seen()
    given = batch(task, str(getattr(module, "inputs", "tokens")))
    judge: Any = CausalLM() if task.kind == "causal_lm" else Classification()
    with _Really(seen):
        with launches._autocast(precision):
            loss = judge.loss(module, given)
        launches._backward(loss, None, seen)
    return named(seen.launches)


def named(found: Mapping[Any, int]) -> Counter[tuple[str, bool]]:
    """Launches by name and direction, without views, which differ by what wraps a tensor."""
    told: Counter[tuple[str, bool]] = Counter()
    for item, count in found.items():
        if item.name != "view":
            told[item.name, item.backward] += count
    return told


def foretold(traced: Launches) -> Counter[tuple[str, bool]]:
    """Of one chunk of the head."""
    told: Counter[tuple[str, bool]] = Counter()
    for item in (*traced.body, *traced.head, *traced.chunk):
        told += named({item: item.count})
    return told


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("section", "task"), CASES)
def test_what_is_foretold_is_what_is_launched(section: ModelSection, task: TaskSection, precision: str) -> None:
    traced = work(section, task, SIZES, launched=True).launches[precision]
    expected, found = foretold(traced), really(section, task, precision)
    differing = {key: (expected[key], found[key]) for key in expected | found if expected[key] != found[key]}
    assert sum(abs(one - two) for one, two in differing.values()) <= 4, differing


@pytest.mark.parametrize(("section", "task"), CASES)
def test_products_have_the_flops_of_the_closed_form(section: ModelSection, task: TaskSection) -> None:
    found = work(section, task, SIZES, launched=True)
    traced = found.launches["fp32"]
    flops = 0.0
    for part, samples in ((traced.body, SAMPLES), (traced.chunk, SAMPLES * traced.rows)):
        for item in part:
            if item.name.startswith(("product", "bmm", "convolution")) and not item.backward and part is traced.body:
                size = 2.0
                for amount in item.sizes:
                    size *= amount.of(samples)
                flops += size * item.count
    closed = sum(
        o.flops * o.count * SAMPLES
        for o in found.operations
        if o.kind in ("matmul", "convolution") and o.name != "head"
    )
    if task is GENERATE:
        assert flops == pytest.approx(closed)
    else:
        head = sum(o.flops * o.count * SAMPLES for o in found.operations if o.name == "head")
        assert flops == pytest.approx(closed + head, rel=0.02)


def test_a_transformers_encoder_is_seen_packed_as_it_is_run(tmp_path: Path) -> None:
    section = TransformersModel(kind="transformers", folder=str(write(tmp_path, "bert")), pretrained=False)
    sizes = Sizes(vocabulary_size=60, classes=3, sequence_length=16)
    for task in (CLASSIFY, TaskSection(kind="masked_lm")):
        found = work(section, task, sizes, launched=True)
        names = {item.name for item in found.launches["bf16"].body}
        assert any(name.startswith("packed_attention") for name in names)
        assert sum(prod(shape) for shape in found.weights) == found.parameters
        assert found.library_bytes > 0
    assert TINY["bert"]["num_hidden_layers"] == 1


def test_an_architecture_that_asks_for_numbers_has_its_operations_still(tmp_path: Path) -> None:
    section = TransformersModel(kind="transformers", folder=str(write(tmp_path, "gemma2")), pretrained=False)
    found = work(section, CLASSIFY, Sizes(vocabulary_size=60, classes=3, sequence_length=16), launched=True)
    assert found.operations and not found.launches
    told = work(section, GENERATE, Sizes(vocabulary_size=60, sequence_length=16), launched=True)
    assert told.launches["bf16"].body


def prod(shape: Sequence[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def test_recomputing_launches_more_and_keeps_less() -> None:
    section = DecoderModel(kind="decoder", width=64, layers=6, heads=4)
    found = work(section, GENERATE, SIZES, launched=True).launches
    plain, again = found["bf16"], found["bf16+recompute"]
    count = lambda traced: sum(item.count for item in traced.body if item.name.startswith("product"))  # noqa: E731
    assert count(again) > 1.2 * count(plain)
    assert again.activation_bytes(64) < 0.6 * plain.activation_bytes(64)
    assert "bf16+recompute" not in work(CASES[-1][0], CLASSIFY, SIZES, launched=True).launches


def test_bytes_that_live_are_counted_until_they_are_freed() -> None:
    held = [0]

    def hold(size: int, begins: bool) -> None:
        held[0] += size if begins else -size

    names: list[str] = []
    execution = Execution(lambda func, *_: names.append(func.overloadpacket.__name__), hold, torch.device("cpu"))
    with execution:
        x = torch.zeros(10, 10)
        assert isinstance(x, Abstract) and x.device.type == "cpu" and held == [400]
        y = (x + 1).t()
        assert held == [800] and y.shape == (10, 10)
        del x
        assert held == [400]
        assert bool((y > 0).all()) and float(y.sum()) == 1.0
        assert (y > 0).nonzero().shape == (100, 2)
        del y
    assert held == [0] and "add" in names
    with pytest.raises(RuntimeError, match="outside the execution"):
        execution.tensor(torch.empty(2)) + 1
