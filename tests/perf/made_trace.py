"""Traces made for tests, and the real ones."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[1] / "data_kineto"
ABOUT = {"schemaVersion": 1, "distributedInfo": {"backend": "nccl", "rank": 3, "world_size": 8}}


def real(name: str) -> Path:
    return DATA / f"{name}.json.gz"


def event(category: str, name: str, start: float, lasts: float, **about: Any) -> dict[str, Any]:
    """A device's event with `stream=`, a launch with `correlation=`; times in microseconds."""
    place = {"pid": 0, "tid": about.get("stream", 100)} if "stream" in about else {"pid": 100, "tid": 100}
    return {"ph": "X", "cat": category, "name": name, **place, "ts": start, "dur": lasts, "args": about}


def kernel(name: str, start: float, lasts: float, stream: int = 7, **about: Any) -> dict[str, Any]:
    return event("kernel", name, start, lasts, device=0, stream=stream, **about)


def write(path: Path, events: Iterable[dict[str, Any]], **about: Any) -> Path:
    path.write_text(json.dumps({**ABOUT, **about, "traceEvents": list(events)}, indent=2))
    return path


def write_large(path: Path, megabytes: int) -> int:
    """A trace in Kineto's shape: a call, its flow and its kernel by turns, not in order of time; how many intervals."""
    wanted, count = megabytes * 1_000_000, 0
    with open(path, "w") as file:
        written = file.write('{\n  "schemaVersion": 1,\n  "traceEvents": [\n')
        while written < wanted:
            part = []
            for at in range(count, count + 2000, 2):
                call = event("cuda_runtime", "cudaLaunchKernel", 10 * at + 0.125, 5.5, cbid=211, correlation=at)
                flow = {"ph": "s", "id": at, "pid": 100, "tid": 100, "ts": 10 * at, "cat": "ac2g", "name": "ac2g"}
                name = f"void at::native::vectorized_elementwise_kernel<4, at::native::Functor{at % 97}<float> >"
                made = kernel(name, 10 * at + 8.25, 15, correlation=at, grid=[80, 1, 1], block=[256, 1, 1])
                part += [made, flow, call]
            written += file.write(",\n  ".join(json.dumps(one) for one in part) + ",\n  ")
            count += 2000
        last = {"ph": "i", "s": "g", "name": "Record Window End", "ts": 0}
        file.write(json.dumps(last) + '\n  ],\n  "traceName": "made"\n}\n')
    return count
