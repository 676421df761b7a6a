"""How fast networks answer on this host: interleaved rounds, so that a busy neighbour slows them all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fullbore.compress.guard import Ratio
from fullbore.models.supervised import answers
from fullbore.perf.measure import proc, stats

_NEW_TOKENS = 8
_ROUNDS = (5, 15)
"""Rounds at least, and at most if they are short."""
_SECONDS = 3.0
"""After this long no round is added to the least."""

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Speed:
    """Medians over the rounds."""

    samples_per_second: float
    spread: tuple[float, float]
    """Samples/s of the slowest and of the fastest round."""
    latency_ms: float
    """Of a batch of one."""
    threads: int
    rounds: int
    speedup: dict[str, Ratio]
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


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with `count` threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def best_threads(module: nn.Module, batch: Batch, task: str) -> int:
    """One thread, or all that this process may use: what answers `batch` sooner now."""

    def seconds(count: int) -> float:
        with threads(count):
            return min(_timed(module, batch, task) for _ in range(3))

    return min(sorted({1, proc.core_count()}), key=seconds)


def compare(
    networks: Mapping[str, nn.Module],
    batches: Sequence[Batch],
    task: str,
    *,
    rounds: tuple[int, int] = _ROUNDS,
    limit: float = _SECONDS,
) -> dict[str, Speed]:
    """Time the networks against the first of them, each with the threads that suit it; each has answered before, so
    nothing is being warmed up."""
    counts = {name: best_threads(module, batches[0], task) for name, module in networks.items()}
    seconds: dict[str, dict[str, list[float]]] = {name: {"throughput": [], "latency": []} for name in networks}
    rates: dict[str, list[float]] = {name: [] for name in networks}
    least, most = rounds
    began, done = time.perf_counter(), 0
    while done < least or (done < most and time.perf_counter() - began < limit):
        batch = batches[done % len(batches)]
        one = {key: value[:1] for key, value in batch.items()}
        for name, module in networks.items():
            with threads(counts[name]):
                took = _timed(module, batch, task)
                seconds[name]["throughput"].append(took)
                rates[name].append(len(next(iter(batch.values()))) / took)
                seconds[name]["latency"].append(_timed(module, one, task))
        done += 1
    first = seconds[next(iter(networks))]
    return {
        name: Speed(
            samples_per_second=statistics.median(rates[name]),
            spread=(min(rates[name]), max(rates[name])),
            latency_ms=statistics.median(own["latency"]) * 1000,
            threads=counts[name],
            rounds=done,
            speedup={key: _ratio(first[key], own[key]) for key in own},
        )
        for name, own in seconds.items()
    }


def _timed(module: nn.Module, batch: Batch, task: str) -> float:
    began = time.perf_counter()
    answer(module, batch, task)
    return time.perf_counter() - began


def _ratio(first: Sequence[float], own: Sequence[float]) -> Ratio:
    ratios = [one / other for one, other in zip(first, own, strict=True)]
    return Ratio(statistics.median(ratios), *stats.interval(ratios))
