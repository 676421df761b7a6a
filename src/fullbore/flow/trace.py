"""`explain` for traces of PyTorch's profiler: where the time of each rank's device, stream, step and thread went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fullbore.base.errors import UsageError
from fullbore.perf.measure import timeline
from fullbore.perf.measure.timeline import Device, Gaps, Named, Occupancy, Thread
from fullbore.perf.measure.trace import DEVICE, Kind, Trace, read
from fullbore.perf.plan import replay
from fullbore.perf.plan.replay import Share

_NAMES = 10
_KERNELS = (Kind.COMPUTE, Kind.COMMUNICATION)
_DEVICE_PARTS = (replay.COMPUTE, replay.COMMUNICATION, replay.COPIES, replay.MEMSET)
_THREAD_PARTS = {
    Kind.OPERATOR: "operators",
    Kind.LAUNCH: "runtime calls",
    Kind.LOADER: replay.LOADER,
    Kind.COLLECTIVE: replay.COMMUNICATION,
    Kind.PYTHON: replay.PYTHON,
    Kind.ANNOTATION: replay.PYTHON,
    Kind.STEP: replay.PYTHON,
}


@dataclass(frozen=True)
class _Part:
    """A device, or a process without one."""

    share: Share
    begin: int
    """Nanoseconds."""
    told: dict[str, Any]


def explain_traces(paths: Sequence[Path], *, drop_last_step: bool = False) -> dict[str, Any]:
    """The partition of every rank's time, the verdict over all of them and what-ifs, from their traces (schema 1).

    All times are in seconds. `drop_last_step` leaves out the last profiler step, as HTA does. One trace is held at a
    time. Raises InputError for a file that is no trace, OSError for one that cannot be opened.
    """
    if not paths:
        raise UsageError("no trace was named", hint="name a .json or .json.gz file that torch.profiler wrote")
    parts: list[_Part] = []
    missing: list[str] = []
    world, whole = 0, True
    for path in paths:
        trace = read(path)
        whole &= not trace.missing
        world = max(world, trace.world_size or 0)
        found, lacking = _parts_of(timeline.without_last_step(trace) if drop_last_step else trace)
        parts += found
        missing += [*trace.missing, *lacking]
    if world > len(paths):
        missing.append(f"{len(paths)} of {world} ranks were given")
    first = min(part.begin for part in parts)
    return {
        "schema": 1,
        "traces": [str(path) for path in paths],
        "status": "whole" if whole else "partial",
        "missing": missing,
        "verdict": replay.finding([part.share for part in parts]).to_json(),
        "ranks": [{"rank": part.share.rank, "begins": _seconds(part.begin - first), **part.told} for part in parts],
    }


def _parts_of(trace: Trace) -> tuple[list[_Part], list[str]]:
    """The devices of a process, or without any its main thread; and what the answer lacks."""
    rank = trace.path.name if trace.rank is None else f"rank {trace.rank}"
    about = {"file": str(trace.path)}
    devices = timeline.devices(trace)
    if not devices:
        threads = timeline.threads(trace)
        share = _host_share(rank, _main(threads))
        told = f"{trace.path.name} holds no device event: the partition is that of the host's threads"
        return [_Part(share, int(trace.start.min()), {**about, **_host(threads, share)})], [told]
    parts, missing = [], []
    for device in devices:
        share = _share(rank if len(devices) == 1 else f"{rank}, device {device.name}", device)
        parts.append(_Part(share, device.begin, {**about, **_device(device, share)}))
        missing += _unexplained(trace.path, device)
    return parts, missing


def _seconds(nanoseconds: int) -> float:
    return nanoseconds / 1e9


def _parts(names: Sequence[str], nanoseconds: Sequence[int]) -> dict[str, float]:
    return {name: _seconds(time) for name, time in zip(names, nanoseconds, strict=True)}


def _waits(gaps: Gaps) -> dict[str, float]:
    return _parts((replay.HOST_WAIT, replay.KERNEL_WAIT, replay.OTHER_IDLE), (gaps.host, gaps.kernel, gaps.other))


def _idle_in(occupancy: Occupancy) -> dict[str, float]:
    """Idle seconds by what the host did meanwhile: the first of these that any of its threads was in."""
    order = (*DEVICE, Kind.LOADER, Kind.LAUNCH, Kind.OPERATOR)
    return _parts((replay.LOADER, "runtime calls", "operators", "elsewhere"), occupancy.in_turn(order)[len(DEVICE) :])


def _share(name: str, device: Device) -> Share:
    busy = device.occupancy.in_turn(DEVICE)[:-1]
    return Share(
        rank=name,
        parts={**_parts(_DEVICE_PARTS, busy), **_waits(device.gaps)},
        idle_in=_idle_in(device.occupancy),
        communication=_seconds(device.occupancy.any(Kind.COMMUNICATION)),
    )


def _device(device: Device, share: Share) -> dict[str, Any]:
    occupancy = device.occupancy
    communication = occupancy.any(Kind.COMMUNICATION)
    overlap = occupancy.both(Kind.COMMUNICATION, Kind.COMPUTE)
    return {
        "device": device.name,
        "seconds": _seconds(occupancy.whole),
        "events": device.events,
        "partition": _ledger(share.parts),
        "idle_while_host_in": dict(share.idle_in),
        "communication": {
            "seconds": _seconds(communication),
            "exposed": share.parts[replay.COMMUNICATION],
            "overlap": overlap / communication if communication else None,
        },
        "copies": {
            "seconds": _seconds(occupancy.any(Kind.COPY)),
            "exposed": share.parts[replay.COPIES],
            "kinds": [_named(entry) for entry in device.names if entry.kind is Kind.COPY][:_NAMES],
        },
        "streams": [
            {
                "stream": stream.name,
                "events": stream.events,
                "busy": _seconds(stream.busy),
                "idle": _waits(stream.gaps),
            }
            for stream in device.streams
        ],
        "steps": [
            {
                "step": step.name,
                "seconds": _seconds(step.occupancy.whole),
                "partition": _ledger({
                    **_parts(_DEVICE_PARTS, step.occupancy.in_turn(DEVICE)[:-1]),
                    **{f"idle, host in {what}": time for what, time in _idle_in(step.occupancy).items()},
                }),
            }
            for step in device.steps
        ],
        "kernels": [_named(entry) for entry in device.names if entry.kind in _KERNELS][:_NAMES],
    }  # fmt: skip


def _ledger(parts: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Seconds and share of each part; the shares sum to 1."""
    whole = sum(parts.values()) or 1.0
    return {part: {"seconds": time, "share": time / whole} for part, time in parts.items()}


def _named(entry: Named) -> dict[str, Any]:
    kind = entry.kind.name.lower()
    return {"name": entry.name, "kind": kind, "count": entry.count, "seconds": _seconds(entry.nanoseconds)}


def _unexplained(path: Path, device: Device) -> list[str]:
    """What the idle reasons of a device lack."""
    if not device.unlaunched:
        return []
    told = f"{device.unlaunched:,} of {device.events:,} events of device {device.name} have no launching call"
    return [f"{path.name}: {told}: the idle time before them cannot be host wait"]


def _main(threads: Sequence[Thread]) -> Thread:
    """The thread that steps the profiler, else the busiest."""
    return next((t for t in threads if any(entry.kind is Kind.STEP for entry in t.names)), threads[0])


def _thread_parts(thread: Thread) -> dict[str, float]:
    """Own seconds of a thread by what it did; the rest is what nothing was recorded of."""
    parts: dict[str, float] = {}
    for kind, time in thread.own:
        parts[_THREAD_PARTS[kind]] = parts.get(_THREAD_PARTS[kind], 0.0) + _seconds(time)
    return {**parts, replay.NOTHING: _seconds(thread.nanoseconds - sum(time for _, time in thread.own))}


def _host_share(rank: str, thread: Thread) -> Share:
    parts = _thread_parts(thread)
    return Share(rank=rank, parts=parts, idle_in={}, communication=parts.get(replay.COMMUNICATION, 0.0))


def _host(threads: Sequence[Thread], share: Share) -> dict[str, Any]:
    return {
        "device": None,
        "seconds": share.span,
        "partition": _ledger(share.parts),
        "threads": [
            {
                "thread": thread.name,
                "partition": _ledger(_thread_parts(thread)),
                "operators": [_named(entry) for entry in thread.names[:_NAMES]],
            }
            for thread in threads
        ],
    }
