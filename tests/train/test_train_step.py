"""One step: accumulation is exact, drawing depends on the step alone, states are few."""

from __future__ import annotations

import time
from typing import Any

import pytest
import small_training as small
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fullbore.record.ledger import State
from fullbore.record.span import Recorder
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
