"""Int8 layers: near the exact ones, in integers, and safe to move."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fullbore.models.build import Sizes, build
from fullbore.models.quantized import Int8Linear, linears, prepare, quantize, rounded
from fullbore.spec.model import DecoderModel, TaskSection

DECODER = DecoderModel(kind="decoder", width=32, layers=2, heads=4, tie_embeddings=False)


def linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, bias=bias)


@pytest.mark.parametrize("shape", [(1, 64), (3, 7, 64), (200, 64), (2, 0, 64)])
@pytest.mark.parametrize("bias", [True, False])
def test_results_are_close(shape: tuple[int, ...], bias: bool) -> None:
    exact = linear(64, 33, bias)
    x = torch.randn(shape)
    found = Int8Linear.from_linear(exact)(x)
    assert found.shape == (*shape[:-1], 33) and found.dtype == torch.float32
    if x.numel():
        error = (found - exact(x)).norm() / exact(x).norm()
        assert error < 0.02


def test_rounding_is_within_half_a_step() -> None:
    x = torch.randn(10, 50) * torch.logspace(-6, 6, 10).unsqueeze(1)
    values, scale = rounded(x)
    assert values.dtype == torch.int8 and values.abs().max() == 127
    assert ((values.float() * scale - x).abs() <= scale * 0.5001).all()
    zeros, small = rounded(torch.zeros(2, 4))
    assert not zeros.any() and torch.isfinite(small).all()


def test_the_product_is_in_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[torch.dtype] = []
    whole = torch._int_mm
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: (calls.append(a.dtype), whole(a, b))[1])
    Int8Linear.from_linear(linear(16, 8))(torch.randn(4, 16))
    assert calls == [torch.int8]


def test_where_integers_are_refused_the_result_is_near_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("shape")

    exact, x = linear(16, 8), torch.randn(2, 4, 16)
    quick = Int8Linear.from_linear(exact)(x)
    monkeypatch.setattr(torch, "_int_mm", refuse)
    slow = Int8Linear.from_linear(exact)(x)
    assert slow.shape == quick.shape
    torch.testing.assert_close(slow, quick, rtol=0.1, atol=0.02)


def test_scales_stay_in_fp32_when_the_rest_moves() -> None:
    layer = nn.Sequential(Int8Linear.from_linear(linear(16, 8))).to(torch.bfloat16)[0]
    assert layer.scale.dtype == torch.float32 and layer.int8_weight.dtype == torch.int8
    assert layer(torch.randn(2, 16, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_a_network_is_quantised_except_its_head() -> None:
    module = build(DECODER, TaskSection(kind="causal_lm"), Sizes(vocabulary_size=60), seed=0).eval()
    exact = copy.deepcopy(module)
    names = linears(module)
    assert len(names) == 14 and "lm_head" not in names
    quantize(module)
    assert linears(module) == []
    assert sum(isinstance(layer, Int8Linear) for layer in module.modules()) == 14
    tokens = torch.arange(20).view(2, 10)
    with torch.no_grad():
        torch.testing.assert_close(module(tokens), exact(tokens), rtol=0.1, atol=0.02)
    empty = copy.deepcopy(exact)
    prepare(empty, names)
    empty.load_state_dict(module.state_dict())
    with torch.no_grad():
        assert torch.equal(empty(tokens), module(tokens))


def test_only_linear_layers_can_be_replaced() -> None:
    with pytest.raises(TypeError, match="ReLU"):
        quantize(nn.Sequential(nn.ReLU()), ["0"])
