"""Ceilings of accelerators that one does not have, from published figures: bounds that a step will not beat.

Kernels alone: what the host needs to launch them is not in any table, and what a step launches is traced for a CPU.
Products of bf16 have measured rates by shape where a table exists; all else is bounded by the fastest product that was
found and by the memory's bandwidth (Williams, Waterman and Patterson 2009).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from itertools import product

from fullbore.base.errors import UsageError
from fullbore.spec.curves import Curve, Curves
from fullbore.spec.hardware import Ceilings

_SIDES = (16.0, 64.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0)
_TABLE = (256.0, 512.0, 1024.0, 2048.0, 4096.0)
_BATCHES = (1.0, 4096.0)
_LENGTHS = (16.0, 256.0, 4096.0)
_BYTES = (2.0**10, 2.0**40)
_SIZES = {"fp32": 4, "bf16": 2}
_DATED = "2026-08-22"


def _rows(name: str) -> list[dict[str, str]]:
    text = (files(__package__) / name).read_text(encoding="utf-8")
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


@cache
def devices() -> dict[str, dict[str, str]]:
    """What was published, by the name that `ceilings` knows."""
    return {row["name"]: row for row in _rows("accelerator_peaks.csv")}


def ceilings(name: str) -> Ceilings:
    """Of one device. Raises UsageError for one of which nothing is packaged."""
    if name not in devices():
        raise UsageError(f"device: found {name!r}, expected one of {', '.join(devices())}")
    row = devices()[name]
    bandwidth = float(row["bandwidth_gb_s"]) * 1e9
    rates = {"bf16": float(row["best_tflops"] or row["peak_tflops"]) * 1e12, "fp32": float(row["fp32_tflops"]) * 1e12}
    return Ceilings(
        fingerprint=f"published-{name}",
        measured_at=_DATED,
        matmul_flops={dtype: {1: rate} for dtype, rate in rates.items()},
        memory_bandwidth=bandwidth,
        disk_write=math.inf,
        disk_read=math.inf,
        curves=_curves(row, rates, bandwidth),
    )


def _curves(row: dict[str, str], rates: dict[str, float], bandwidth: float) -> Curves:
    kernels: dict[str, Curve] = {}
    for dtype, rate in rates.items():
        size = _SIZES[dtype]

        def curve(axes: tuple[tuple[float, ...], ...], flops: _Count, elements: _Count) -> Curve:
            points = product(*axes)
            return Curve(axes, tuple(max(flops(*p) / rate, size * elements(*p) / bandwidth) for p in points))  # noqa: B023

        made = {
            "map": Curve((_BYTES,), tuple(moved / bandwidth for moved in _BYTES)),
            "product": curve((_SIDES,) * 3, lambda m, n, k: 2 * m * n * k, lambda m, n, k: m * n + m * k + n * k),
            "bmm": curve(
                (_BATCHES, *(_LENGTHS,) * 3),
                lambda b, m, n, k: 2 * b * m * n * k,
                lambda b, m, n, k: b * (m * n + m * k + n * k),
            ),
            "attention": curve(
                (_BATCHES, _LENGTHS, _LENGTHS), lambda b, t, w: 4 * b * t * t * w, lambda b, t, w: 4 * b * t * w
            ),
            "attention.backward": curve(
                (_BATCHES, _LENGTHS, _LENGTHS), lambda b, t, w: 10 * b * t * t * w, lambda b, t, w: 8 * b * t * w
            ),
            "packed": curve(
                (_BATCHES, _LENGTHS, _LENGTHS, _LENGTHS),
                lambda b, h, t, w: 4 * b * h * t * t * w,
                lambda b, h, t, w: 4 * b * h * t * w,
            ),
            "packed.backward": curve(
                (_BATCHES, _LENGTHS, _LENGTHS, _LENGTHS),
                lambda b, h, t, w: 10 * b * h * t * t * w,
                lambda b, h, t, w: 8 * b * h * t * w,
            ),
            "convolution": curve(
                (_LENGTHS, _LENGTHS, _LENGTHS, (1.0, 64.0)),
                lambda places, wider, inputs, area: 2 * places * wider * inputs * area,
                lambda places, wider, inputs, area: places * (wider + inputs) + wider * inputs * area,
            ),
            "update": curve((_BATCHES, _BYTES), lambda *_: 0.0, lambda count, each: 7 * count * each),
        }
        if dtype == "bf16" and row["products"]:
            made["product"] = _measured(row["products"])
        kernels |= {f"{name}/{dtype}/1": made[kind] for kind, names in _NAMES.items() for name in names}
    return Curves(_source(row), kernels)


_Count = Callable[..., float]
_ATTENTIONS = ("attention", "attention.causal")
_PACKED = ("packed_attention", "packed_attention.dropout")
_NAMES = {
    "map": ("map",),
    "product": tuple(f"product.{layout}" for layout in ("NN", "NT", "TN", "TT")),
    "bmm": tuple(f"bmm.{layout}" for layout in ("NN", "NT", "TN", "TT")),
    "attention": _ATTENTIONS,
    "attention.backward": tuple(f"{name}.backward" for name in _ATTENTIONS),
    "packed": _PACKED,
    "packed.backward": tuple(f"{name}.backward" for name in _PACKED),
    "convolution": tuple(f"convolution{n}{part}" for n in (1, 2) for part in ("", ".input", ".weight")),
    "update": ("adamw", "sgd"),
}  # fmt: skip


def _measured(device: str) -> Curve:
    found = {
        (float(row["m"]), float(row["n"]), float(row["k"])): float(row["flops_per_s"])
        for row in _rows("accelerator_products.csv")
        if row["device"] == device
    }
    return Curve((_TABLE,) * 3, tuple(2 * math.prod(sides) / found[sides] for sides in product(*(_TABLE,) * 3)))


def _source(row: dict[str, str]) -> str:
    bounds = "Stas Bekman, Machine Learning Engineering, at 744d01e1 (vendor peaks, fastest bf16 product found)"
    if not row["products"]:
        return f"{row['device']}: {bounds}; no rates by shape were published"
    return f"{row['device']}: bf16 products by shape, openxla/xla key {row['products']}, at 183fa00c; the rest {bounds}"
