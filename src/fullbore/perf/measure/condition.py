"""What state the machine is in, before and after a measurement, and who else used it meanwhile."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from fullbore.perf.measure import proc

_DISTURBED_SHARE = 0.1
"""Share of the cores from which on others' use of them disturbs."""
_DISTURBED_SECONDS = 0.05
"""Core-seconds below which the kernel's clock ticks cannot tell."""


def condition() -> dict[str, Any]:
    """`load` (1, 5, 15 minutes), `cores`, `memory_available` (bytes), `megahertz` (mean of the cores; none: not
    readable), `governor` (none: not readable) and `at` (epoch seconds)."""
    governor = proc.read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip()
    return {
        "at": time.time(),
        "load": list(os.getloadavg()),
        "cores": proc.core_count(),
        "memory_available": proc.memory_available(),
        "megahertz": megahertz(),
        "governor": governor or None,
    }


def megahertz() -> float | None:
    """What the cores run at now, their mean; none where nobody tells. A virtual machine tells a constant."""
    files = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    found = [float(text) / 1e3 for text in (proc.read(str(path)) for path in files) if text.strip()]
    if not found:
        lines = (line.partition(":") for line in proc.read("/proc/cpuinfo").splitlines())
        found = [float(value) for name, _, value in lines if name.strip() == "cpu MHz"]
    return sum(found) / len(found) if found else None


class Watch:
    """What others use of our cores from now on, while a child process is measured."""

    def __init__(self) -> None:
        self._neighbours, self._machine = proc.Neighbours(), proc.machine_times(proc.allowed_cores())
        self._began = time.perf_counter()

    def ended(self, cpu_seconds: float) -> dict[str, Any]:
        """`others` and `steal` (cores, on average), `megahertz`, and whether that `disturbed` the measurement.

        `cpu_seconds`: what the child used.
        """
        seconds = time.perf_counter() - self._began
        others = max(0.0, self._neighbours.cores() - cpu_seconds / seconds)
        now = proc.machine_times(proc.allowed_cores())
        steal = (now.steal - self._machine.steal) / seconds if now and self._machine else 0.0
        taken = others + steal
        disturbed = taken > _DISTURBED_SHARE * proc.core_count() and taken * seconds > _DISTURBED_SECONDS
        return {"others": others, "steal": steal, "megahertz": megahertz(), "disturbed": disturbed}
