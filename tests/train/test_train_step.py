"""One step: accumulation is exact, drawing depends on the step alone, states are few."""

from __future__ import annotations

import time
from typing import Any

import pytest
import small_training as small
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fullbore.models.supervised import Classification
from fullbore.models.textcnn import TextCNN
from fullbore.record.ledger import State
from fullbore.record.span import Recorder
from fullbore.spec.model import TextCNNModel
from fullbore.train.parallel import Alone
from fullbore.train.precision import exact
from fullbore.train.step import Step, micro_batches


def _batches(count: int) -> list[dict[str, Tensor]]:
    feed = iter(small.Feed(8))
    return [next(feed) for _ in range(count)]


def _losses(micro_batch: int, *, precision: str = "fp32", dropout: float = 0.0, first: int = 0) -> list[float]:
    plan = small.plan(micro_batch_size=micro_batch, precision=precision)
    network = small.network(dropout=dropout)
    step = Step(network, small.Task(), small.section(), plan, Alone(), Recorder())
    with exact(1):
        return [step(batch, first + number).loss for number, batch in enumerate(_batches(6))]


@pytest.mark.parametrize("micro_batch", [1, 3, 4, 100])
def test_micro_batches_change_nothing_but_rounding(micro_batch: int) -> None:
    assert _losses(micro_batch) == pytest.approx(_losses(8), rel=1e-5)


def test_dropout_is_a_function_of_the_step() -> None:
    assert _losses(4, dropout=0.5) == _losses(4, dropout=0.5)
    assert _losses(4, dropout=0.5)[0] != _losses(4, dropout=0.5, first=1)[0]


def test_bf16_is_close_to_fp32() -> None:
    assert _losses(4, precision="bf16") == pytest.approx(_losses(4), rel=0.05)


def test_the_last_micro_batch_may_be_short() -> None:
    parts = micro_batches(_batches(1)[0], 3, torch.device("cpu"))
    assert [len(part["label"]) for part in parts] == [3, 3, 2]


def _padded(lengths: list[int]) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, 50, (len(lengths), max(lengths)), dtype=torch.int32, generator=draw)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    return {"tokens": tokens * mask, "attention_mask": mask, "label": torch.arange(len(lengths)) % 3}


def test_samples_of_like_lengths_share_a_micro_batch_that_is_as_wide_as_its_longest() -> None:
    batch = _padded([3, 40, 9, 38, 16, 5, 39, 12])
    parts = micro_batches(batch, 4, torch.device("cpu"))
    assert [tuple(part["tokens"].shape) for part in parts] == [(4, 16), (4, 40)]
    assert all((part["tokens"] * part["attention_mask"]).sum() == part["tokens"].sum() for part in parts)
    kept = {
        int(row.sum()): int(label) for part in parts for row, label in zip(part["tokens"], part["label"], strict=True)
    }
    assert kept == {int(row.sum()): int(label) for row, label in zip(batch["tokens"], batch["label"], strict=True)}
    (whole,) = micro_batches(batch, 8, torch.device("cpu"))
    assert all(torch.equal(whole[name], value) for name, value in batch.items()), "one micro-batch stays as it is"


def test_gradients_do_not_depend_on_how_padded_samples_are_cut() -> None:
    section = TextCNNModel(kind="textcnn", width=8, filters=4, kernels=(3, 5), dropout=0.0)
    network, task, batch = TextCNN(section, 50, 3), Classification(), _padded([3, 40, 9, 38, 16, 5, 39, 12])

    def gradients(size: int) -> list[Tensor]:
        network.zero_grad()
        for part in micro_batches(batch, size, torch.device("cpu")):
            task.loss(network, part).backward()
        return [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]

    for whole, cut in zip(gradients(8), gradients(2), strict=True):
        torch.testing.assert_close(cut, whole, rtol=1e-5, atol=1e-6)


class _Narrowed(TorchDispatchMode):
    """Counts how often a weight is narrowed."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and (kwargs or {}).get("dtype") is torch.bfloat16:
            self.count += args[0].ndim == 2 and args[0].shape == (16, small.FEATURES)
        return func(*args, **(kwargs or {}))


def test_a_weight_is_narrowed_once_a_step() -> None:
    step = Step(
        small.network(),
        small.Task(),
        small.section(),
        small.plan(micro_batch_size=2, precision="bf16"),
        Alone(),
        Recorder(),
    )
    for number, batch in enumerate(_batches(2)):
        with _Narrowed() as narrowed:
            step(batch, number)
        assert narrowed.count == 1


class _Counting(Recorder):
    switches = 0

    def _switch(self, state: State) -> None:
        self.switches += 1
        super()._switch(state)


def test_recording_is_a_few_switches_a_micro_batch() -> None:
    recorder = _Counting()
    plan = small.plan(micro_batch_size=1)
    step = Step(small.network(), small.Task(), small.section(), plan, Alone(), recorder)
    batch = _batches(1)[0]
    recorder.switches = 0
    step(batch, 0)
    assert recorder.switches <= 4 * 8 + 6


def test_states_of_a_step() -> None:
    recorder = Recorder(began=time.time())
    step = Step(small.network(), small.Task(), small.section(), small.plan(), Alone(), recorder)
    step(_batches(1)[0], 0)
    assert set(recorder.ledger().seconds) == {"start", "other", "copy", "forward", "backward", "optimizer"}


def test_global_settings_come_back() -> None:
    before = torch.get_num_threads(), torch.get_deterministic_debug_mode(), torch.get_rng_state()
    with exact(1):
        torch.manual_seed(3)
        assert torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled()
    assert (torch.get_num_threads(), torch.get_deterministic_debug_mode()) == before[:2]
    assert torch.equal(torch.get_rng_state(), before[2])
