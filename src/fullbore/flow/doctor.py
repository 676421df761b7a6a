"""`doctor`: what this machine is, what it reaches, and what it lacks."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

from fullbore.base.paths import machine_cache, runs_root
from fullbore.engine.process import settle
from fullbore.perf.measure import probe
from fullbore.record.run import environment
from fullbore.spec.curves import Curves

_OPTIONAL = {
    "sklearn": "the digits and diabetes recipes: pip install scikit-learn",
    "ray": "clusters: pip install ray",
    "openvino": "a faster engine for inference on CPUs: pip install openvino",
}
_SHAPES = ((16, 256, 256), (256, 256, 256), (2048, 256, 256), (2048, 1024, 256), (2048, 1024, 1024))
"""Rows, columns and inner side of the products that are told."""


def doctor(*, refresh: bool = False, brief: bool = False) -> dict[str, Any]:
    """The machine, its measured ceilings (cached by host; `refresh` measures again) and what is missing (schema 2).

    Of the curves of kernels it tells what they say of some sizes; they are kept whole in the cache. `brief`: they are
    not measured, if they were not.
    """
    folder = runs_root() if runs_root().is_dir() else machine_cache()
    folder.mkdir(parents=True, exist_ok=True)
    settle()
    ceilings = probe.probe(refresh=refresh, folder=folder, kernels=not brief)
    disk = shutil.disk_usage(folder)
    return {
        "schema": 2,
        "machine": asdict(probe.machine()),
        "ceilings": {**ceilings.to_json(), "curves": _told(ceilings.curves)},
        "disk": {"folder": str(folder), "free_bytes": disk.free, "total_bytes": disk.total},
        "environment": environment(),
        "missing": {name: use for name, use in _OPTIONAL.items() if find_spec(name) is None},
    }


def _told(known: Curves | None) -> dict[str, Any] | None:
    """Where they come from, and FLOP/s of products by shape, dtype and threads, bytes/s of sums of arrays by their
    size, and seconds that a launch costs in a network."""
    if known is None:
        return None
    products: dict[str, dict[str, float]] = {}
    for name, curve in known.kernels.items():
        kind, dtype, threads = name.split("/")
        if kind == "product.NT":
            rates = {f"{m}x{n}x{k}": 2.0 * m * n * k / curve.at((m, n, k)) for m, n, k in _SHAPES}
            products[f"{dtype}/{threads}"] = rates
    moving = {
        name.split("/", 1)[1]: {str(int(size)): size / curve.at((size,)) for size in curve.axes[0]}
        for name, curve in known.kernels.items()
        if name.startswith("map/")
    }
    return {
        "source": known.source,
        "kernels": len(known.kernels),
        "products": products,
        "moving": moving,
        "launching": known.launching,
        "sustained": known.sustained,
    }
