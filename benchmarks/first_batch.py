"""The first batch of 10^8 samples: seconds to it, and the memory that the order takes.

python benchmarks/first_batch.py [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import tracemalloc

import numpy as np

from fullbore.data.order import Order

ROWS, BATCH, ROUNDS = 10**8, 256, 21


def first_batch(seed: int) -> float:
    began = time.perf_counter()
    ids = Order(seed, ROWS).ids(np.arange(BATCH))
    seconds = time.perf_counter() - began
    assert len(set(ids.tolist())) == BATCH
    return seconds


def shuffled_array(seed: int) -> float:
    """What a loader that shuffles an array of the epoch does before its first batch (torch's RandomSampler)."""
    import torch

    began = time.perf_counter()
    torch.randperm(ROWS, generator=torch.Generator().manual_seed(seed))[:BATCH].tolist()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    cold = first_batch(0)
    warm = [first_batch(seed) for seed in range(ROUNDS)]
    tracemalloc.start()
    first_batch(1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    figures = {
        "rows": ROWS,
        "batch": BATCH,
        "cold_seconds": cold,
        "warm_seconds": statistics.median(warm),
        "peak_bytes": peak,
        "array_seconds": shuffled_array(0),
        "array_bytes": ROWS * 8,
        "goal_seconds": 0.05,
    }
    print(json.dumps(figures) if as_json else "\n".join(f"{key:<14} {value}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
