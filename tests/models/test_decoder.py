"""The decoder: a Llama, bit by bit the same from the same seed, and the same with its cache."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fullbore.base.errors import InputError
from fullbore.models import kernels, weights
from fullbore.models.build import Sizes, build
from fullbore.models.decoder import Decoder, from_config
from fullbore.spec.model import DecoderModel, TaskSection

TASK = TaskSection(kind="causal_lm")
SIZES = Sizes(vocabulary_size=97, sequence_length=32)
SHAPES = [
    {"width": 32, "layers": 2, "heads": 4},
    {"width": 48, "layers": 3, "heads": 4, "key_value_heads": 2, "tie_embeddings": False, "rope_theta": 5000.0},
    {"width": 32, "layers": 1, "heads": 2, "key_value_heads": 1, "hidden": 40},
]


def make(seed: int = 0, **shape: object) -> Decoder:
    section = DecoderModel.model_validate({"kind": "decoder", **(shape or SHAPES[0])})
    module = build(section, TASK, SIZES, seed)
    assert isinstance(module, Decoder)
    return module


def tokens(rows: int = 2, length: int = 17) -> Tensor:
    return torch.randint(0, 97, (rows, length), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_reads_the_folder_as_llama_with_equal_logits(tmp_path: Path, shape: dict[str, object]) -> None:
    from transformers import AutoModelForCausalLM, LlamaForCausalLM

    module = make(**shape).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(3)
    folder = tmp_path / "model"
    weights.save(module, folder, model=module.section, task=TASK, sizes=SIZES, tokenizer=None, info={}, parents=())
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    assert isinstance(theirs, LlamaForCausalLM)
    with torch.no_grad():
        assert (module(tokens()) - theirs(tokens()).logits).abs().max() < 1e-4
    loaded = weights.load(folder)
    assert torch.equal(loaded.module(tokens()), module(tokens()))


@pytest.mark.parametrize("tied", [True, False])
def test_a_llama_folder_of_transformers_loads_with_equal_logits(tmp_path: Path, tied: bool) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, rms_norm_eps=1e-3, tie_word_embeddings=tied, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    theirs = LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path)
    loaded = weights.load(tmp_path)
    assert isinstance(loaded.module, Decoder)
    assert loaded.task.kind == "causal_lm"
    assert loaded.sizes.vocabulary_size == 97
    with torch.no_grad():
        assert (loaded.module(tokens()) - theirs(tokens()).logits).abs().max() < 1e-4


def test_a_llama_that_asks_for_more_is_left_to_transformers() -> None:
    plain = {
        "model_type": "llama", "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 1,
        "intermediate_size": 64, "vocab_size": 9,
    }  # fmt: skip
    assert from_config(plain) is not None
    for more in (
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        {"attention_bias": True},
        {"head_dim": 16},
        {"hidden_act": "gelu"},
        {"model_type": "mistral"},
        {"architectures": ["LlamaForSequenceClassification"]},
    ):
        assert from_config({**plain, **more}) is None


def test_the_same_seed_gives_the_same_bits_whatever_was_drawn_before() -> None:
    first = make(seed=3).state_dict()
    torch.manual_seed(random.randrange(10**6))
    torch.rand(13)
    before = torch.get_rng_state()
    second = make(seed=3).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = make(seed=4).state_dict()
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


@pytest.mark.parametrize("shape", SHAPES)
def test_decoding_with_the_cache_equals_reading_all_at_once(shape: dict[str, object]) -> None:
    module = make(**shape).eval()
    whole = tokens(2, 12)
    with torch.no_grad():
        exact = module(whole)
        cache = module.cache(2, 12)
        for begin, end in ((0, 5), (5, 6), (6, 9), (9, 12)):
            step = module.next_logits(whole[:, begin:end], cache)
            torch.testing.assert_close(step, exact[:, end - 1], rtol=1e-4, atol=1e-5)
        assert cache.length == 12


def test_a_position_does_not_see_those_behind_it() -> None:
    module = make().eval()
    one = tokens(1, 10)
    other = one.clone()
    other[0, 6:] = (other[0, 6:] + 1) % 97
    torch.testing.assert_close(module(one)[:, :6], module(other)[:, :6])


def test_hidden_times_the_head_is_the_logits() -> None:
    for shape in SHAPES:
        module = make(**shape)
        assert module.head_bias is None
        torch.testing.assert_close(module.hidden(tokens()) @ module.head_weight.T, module(tokens()))


def test_residual_projections_start_smaller() -> None:
    module = make(width=64, layers=8, heads=4)
    layer = module.model.layers[0]
    assert abs(layer.self_attn.q_proj.weight.std().item() - 0.02) < 0.002
    assert abs(layer.self_attn.o_proj.weight.std().item() - 0.02 / 4) < 0.0005
    assert abs(layer.mlp.down_proj.weight.std().item() - 0.02 / 4) < 0.0005


@pytest.mark.parametrize(
    ("shape", "field"),
    [
        ({"width": 30, "heads": 4}, "model.width"),
        ({"width": 12, "heads": 4}, "model.width"),
        ({"width": 32, "heads": 4, "key_value_heads": 3}, "model.key_value_heads"),
    ],
)
def test_sizes_that_do_not_divide(shape: dict[str, object], field: str) -> None:
    with pytest.raises(InputError, match=field):
        make(**shape)


def test_the_config_says_what_the_network_is(tmp_path: Path) -> None:
    module = make()
    weights.save(
        module, tmp_path / "m", model=module.section, task=TASK, sizes=SIZES, tokenizer=None, info={}, parents=()
    )
    config = json.loads((tmp_path / "m/config.json").read_text())
    assert config["model_type"] == "llama" and config["vocab_size"] == 97
    assert config["fullbore"]["sizes"]["sequence_length"] == 32
    assert config["fullbore"]["variant"] == "fp32"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_written_out_gradients_are_autograds(dtype: torch.dtype) -> None:
    """Norm, rotation and attention of `models.kernels` against autograd of their formulas in fp64."""
    torch.manual_seed(0)
    exact = {"dtype": torch.float64}
    tolerance = 1e-5 if dtype is torch.float32 else 3e-2

    def compare(ours: Callable[..., Tensor], formula: Callable[..., Tensor], *shapes: tuple[int, ...]) -> None:
        given = [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]
        reference = [tensor.detach().to(**exact).requires_grad_() for tensor in given]
        seen, expected = ours(*given), formula(*reference)
        upstream = torch.randn(expected.shape).to(dtype)
        seen.backward(upstream)
        expected.backward(upstream.double())
        pairs = [(seen, expected), *((a.grad, b.grad) for a, b in zip(given, reference, strict=True))]
        for one, two in pairs:
            assert one is not None and two is not None
            assert (one.double() - two).abs().max() <= tolerance * two.abs().max().clamp(min=1)

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    compare(lambda x, weight: kernels.rms_norm(x, weight, 1e-5), norm, (3, 5, 32), (32,))
    angles = torch.rand(7, 4)

    def turn(x: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        cosines, sines = angles.to(x.dtype).cos(), angles.to(x.dtype).sin()
        return torch.cat((first * cosines - second * sines, second * cosines + first * sines), -1)

    compare(lambda x: kernels.rotate(x, angles.cos().to(dtype), angles.sin().to(dtype)), turn, (2, 3, 7, 8))

    def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        scores = queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        return scores.masked_fill(hidden, -torch.inf).softmax(-1) @ values

    compare(kernels.causal_attention, attend, *[(2, 3, 9, 8)] * 3)
