"""The optimizer takes torch's own steps; schedules are functions of the step alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import small_training as small
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from fullbore.train.build import Optimizer, learning_rate


def _gradients(network: nn.Module, scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in network.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator) * scale


def _theirs(network: nn.Module, **settings: Any) -> torch.optim.Optimizer:
    matrices = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim == 1]
    decay = settings.pop("weight_decay")
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    if "momentum" in settings:
        return torch.optim.SGD(groups, lr=0.01, **settings)
    return torch.optim.AdamW(groups, lr=0.01, **settings)


@pytest.mark.parametrize("momentum", [None, 0.5])
@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_steps_are_those_of_torch_on_the_clipped_mean(kind: str, momentum: float | None) -> None:
    written = {} if momentum is None else {"momentum": momentum}
    section = small.section(optimizer=kind, weight_decay=0.1, clip=0.5, **written)
    mine, other = small.network(), small.network()
    ours = Optimizer(mine, section)
    first = momentum or 0.9
    settings: dict[str, Any] = {"momentum": first} if kind == "sgd" else {"betas": (first, section.beta2)}
    theirs = _theirs(other, weight_decay=0.1, **settings)
    for step in range(4):
        _gradients(mine, 80.0, step)
        _gradients(other, 1.0, step)
        norm = ours.step(80.0, 0.01)
        expected = nn.utils.clip_grad_norm_(other.parameters(), 0.5)
        theirs.step()
        assert norm == pytest.approx(float(expected), rel=1e-5)
    for name, weight in mine.state_dict().items():
        torch.testing.assert_close(weight, other.state_dict()[name], rtol=1e-5, atol=1e-6)


def test_decay_spares_norms_biases_and_embeddings() -> None:
    network = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    before = small.tensors(network)
    optimizer = Optimizer(network, small.section(weight_decay=0.5, l1=0.1, l2=0.1, clip=None))
    for weight in network.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step(1.0, 0.01)
    changed = [name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])]
    assert changed == ["2.weight"]


def test_penalties_are_part_of_the_gradient() -> None:
    network, reference = small.network(), small.network()
    section = small.section(optimizer="sgd", momentum=0.0, weight_decay=0.0, l1=0.01, l2=0.02, clip=None)
    _gradients(network, 4.0, 0)
    _gradients(reference, 1.0, 0)
    norm = Optimizer(network, section).step(4.0, 0.1)
    matrices = [p for p in reference.parameters() if p.ndim > 1]
    sum(0.01 * p.abs().sum() + 0.02 * p.square().sum() for p in matrices).backward()
    assert norm == pytest.approx(float(nn.utils.get_total_norm([p.grad for p in reference.parameters()])), rel=1e-5)
    with torch.no_grad():
        for weight in reference.parameters():
            weight -= 0.1 * weight.grad
    for name, weight in network.state_dict().items():
        torch.testing.assert_close(weight, reference.state_dict()[name])


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_gradient_that_is_not_finite_changes_nothing(kind: str) -> None:
    network = small.network()
    optimizer = Optimizer(network, small.section(optimizer=kind))
    _gradients(network, 1.0, 0)
    optimizer.step(1.0, 0.01)
    before, state = small.tensors(network), {key: value.clone() for key, value in optimizer.state().items()}
    _gradients(network, math.inf, 0)
    assert not math.isfinite(optimizer.step(1.0, 0.01))
    assert small.same(before, small.tensors(network))
    assert small.same(state, optimizer.state())


def test_untouched_parameters_stay_and_nothing_is_divided_by_no_units() -> None:
    network = small.network()
    before = small.tensors(network)
    optimizer = Optimizer(network, small.section(weight_decay=0.0))
    assert optimizer.step(8.0, 0.1) == 0.0
    _gradients(network, 1.0, 0)
    assert optimizer.step(0.0, 0.1) == 0.0
    assert small.same(before, small.tensors(network))


@given(st.integers(2, 400), st.integers(0, 50), st.sampled_from(["constant", "linear", "cosine"]))
def test_schedules(steps: int, warmup: int, schedule: str) -> None:
    warmup = min(warmup, steps - 1)
    section = small.section(schedule=schedule, learning_rate=2.0, final_learning_rate=0.1)
    rates = [learning_rate(section, steps, warmup, step) for step in range(steps)]
    rising, falling = rates[: warmup + 1], rates[warmup:]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    assert max(rates) == pytest.approx(2.0)
    if schedule != "constant" and steps - 1 > warmup:
        assert rates[-1] == pytest.approx(0.2)
    if warmup:
        assert rates[0] == pytest.approx(2.0 / warmup)


@pytest.mark.parametrize("momentum", [None, 0.5])
def test_muon_turns_matrices_and_leaves_the_rest_to_adamw(momentum: float | None) -> None:
    written = {} if momentum is None else {"momentum": momentum}
    section = small.section(optimizer="muon", weight_decay=0.1, clip=None, **written)
    mine, other = small.network(), small.network()
    ours = Optimizer(mine, section)
    matrices = [p for p in other.parameters() if p.ndim == 2]
    rest = [p for p in other.parameters() if p.ndim == 1]
    first = momentum or 0.95
    muon = torch.optim.Muon(matrices, lr=0.01, weight_decay=0.1, momentum=first, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, lr=0.01, weight_decay=0.0, betas=(0.9, section.beta2))
    for step in range(4):
        _gradients(mine, 80.0, step)
        _gradients(other, 1.0, step)
        ours.step(80.0, 0.01)
        muon.step()
        adamw.step()
    for name, weight in mine.state_dict().items():
        torch.testing.assert_close(weight, other.state_dict()[name], rtol=1e-3, atol=1e-3)
    kinds = {name.rsplit("/", 1)[1] for name in ours.state() if "weight" in name}
    assert kinds == {"momentum"}


def test_the_largest_seed_is_one_that_generators_take() -> None:
    from fullbore.train.precision import seed_step

    largest = 2**63 - 1
    assert small.section(seed=largest).seed == largest
    seed_step(largest, 0, 1)
    torch.Generator().manual_seed(largest)
    with pytest.raises(ValidationError, match="less than"):
        small.section(seed=largest + 1)
