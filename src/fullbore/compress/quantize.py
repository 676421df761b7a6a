"""Variants of a trained network: bf16 throughout, or int8 where a linear layer stands it and gains from it."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fullbore.models import quantized
from fullbore.models.quantized import Int8Linear

_LARGEST_ERROR = 0.05
"""Relative error of a layer's output above which it stays as it is."""
_ROUNDS = 5
_ROWS = 1024
"""Most rows of a layer's input that are kept to time it on."""

Run = Callable[[nn.Module], None]
"""Puts all calibration samples through a network."""


@dataclass(frozen=True)
class Layer:
    """What calibration found of one linear layer in int8."""

    name: str
    error: float
    """Root mean square error of its output, relative to the output, over all calibration samples."""
    speedup: float
    """Times faster than the layer it replaces, on activations of the first calibration samples."""

    def pays(self, needs_speed: bool) -> bool:
        return self.error <= _LARGEST_ERROR and (self.speedup > 1 or not needs_speed)


@dataclass(frozen=True)
class Variant:
    module: nn.Module
    note: str = ""


class NothingToGain(Exception):
    """The variant would be the network it came from; says why."""


def build(variant: str, trained: nn.Module, calibrate: Run, *, needs_speed: bool, base: torch.dtype) -> Variant:
    """A new network that stands for `trained`, which is left as it is.

    int8 replaces linear layers by Int8Linear where that is accurate and, with `needs_speed`, faster; the rest,
    embeddings and heads among it, is in `base`. Raises NothingToGain.
    """
    if variant == "fp32":
        return Variant(trained)
    made = copy.deepcopy(trained).requires_grad_(False)
    if variant == "bf16":
        return Variant(made.to(torch.bfloat16))
    made = made.to(base)
    layers = inspect(made, calibrate)
    if not layers:
        raise NothingToGain("it has no linear layers below its head; convolutions are not quantised")
    chosen = [layer for layer in layers if layer.pays(needs_speed)]
    if not chosen:
        best = max(layer.speedup for layer in layers)
        raise NothingToGain(f"none of {len(layers)} linear layers gains from int8 here (at best {best:.2f}x)")
    quantized.quantize(made, [layer.name for layer in chosen])
    rest = str(base).removeprefix("torch.").replace("float32", "fp32").replace("bfloat16", "bf16")
    return Variant(made, f"{len(chosen)} of {len(layers)} linear layers in int8, the rest in {rest}")


def inspect(module: nn.Module, calibrate: Run) -> list[Layer]:
    """Each linear layer that could be int8, with its error and speed on the activations that calibration gives it."""
    trials = {name: _Trial(module.get_submodule(name)) for name in quantized.linears(module)}
    hooks = [trial.layer.register_forward_hook(trial.watch) for trial in trials.values()]
    try:
        calibrate(module)
    finally:
        for hook in hooks:
            hook.remove()
    return [
        Layer(name, trial.error(), _speedup(trial.layer, trial.integer, trial.rows))
        for name, trial in trials.items()
        if trial.rows is not None
    ]


class _Trial:
    """A linear layer and what would stand for it, which sees all that the layer is given."""

    def __init__(self, layer: nn.Module) -> None:
        assert isinstance(layer, nn.Linear)
        self.layer, self.integer = layer, Int8Linear.from_linear(layer)
        self.rows: Tensor | None = None
        """The first of its inputs [M, K]."""
        self._wrong = self._whole = 0.0

    @torch.inference_mode()
    def watch(self, _: nn.Module, given: Sequence[Tensor], output: Tensor) -> None:
        """A forward hook: add up the squares of the output and of what int8 makes wrong in it."""
        wanted = output.float()
        self._wrong += (wanted - self.integer(given[0]).float()).square().sum().item()
        self._whole += wanted.square().sum().item()
        if self.rows is None:
            self.rows = given[0].reshape(-1, self.layer.in_features)[:_ROWS].clone()

    def error(self) -> float:
        return math.sqrt(self._wrong) / max(math.sqrt(self._whole), 1e-12)


@torch.inference_mode()
def _speedup(layer: nn.Module, integer: nn.Module, rows: Tensor) -> float:
    """How many times faster `integer` answers `rows` than `layer`."""
    ratios = []
    for _ in range(_ROUNDS):
        before = time.perf_counter()
        layer(rows)
        between = time.perf_counter()
        integer(rows)
        ratios.append((between - before) / (time.perf_counter() - between))
    return statistics.median(ratios)


def size(module: nn.Module) -> int:
    """Bytes of its parameters and buffers, shared ones once."""
    tensors = {tensor.data_ptr(): tensor for tensor in module.state_dict().values()}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
