"""How fast networks answer on this host: interleaved rounds, so that a busy neighbour slows them all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fullbore.models.supervised import answers

_NEW_TOKENS = 8

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Speed:
    """Medians over the rounds."""

    samples_per_second: float
    latency_ms: float
    """Of a batch of one."""
    speedup: dict[str, float]
    """"throughput" and "latency": times faster than the first network in the same round."""


@torch.inference_mode()
def answer(module: nn.Module, batch: Batch, task: str) -> None:
    """What serving does with `batch`: a forward pass; a language model reads the text and writes 8 tokens."""
    if task != "causal_lm":
        answers(module, dict(batch))
        return
    network: Any = module
    tokens = batch["tokens"]
    prompt = tokens[:, : max(1, tokens.shape[1] - 1 - _NEW_TOKENS)]
    cache = network.cache(len(prompt), prompt.shape[1] + _NEW_TOKENS)
    network.next_logits(prompt, cache)
    for _ in range(_NEW_TOKENS - 1):
        network.next_logits(prompt[:, -1:], cache)


def compare(networks: Mapping[str, nn.Module], batches: Sequence[Batch], task: str, rounds: int) -> dict[str, Speed]:
    """Time the networks against the first of them; each has answered once before, so nothing is being warmed up."""
    seconds: dict[str, dict[str, list[float]]] = {name: {"throughput": [], "latency": []} for name in networks}
    rates: dict[str, list[float]] = {name: [] for name in networks}
    for index in range(rounds):
        batch = batches[index % len(batches)]
        one = {key: value[:1] for key, value in batch.items()}
        for name, module in networks.items():
            took = _timed(module, batch, task)
            seconds[name]["throughput"].append(took)
            rates[name].append(len(next(iter(batch.values()))) / took)
            seconds[name]["latency"].append(_timed(module, one, task))
    first = seconds[next(iter(networks))]
    return {
        name: Speed(
            statistics.median(rates[name]),
            statistics.median(own["latency"]) * 1000,
            {key: _ratio(first[key], own[key]) for key in own},
        )
        for name, own in seconds.items()
    }


def _timed(module: nn.Module, batch: Batch, task: str) -> float:
    began = time.perf_counter()
    answer(module, batch, task)
    return time.perf_counter() - began


def _ratio(first: Sequence[float], own: Sequence[float]) -> float:
    return statistics.median(one / other for one, other in zip(first, own, strict=True))
