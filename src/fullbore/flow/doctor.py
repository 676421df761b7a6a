"""`doctor`: what this machine is, what it reaches, and what it lacks."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

from fullbore.base.paths import machine_cache, runs_root
from fullbore.perf.measure import probe
from fullbore.record.run import environment

_OPTIONAL = {
    "sklearn": "the digits and diabetes recipes: pip install scikit-learn",
    "ray": "clusters: pip install ray",
    "openvino": "a faster engine for inference on CPUs: pip install openvino",
}


def doctor(*, refresh: bool = False) -> dict[str, Any]:
    """The machine, its measured ceilings (cached by host; `refresh` measures again) and what is missing (schema 1)."""
    folder = runs_root() if runs_root().is_dir() else machine_cache()
    folder.mkdir(parents=True, exist_ok=True)
    disk = shutil.disk_usage(folder)
    return {
        "schema": 1,
        "machine": asdict(probe.machine()),
        "ceilings": probe.probe(refresh=refresh, folder=folder).to_json(),
        "disk": {"folder": str(folder), "free_bytes": disk.free, "total_bytes": disk.total},
        "environment": environment(),
        "missing": {name: use for name, use in _OPTIONAL.items() if find_spec(name) is None},
    }
