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
_ROUNDS = 6
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


def _reference(model: dict[str, Any], sizes: Sizes, samples: int) -> Reference:
    kind: Any = {"decoder": DecoderModel, "mlp": MLPModel, "resnet": ResNetModel}[model["kind"]]
    task = TaskSection.model_validate({"kind": "causal_lm" if kind is DecoderModel else "classification"})
    return Reference(kind.model_validate(model), task, sizes, samples)


_SMALL = (
    _reference(
        {"kind": "decoder", "width": 32, "layers": 3, "heads": 2}, Sizes(vocabulary_size=64, sequence_length=16), 2
    ),
    _reference({"kind": "mlp", "hidden": (32, 32, 32)}, Sizes(features=16, classes=4), 16),
)
"""In these launching is most of it."""
_PRODUCTS = (
    _reference(
        {"kind": "decoder", "width": 224, "layers": 3, "heads": 7}, Sizes(vocabulary_size=1536, sequence_length=96), 10
    ),
    _reference({"kind": "mlp", "hidden": (640, 640)}, Sizes(features=96, classes=8), 384),
)
"""In these it is little, and products are most of it; ..."""
_CONVOLUTIONS = (
    _reference({"kind": "resnet", "width": 32, "blocks": (1, 1)}, Sizes(image=(3, 24, 24), classes=4), 32),
)
"""... in these it is convolutions."""
_ALL = (*_SMALL, *_PRODUCTS, *_CONVOLUTIONS)
_LEAST = 0.5
Known = dict["Reference", tuple[Launches, Seconds]]


def fitted(found: dict[str, Curve], cores: int, source: str) -> Curves:
    """`found` with what launching costs, and how much longer kernels take in a network than alone."""
    curves = Curves(source, found)
    traced = {item: trace(item.network, item.task, item.sizes).launches for item in _ALL}
    taken = _measured(cores)
    for threads in sorted({1, cores}):
        for precision in _PRECISIONS:
            known = {item: (traced[item][precision], taken[threads, precision, item]) for item in _ALL}
            curves = _fit(curves, known, precision, threads)
    return curves


def _fit(curves: Curves, known: Known, precision: str, threads: int) -> Curves:
    """Launching by the small networks, kernels of convolutions by the one that is made of them, the rest by the others:
    each from the others as they were found, until they agree."""
    of = f"{precision}/{threads}"
    for _ in range(_ROUNDS):
        for way in ("forward", "backward"):
            free = replace(curves, launching={**curves.launching, f"{way}/{of}": 0.0})
            rest = [_left(free, known[item], item, precision, threads, way) for item in _SMALL]
            curves = replace(free, launching={**free.launching, f"{way}/{of}": max(0.0, statistics.mean(rest))})
        for name, items in ((of, _PRODUCTS), (f"convolution/{of}", _CONVOLUTIONS)):
            ratio = statistics.geometric_mean(_ratio(curves, name, known[i], i, precision, threads) for i in items)
            curves = replace(curves, sustained={**curves.sustained, name: ratio})
    return curves


def _left(
    curves: Curves, known: tuple[Launches, Seconds], item: Reference, precision: str, threads: int, way: str
) -> float:
    """Seconds of each launch that `curves` do not explain."""
    traced, taken = known
    expected = kernels.seconds(traced, Device(curves, precision, threads), item.samples)
    left: float = getattr(taken, way) - getattr(expected, way)
    return left / _count(traced, way == "backward")


def _ratio(
    curves: Curves, name: str, known: tuple[Launches, Seconds], item: Reference, precision: str, threads: int
) -> float:
    """What the kernels that `name` is of took, over what they take alone, if the rest is as `curves` say."""
    traced, taken = known
    one, two = (
        kernels.seconds(traced, Device(replace(curves, sustained={**curves.sustained, name: s}), precision, threads),
                        item.samples)
        for s in (1.0, 2.0)
    )  # fmt: skip
    alone = two.forward + two.backward - one.forward - one.backward
    return max(_LEAST, 1.0 + (taken.forward + taken.backward - one.forward - one.backward) / alone)


def _count(traced: Launches, backward: bool) -> int:
    return sum(x.count for x in (*traced.body, *traced.head, *traced.chunk) if x.backward == backward)


def _measured(cores: int) -> dict[tuple[int, str, Reference], Seconds]:
    """By threads, precision and network. Changes torch's number of threads."""
    found: dict[tuple[int, str, Reference], Seconds] = {}
    for _, threads, precision, item in product(range(_TURNS), sorted({1, cores}), _PRECISIONS, _ALL):
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
