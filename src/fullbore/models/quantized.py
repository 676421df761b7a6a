"""Int8 linear layers: weights per output channel, activations per row while running, the product in integers.

Symmetric quantisation as in Jacob et al. (2018); activations are scaled by what is in the row ("dynamic").
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEVELS = 127.0
WEIGHT, SCALE = "int8_weight", "scale"
"""Names of the buffers as they are saved."""


def rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of `x` [M, K] as int8 and their scales fp32 [M, 1]: x is about their product."""
    wide = x.float()
    scale = wide.abs().amax(1, keepdim=True).clamp_min(1e-12) / _LEVELS
    return torch.round(wide / scale).to(torch.int8), scale


class Int8Linear(nn.Module):
    """Stands for an nn.Linear: [..., in] to [..., out] in the input's dtype. For inference only."""

    int8_weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer(WEIGHT, torch.zeros(out_features, in_features, dtype=torch.int8))
        self.register_buffer(SCALE, torch.ones(out_features, dtype=torch.float32))
        self.register_buffer("bias", torch.zeros(out_features) if bias else None)

    @classmethod
    @torch.no_grad()
    def from_linear(cls, linear: nn.Linear) -> Int8Linear:
        made = cls(linear.in_features, linear.out_features, linear.bias is not None)
        weight, scale = rounded(linear.weight)
        made.int8_weight, made.scale = weight, scale.squeeze(1)
        if linear.bias is not None:
            made.bias = linear.bias.detach().float().clone()
        return made

    @property
    def weight(self) -> Tensor:
        """What the integers stand for, fp32 [out, in]."""
        return self.int8_weight.float() * self.scale.unsqueeze(1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Int8Linear:
        """Move as other modules do, but keep the scales in fp32."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.scale = self.scale.float()
        return self

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        values, scale = rounded(rows)
        try:
            product = torch._int_mm(values, self.int8_weight.t())
        except RuntimeError:
            return F.linear(x.float(), self.weight, self._bias()).to(x.dtype)
        outputs = product.float() * scale * self.scale
        if self.bias is not None:
            outputs += self.bias
        return outputs.to(x.dtype).view(*x.shape[:-1], self.out_features)

    def _bias(self) -> Tensor | None:
        return None if self.bias is None else self.bias.float()


def linears(module: nn.Module) -> list[str]:
    """Names of the layers that `quantize` replaces: every plain nn.Linear whose output is not the network's answer."""
    heads = ("head", "lm_head", "classifier", "score")
    return [
        name
        for name, layer in module.named_modules()
        if type(layer) is nn.Linear and not any(part in heads for part in name.split("."))
    ]


def quantize(module: nn.Module, names: list[str] | None = None) -> nn.Module:
    """Replace the named linear layers (none: all of `linears`) in place by Int8Linear; returns `module`."""
    for name in linears(module) if names is None else names:
        replace(module, name, Int8Linear.from_linear(_linear(module, name)))
    return module


def prepare(module: nn.Module, names: list[str]) -> None:
    """Put empty Int8Linear layers in place of the named ones, for saved integers to be loaded into."""
    for name in names:
        linear = _linear(module, name)
        replace(module, name, Int8Linear(linear.in_features, linear.out_features, linear.bias is not None))


def _linear(module: nn.Module, name: str) -> nn.Linear:
    layer = module.get_submodule(name)
    if not isinstance(layer, nn.Linear):
        raise TypeError(f"{name} is a {type(layer).__name__}, not a linear layer")
    return layer


def replace(module: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, layer)
