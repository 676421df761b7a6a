"""Whether a run is looked at, or goes on, on the machine that it began on, and whether that was measured."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fullbore.base.paths import machine_cache
from fullbore.base.units import format_bytes
from fullbore.perf.measure import probe
from fullbore.record.run import RunFolder

_TOLD = ("processor", "cores", "memory_bytes", "flags", "torch")


def another(folder: RunFolder) -> str | None:
    """What this machine is that the one the run began on was not; none if it is the same, or nobody knows."""
    before, here = folder.environment().get("machine") or {}, asdict(probe.machine())
    if before.get("fingerprint") in (None, here["fingerprint"]):
        return None
    changed = [
        f"{_shown(key, here)}, not {_shown(key, before)}" for key in _TOLD if _plain(before, key) != _plain(here, key)
    ]
    return "; ".join(changed) or f"fingerprint {here['fingerprint']}, not {before['fingerprint']}"


def _plain(machine: dict[str, Any], key: str) -> Any:
    value = machine.get(key)
    return list(value) if isinstance(value, tuple) else value


def _shown(key: str, machine: dict[str, Any]) -> str:
    value = machine.get(key)
    if key == "memory_bytes":
        return f"{format_bytes(value or 0)} of memory"
    return " ".join(value or ()) if key == "flags" else f"{key} {value}"


def unmeasured() -> str | None:
    """What to say if this machine's ceilings are about to be measured though another's are known here; none if not."""
    known = sorted(path.stem.removeprefix("ceilings-") for path in machine_cache().glob("ceilings-*.json"))
    here = probe.machine().fingerprint
    if not known or here in known:
        return None
    return f"this machine ({here}) is not the one that was measured before ({', '.join(known)}): it is measured now"
