"""Energy counters of this machine: RAPL of processors and their memory, NVML of accelerators, where they can be read.

RAPL counts all that runs on a package, whoever runs it; NVML all that runs on an accelerator. Neither counts fans,
disks, or what the power supply loses. Batteries are not asked: they tell of the whole machine, and seldom.
Source: Documentation/power/powercap/powercap.rst; since Linux 5.10 only root may read `energy_uj` (CVE-2020-8694).
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")
_ZONE = re.compile(r"intel-rapl:\d+(:\d+)?")
_COUNTED = re.compile(r"package-|dram$")
"""Of a zone's name. `core` and `uncore` are parts of their package, `psys` holds it."""


@dataclass
class _Counter:
    """One counter and what it has counted since the meter began."""

    read: Callable[[], float]
    """Joules. Raises OSError, ValueError or what NVML raises."""
    span: float
    """Joules after which it begins again at zero; 0: it does not."""
    last: float
    total: float = 0.0

    def joules(self) -> float:
        """What it counted so far. Of a counter that went round more than once between two calls, all but one round is
        lost; it takes a package of 200 W some twenty minutes."""
        try:
            now = self.read()
        except Exception:
            return self.total
        grown = now - self.last
        self.last = now
        self.total += grown if grown >= 0 else max(0.0, grown + self.span)
        return self.total


class Meter:
    """All counters of this machine that can be read, from now on."""

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self.problems: list[str] = []
        """Counters that are there and cannot be read, and why."""
        self._counters = {**_rapl(powercap, self.problems), **_nvml(self.problems)}

    @property
    def names(self) -> tuple[str, ...]:
        """`package-0`, `package-0 dram`, `accelerator 0` and so on."""
        return tuple(self._counters)

    def joules(self) -> Mapping[str, float]:
        """By counter, since the meter began."""
        return {name: counter.joules() for name, counter in self._counters.items()}


def _rapl(folder: Path, problems: list[str]) -> dict[str, _Counter]:
    found: dict[str, _Counter] = {}
    names: dict[str, str] = {}
    for zone in sorted(folder.glob("intel-rapl:*")):
        if not _ZONE.fullmatch(zone.name):
            continue
        try:
            name = names[zone.name] = (zone / "name").read_text().strip()
            if not _COUNTED.match(name):
                continue
            parent = names.get(zone.name.rpartition(":")[0])
            label = f"{parent} {name}" if parent is not None else name

            def read(path: Path = zone / "energy_uj") -> float:
                return int(path.read_text()) / 1e6

            found[label] = _Counter(read, _span(zone), read())
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a number"
            problems.append(f"{zone / 'energy_uj'}: {reason}")
    return found


def _span(zone: Path) -> float:
    try:
        return int((zone / "max_energy_range_uj").read_text()) / 1e6
    except (OSError, ValueError):
        return 0.0


def _nvml(problems: list[str]) -> dict[str, _Counter]:
    """Every accelerator that NVIDIA's driver knows (Volta and later count energy), if `nvidia-ml-py` is installed."""
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
        count = nvml.nvmlDeviceGetCount()
    except Exception:  # not installed, no driver, no device: nothing to read
        return {}
    found = {}
    for index in range(count):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)

            def read(handle: Any = handle) -> float:
                return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3

            found[f"accelerator {index}"] = _Counter(read, 0.0, read())
        except Exception as error:
            problems.append(f"accelerator {index}: {error}")
    return found
