"""A decoder language model: RMSNorm, rotary positions, SwiGLU, grouped key-value heads; parameters are named as in
transformers' LlamaForCausalLM, so its folder opens there with equal logits.

Sources: Touvron et al. (2023), LLaMA; Su et al. (2021), RoFormer; Ainslie et al. (2023), GQA;
initialisation as GPT-2 (Radford et al. 2019): residual projections scaled by 1/sqrt(2 layers).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullbore.base.errors import InputError
from fullbore.models.kernels import Path, causal_attention, rms_norm, rotate
from fullbore.spec.model import DecoderModel

EPSILON = 1e-5
_DEVIATION = 0.02


def hidden_width(section: DecoderModel) -> int:
    """Width of the feed-forward layer: as set, or 8/3 of the width rounded up to a multiple of 64."""
    return section.hidden or -(-section.width * 8 // 3 // 64) * 64


class RMSNorm(nn.Module):
    """Zhang and Sennrich (2019); computed in fp32."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.epsilon)


class Cache:
    """Keys and values of the tokens seen so far: per layer [B, key_value_heads, capacity, head_width]."""

    def __init__(self, layers: int, shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
        self.length = 0
        self._keys = [torch.empty(shape, dtype=dtype) for _ in range(layers)]
        self._values = [torch.empty(shape, dtype=dtype) for _ in range(layers)]

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append [B, heads, T, width] behind `length`; all keys and values so far."""
        end = self.length + keys.shape[2]
        self._keys[layer][:, :, self.length : end] = keys
        self._values[layer][:, :, self.length : end] = values
        return self._keys[layer][:, :, :end], self._values[layer][:, :, :end]


Turns = tuple[Tensor, Tensor]


def rotary(start: int, length: int, width: int, theta: float, device: torch.device) -> Turns:
    """Cosines and sines of positions start..start+length-1: two fp32 [length, width / 2]."""
    exponents = torch.arange(0, width, 2, dtype=torch.float32, device=device) / width
    positions = torch.arange(start, start + length, dtype=torch.float32, device=device)
    angles = torch.outer(positions, theta**-exponents)
    return angles.cos(), angles.sin()


class Attention(nn.Module):
    path: Path = "auto"
    """How it is computed; the same numbers up to rounding."""

    def __init__(self, section: DecoderModel) -> None:
        super().__init__()
        self.head_width = section.width // section.heads
        self.grouped = (section.key_value_heads or section.heads) != section.heads
        narrow = (section.key_value_heads or section.heads) * self.head_width
        self.q_proj = nn.Linear(section.width, section.width, bias=False)
        self.k_proj = nn.Linear(section.width, narrow, bias=False)
        self.v_proj = nn.Linear(section.width, narrow, bias=False)
        self.o_proj = nn.Linear(section.width, section.width, bias=False)

    def forward(self, x: Tensor, turns: Turns, cache: Cache | None, layer: int) -> Tensor:
        batch, length, width = x.shape
        queries, keys, values = (
            project(x).view(batch, length, -1, self.head_width).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        past = cache.length if cache is not None else 0
        cosines, sines = turns[0].to(queries.dtype), turns[1].to(queries.dtype)
        queries, keys = rotate(queries, cosines, sines), rotate(keys, cosines, sines)
        if cache is not None:
            keys, values = cache.extend(layer, keys, values)
        if past == 0:
            mixed = causal_attention(queries, keys, values, self.path)
        else:
            mask = torch.ones(length, past + length, dtype=torch.bool, device=x.device).tril(past)
            mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, enable_gqa=self.grouped)
        projected: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, length, width))
        return projected


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, section: DecoderModel) -> None:
        super().__init__()
        hidden = hidden_width(section)
        self.gate_proj = nn.Linear(section.width, hidden, bias=False)
        self.up_proj = nn.Linear(section.width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, section.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        down: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return down


class Layer(nn.Module):
    def __init__(self, section: DecoderModel, epsilon: float) -> None:
        super().__init__()
        self.self_attn = Attention(section)
        self.mlp = FeedForward(section)
        self.input_layernorm = RMSNorm(section.width, epsilon)
        self.post_attention_layernorm = RMSNorm(section.width, epsilon)

    def forward(self, x: Tensor, turns: Turns, cache: Cache | None, layer: int) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), turns, cache, layer)
        mixed: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return mixed


class _Body(nn.Module):
    """The parameters under the prefix `model.`, as transformers names them."""

    def __init__(self, section: DecoderModel, vocabulary_size: int, epsilon: float) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary_size, section.width)
        self.layers = nn.ModuleList(Layer(section, epsilon) for _ in range(section.layers))
        self.norm = RMSNorm(section.width, epsilon)


class Decoder(nn.Module):
    """Tokens [B, T] (any integer dtype) to logits [B, T, V]."""

    inputs = "tokens"

    def __init__(self, section: DecoderModel, vocabulary_size: int, *, epsilon: float = EPSILON) -> None:
        super().__init__()
        check(section)
        self.section = section
        self.epsilon = epsilon
        self.model = _Body(section, vocabulary_size, epsilon)
        if not section.tie_embeddings:
            self.lm_head = nn.Linear(section.width, vocabulary_size, bias=False)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                parameter.normal_(0, _DEVIATION / math.sqrt(2 * self.section.layers) if residual else _DEVIATION)

    @property
    def head_weight(self) -> Tensor:
        """[V, D]: logits are hidden @ head_weight.T."""
        return self.model.embed_tokens.weight if self.section.tie_embeddings else self.lm_head.weight

    @property
    def head_bias(self) -> Tensor | None:
        return None

    def hidden(self, tokens: Tensor, *, cache: Cache | None = None) -> Tensor:
        """What the head reads: [B, T, D]. With a cache, `tokens` follow those it holds and are added to it."""
        section, past = self.section, cache.length if cache is not None else 0
        turns = rotary(past, tokens.shape[1], section.width // section.heads, section.rope_theta, tokens.device)
        x = self.model.embed_tokens(tokens)
        for index, layer in enumerate(self.model.layers):
            x = layer(x, turns, cache, index)
        if cache is not None:
            cache.length += tokens.shape[1]
        normed: Tensor = self.model.norm(x)
        return normed

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(self.hidden(tokens), self.head_weight)

    def cache(self, batch: int, capacity: int) -> Cache:
        """An empty cache for `capacity` tokens of each of `batch` texts."""
        section = self.section
        shape = (batch, section.key_value_heads or section.heads, capacity, section.width // section.heads)
        return Cache(section.layers, shape, self.model.embed_tokens.weight.dtype)

    def next_logits(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Logits [B, V] of the token after `tokens` [B, T], which follow what `cache` holds."""
        return F.linear(self.hidden(tokens, cache=cache)[:, -1], self.head_weight)


def check(section: DecoderModel) -> None:
    """Raises InputError where the section's sizes do not divide."""
    for key, message, other in section.misfits():
        named = f"model.{other} = {getattr(section, other)}"
        raise InputError(f"model.{key}: {message.format(named)}")


def to_config(module: Decoder, *, positions: int, end_of_text: int | None, pad: int | None) -> dict[str, Any]:
    """config.json of transformers' LlamaForCausalLM for this network."""
    section = module.section
    weight = module.model.embed_tokens.weight
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": weight.shape[0],
        "hidden_size": section.width,
        "intermediate_size": hidden_width(section),
        "num_hidden_layers": section.layers,
        "num_attention_heads": section.heads,
        "num_key_value_heads": section.key_value_heads or section.heads,
        "head_dim": section.width // section.heads,
        "hidden_act": "silu",
        "max_position_embeddings": positions,
        "rms_norm_eps": module.epsilon,
        "rope_theta": section.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": section.rope_theta},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": section.tie_embeddings,
        "initializer_range": _DEVIATION,
        "bos_token_id": None,
        "eos_token_id": end_of_text,
        "pad_token_id": pad,
        "dtype": str(weight.dtype).removeprefix("torch."),
    }


def from_config(config: dict[str, Any]) -> tuple[DecoderModel, float] | None:
    """The section and epsilon of a Llama config, if this network computes it exactly."""
    width, heads = config.get("hidden_size", 0), config.get("num_attention_heads", 0)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    plain = (
        config.get("model_type") == "llama"
        and "LlamaForCausalLM" in (config.get("architectures") or ["LlamaForCausalLM"])
        and config.get("hidden_act", "silu") == "silu"
        and not config.get("attention_bias")
        and not config.get("mlp_bias")
        and rope.get("rope_type", rope.get("type", "default")) == "default"
        and heads
        and config.get("head_dim") in (None, width // heads)
    )
    if not plain:
        return None
    section = DecoderModel(
        kind="decoder",
        width=width,
        layers=config["num_hidden_layers"],
        heads=heads,
        key_value_heads=config.get("num_key_value_heads") or heads,
        hidden=config["intermediate_size"],
        rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0),
        tie_embeddings=bool(config.get("tie_word_embeddings", False)),
    )
    return section, float(config.get("rms_norm_eps", 1e-6))
