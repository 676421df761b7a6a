"""What kernels cost in a network beyond what they cost alone, by steps of small networks that no job is."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from fullbore.models.build import Sizes, build
from fullbore.models.language import CausalLM
from fullbore.models.launches import trace
from fullbore.models.supervised import Classification
from fullbore.perf.model import kernels
from fullbore.perf.model.kernels import Device, Seconds
from fullbore.spec.curves import Curve, Curves
from fullbore.spec.model import DecoderModel, MLPModel, ModelSection, ResNetModel, TaskSection
from fullbore.spec.work import Launches

_PRECISIONS = ("fp32", "bf16")
_SECONDS = 0.08
_STEPS = 5
_TURNS = 3
"""Each network is measured so many times, and by the fastest: what disturbs makes it slower."""
_ROUNDS = 4
"""Each of two unknowns is found from the other so many times."""


@dataclass(frozen=True)
class Reference:
    model: ModelSection
    task: TaskSection
    sizes: Sizes
    samples: int

    def network(self) -> nn.Module:
        return build(self.model, self.task, self.sizes, seed=0).train()

    def batch(self) -> dict[str, Tensor]:
        count, sizes = self.samples, self.sizes
        if self.task.kind == "causal_lm":
            return {"tokens": torch.randint(sizes.vocabulary_size or 1, (count, (sizes.sequence_length or 1) + 1))}
        label = {"label": torch.zeros(count, dtype=torch.int64)}
        if sizes.image is not None:
            return {"pixels": torch.zeros(count, *sizes.image, dtype=torch.uint8), **label}
        return {"features": torch.randn(count, sizes.features or 1), **label}


_TEXT, _CLASSES = TaskSection(kind="causal_lm"), TaskSection(kind="classification")
_SMALL = (
    Reference(
        DecoderModel(kind="decoder", width=32, layers=3, heads=2), _TEXT,
        Sizes(vocabulary_size=64, sequence_length=16), 2,
    ),
    Reference(MLPModel(kind="mlp", hidden=(32, 32, 32)), _CLASSES, Sizes(features=16, classes=4), 16),
)  # fmt: skip
"""In these launching is most of it."""
_LARGE = (
    Reference(
        DecoderModel(kind="decoder", width=224, layers=3, heads=7), _TEXT,
        Sizes(vocabulary_size=1536, sequence_length=96), 10,
    ),
    Reference(ResNetModel(kind="resnet", width=24, blocks=(1, 1)), _CLASSES, Sizes(image=(3, 24, 24), classes=4), 24),
    Reference(MLPModel(kind="mlp", hidden=(640, 640)), _CLASSES, Sizes(features=96, classes=8), 384),
)  # fmt: skip
"""In these it is little."""


def fitted(found: dict[str, Curve], cores: int, source: str) -> Curves:
    """`found` with what launching costs, and how much longer kernels take in a network than alone."""
    curves = Curves(source, found)
    traced = {item: trace(item.network, item.task, item.sizes).launches for item in (*_SMALL, *_LARGE)}
    taken = _measured(cores)
    for threads in sorted({1, cores}):
        for precision in _PRECISIONS:
            known = {item: (traced[item][precision], taken[threads, precision, item]) for item in (*_SMALL, *_LARGE)}
            curves = _fit(curves, known, precision, threads)
    return curves


def _fit(curves: Curves, known: dict[Reference, tuple[Launches, Seconds]], precision: str, threads: int) -> Curves:
    for _ in range(_ROUNDS):
        for name in ("forward", "backward"):
            free = replace(curves, launching={**curves.launching, f"{name}/{precision}/{threads}": 0.0})
            rest = []
            for item in _SMALL:
                traced, taken = known[item]
                expected = kernels.seconds(traced, Device(free, precision, threads), item.samples)
                rest.append((getattr(taken, name) - getattr(expected, name)) / _count(traced, name == "backward"))
            curves = replace(
                free, launching={**free.launching, f"{name}/{precision}/{threads}": max(0.0, statistics.mean(rest))}
            )
        ratios = []
        plain = replace(curves, sustained={**curves.sustained, f"{precision}/{threads}": 1.0})
        for item in _LARGE:
            traced, taken = known[item]
            bare = kernels.seconds(traced, Device(replace(plain, launching={}), precision, threads), item.samples)
            full = kernels.seconds(traced, Device(plain, precision, threads), item.samples)
            launching = full.forward + full.backward - bare.forward - bare.backward
            ratios.append((taken.forward + taken.backward - launching) / (bare.forward + bare.backward))
        curves = replace(
            plain, sustained={**plain.sustained, f"{precision}/{threads}": statistics.geometric_mean(ratios)}
        )
    return curves


def _count(traced: Launches, backward: bool) -> int:
    return sum(x.count for x in (*traced.body, *traced.head, *traced.chunk) if x.backward == backward)


def _measured(cores: int) -> dict[tuple[int, str, Reference], Seconds]:
    """By threads, precision and network. Changes torch's number of threads."""
    found: dict[tuple[int, str, Reference], Seconds] = {}
    for _, threads, precision, item in product(range(_TURNS), sorted({1, cores}), _PRECISIONS, (*_SMALL, *_LARGE)):
        torch.set_num_threads(threads)
        found[threads, precision, item] = min(
            found.get((threads, precision, item), Seconds(math.inf, math.inf)),
            _taken(item, precision),
            key=lambda seconds: seconds.forward + seconds.backward,
        )
    return found


def _taken(item: Reference, precision: str) -> Seconds:
    """Of a step: the median of the faster half."""
    network, batch = item.network(), item.batch()
    task: Any = CausalLM() if item.task.kind == "causal_lm" else Classification()
    taken = list[tuple[float, float]]()
    began = time.perf_counter()
    while len(taken) <= _STEPS or time.perf_counter() - began < _SECONDS:
        taken.append(_step(network, task, batch, precision))
    half = sorted(taken[1:], key=sum)[: len(taken) // 2]
    return Seconds(*(statistics.median(part) for part in zip(*half, strict=True)))


def _step(network: nn.Module, task: Any, batch: dict[str, Tensor], precision: str) -> tuple[float, float]:
    for parameter in network.parameters():
        parameter.grad = None
    began = time.perf_counter()
    with torch.enable_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        loss = task.loss(network, batch)
    middle = time.perf_counter()
    loss.backward()
    return middle - began, time.perf_counter() - middle
