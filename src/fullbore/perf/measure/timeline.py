"""Where the time of a trace went: which kinds of work ran at each instant, per device, stream, step and thread.

All sums are exact in whole nanoseconds. A device's figures come from one count: how long each set of kinds was active
at once (`Occupancy`); compute, exposed communication, overlap and idle are sums over it, in any order of precedence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fullbore.perf.measure.trace import DEVICE, Kind, Times, Trace

KERNEL_WAIT = 30_000
"""Nanoseconds: a gap on a stream below this is what it takes to launch the next kernel (HTA's default, 30 µs)."""

_BITS = (*DEVICE, Kind.LAUNCH, Kind.LOADER, Kind.OPERATOR, Kind.ANNOTATION)
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Occupancy:
    """Nanoseconds for which each set of kinds was active at once: entry `m` holds the kinds whose bit is set in `m`."""

    nanoseconds: tuple[int, ...]

    def any(self, *kinds: Kind, without: Iterable[Kind] = ()) -> int:
        """Time in which at least one of `kinds` ran and none of `without`."""
        wanted, barred = _mask(kinds), _mask(without)
        return sum(time for mask, time in enumerate(self.nanoseconds) if mask & wanted and not mask & barred)

    def both(self, one: Kind, other: Kind) -> int:
        """Time in which both ran."""
        pair = _mask((one, other))
        return sum(time for mask, time in enumerate(self.nanoseconds) if mask & pair == pair)

    def in_turn(self, order: Sequence[Kind]) -> tuple[int, ...]:
        """The whole time as a partition: each kind of `order` counts where none before it ran; last, where none did."""
        shares = [self.any(kind, without=order[:place]) for place, kind in enumerate(order)]
        return (*shares, self.whole - sum(shares))

    @property
    def whole(self) -> int:
        return sum(self.nanoseconds)


@dataclass(frozen=True)
class Gaps:
    """Idle nanoseconds by what the next kernel waited for, as HTA has it: `host`, its launch began after the work
    before it had ended; else `kernel`, a gap below `KERNEL_WAIT`; else `other`."""

    host: int
    kernel: int
    other: int


@dataclass(frozen=True)
class Stream:
    """From the first start to the last end on it, `busy` + the gaps."""

    name: str
    events: int
    busy: int
    gaps: Gaps


@dataclass(frozen=True)
class Step:
    """A profiler step, to the end of the device's work that was launched in it; begins where the step before ended."""

    name: str
    occupancy: Occupancy


@dataclass(frozen=True)
class Named:
    """What ran under one name: how often, and the sum of its nanoseconds (on the host: its own, not its calls')."""

    name: str
    kind: Kind
    count: int
    nanoseconds: int


@dataclass(frozen=True)
class Device:
    """One device of one process, from the start of its first event to the end of its last."""

    name: str
    begin: int
    end: int
    events: int
    unlaunched: int
    """Events whose launching call is not in the trace: their gaps cannot be host wait."""
    occupancy: Occupancy
    gaps: Gaps
    streams: tuple[Stream, ...]
    steps: tuple[Step, ...]
    names: tuple[Named, ...]
    """The longest in sum first."""


@dataclass(frozen=True)
class Thread:
    """A thread of the host from the first to the last host event of its process: own time by kind, the rest is idle."""

    name: str
    nanoseconds: int
    own: tuple[tuple[Kind, int], ...]
    names: tuple[Named, ...]


def _mask(kinds: Iterable[Kind]) -> int:
    return sum(1 << _BITS.index(kind) for kind in set(kinds))


def union(start: Times, end: Times) -> tuple[Times, Times]:
    """The union of intervals as disjoint ones in order."""
    if not len(start):
        return start, end
    order = np.argsort(start, kind="stable")
    start, end = start[order], np.maximum.accumulate(end[order])
    first = np.concatenate(([True], start[1:] > end[:-1]))
    return start[first], end[np.concatenate((first[1:], [True]))]


class _Sweep:
    """The instants at which the set of active kinds changes."""

    def __init__(self, trace: Trace, rows: NDArray[np.bool_], marks: Sequence[int]) -> None:
        instants, turns = [np.array(marks, np.int64)], [np.zeros(len(marks), np.int16)]
        for bit, kind in enumerate(_BITS):
            chosen = (trace.kind == kind) & rows
            start, end = union(trace.start[chosen], trace.end[chosen])
            instants += [start, end]
            turns += [np.full(len(start), 1 << bit, np.int16), np.full(len(end), -(1 << bit), np.int16)]
        times = np.concatenate(instants)
        instants.clear()
        order = np.argsort(times, kind="stable")
        self._times = times[order]
        self._active = np.cumsum(np.concatenate(turns)[order], dtype=np.int16)

    def between(self, begin: int, end: int) -> Occupancy:
        """What was active in [begin, end]; both must be starts, ends or marks."""
        low, high = np.searchsorted(self._times, (begin, end), "left").tolist()
        sums = np.zeros(1 << len(_BITS))
        for block in range(low, high, _BLOCK):
            until = min(block + _BLOCK, high)
            lengths = np.diff(self._times[block : until + 1])
            sums += np.bincount(self._active[block:until], weights=lengths, minlength=len(sums))
        return Occupancy(tuple(int(value) for value in sums))


def _launches(trace: Trace) -> NDArray[np.int64]:
    """For each event the row of the first call with its correlation id, -1: none."""
    calls = np.flatnonzero((trace.kind == Kind.LAUNCH) & (trace.correlation >= 0))
    calls = calls[np.argsort(trace.correlation[calls], kind="stable")]
    found = np.full(len(trace), -1, np.int64)
    device = np.flatnonzero((trace.kind <= Kind.MEMSET) & (trace.correlation >= 0))
    if len(calls) and len(device):
        place = np.minimum(np.searchsorted(trace.correlation[calls], trace.correlation[device]), len(calls) - 1)
        same = trace.correlation[calls[place]] == trace.correlation[device]
        found[device[same]] = calls[place[same]]
    return found


def without_last_step(trace: Trace) -> Trace:
    """As HTA compares: of two or more profiler steps the last is dropped, with every host event that does not start
    before it and every device event that none of the rest launched. With fewer steps, the trace as it is."""
    starts = trace.start[trace.kind == Kind.STEP]
    if len(set(starts.tolist())) < 2:
        return trace
    early = trace.start < starts.max()
    launches = _launches(trace)
    keep = np.where(trace.kind <= Kind.MEMSET, (launches >= 0) & early[launches], early)
    names = ("start", "end", "correlation", "name", "track", "kind")
    return replace(trace, **{name: getattr(trace, name)[keep] for name in names})


def devices(trace: Trace) -> tuple[Device, ...]:
    """Every device that the process used, in order of its name."""
    launches, on_device = _launches(trace), trace.kind <= Kind.MEMSET
    owners: dict[str, list[int]] = {}
    for track in np.unique(trace.track[on_device]).tolist():
        owners.setdefault(str(trace.tracks[track][0]), []).append(track)
    return tuple(
        _device(trace, name, on_device & np.isin(trace.track, owners[name]), launches) for name in sorted(owners)
    )


def _device(trace: Trace, name: str, rows: NDArray[np.bool_], launches: NDArray[np.int64]) -> Device:
    begin, end = int(trace.start[rows].min()), int(trace.end[rows].max())
    steps = _steps(trace, rows, launches)
    occupancy, *by_step = _occupancies(trace, rows, [(begin, end), *(span for _, span in steps)])
    streams = []
    for track in np.unique(trace.track[rows]).tolist():
        chosen = np.flatnonzero(rows & (trace.track == track))
        busy, gaps = _gaps(trace, chosen, launches)
        streams.append(Stream(str(trace.tracks[track][1]), len(chosen), busy, gaps))
    return Device(
        name=name,
        begin=begin,
        end=end,
        events=int(rows.sum()),
        unlaunched=int((launches[rows] < 0).sum()),
        occupancy=occupancy,
        gaps=_gaps(trace, np.flatnonzero(rows), launches)[1],
        streams=tuple(sorted(streams, key=lambda stream: -stream.busy)),
        steps=tuple(Step(name, spent) for (name, _), spent in zip(steps, by_step, strict=True)),
        names=_named(trace, np.flatnonzero(rows), (trace.end - trace.start)[rows]),
    )


def _occupancies(trace: Trace, rows: NDArray[np.bool_], spans: Sequence[tuple[int, int]]) -> list[Occupancy]:
    """Of each span, by these events of a device and all of the host's."""
    sweep = _Sweep(trace, rows | (trace.kind > Kind.MEMSET), [time for span in spans for time in span])
    return [sweep.between(*span) for span in spans]


def _gaps(trace: Trace, rows: NDArray[np.int64], launches: NDArray[np.int64]) -> tuple[int, Gaps]:
    """Busy time of these events together, and the gaps between them."""
    rows = rows[np.argsort(trace.start[rows], kind="stable")]
    start, reached = trace.start[rows], np.maximum.accumulate(trace.end[rows])
    gap = np.maximum(start[1:] - reached[:-1], 0)
    launch = launches[rows[1:]]
    host = (launch >= 0) & (trace.start[launch] > reached[:-1])
    short = ~host & (gap < KERNEL_WAIT)
    parts = (int(gap[host].sum()), int(gap[short].sum()), int(gap[~host & ~short].sum()))
    return int(reached[-1] - start[0]) - sum(parts), Gaps(*parts)


def _steps(trace: Trace, rows: NDArray[np.bool_], launches: NDArray[np.int64]) -> list[tuple[str, tuple[int, int]]]:
    """Name, begin and end of each profiler step, device work counted in the step that launched it: a step lasts until
    the last of it ends, and the next begins there (PyTorch's TensorBoard plugin has it so)."""
    found = np.flatnonzero(trace.kind == Kind.STEP)
    found = found[np.argsort(trace.start[found], kind="stable")]
    if not len(found):
        return []
    begins, ends = trace.start[found], trace.end[found]
    device = np.flatnonzero(rows & (launches >= 0))
    launch = launches[device]
    step = np.searchsorted(begins, trace.start[launch], "right") - 1
    inside = (step >= 0) & (trace.end[launch] <= ends[step])
    last = np.full(len(found), np.iinfo(np.int64).min)
    np.maximum.at(last, step[inside], trace.end[device[inside]])
    before = trace.end[np.setdiff1d(np.flatnonzero(rows), device[inside])]
    first = trace.start[device[inside & (step == 0)]].min(initial=begins[0])
    reached = int(before[before < first].max(initial=begins[0]))
    made = []
    for place, row in enumerate(found.tolist()):
        begin = max(reached, int(begins[place]))
        reached = max(begin, int(ends[place]), int(last[place]))
        made.append((trace.names[trace.name[row]], (begin, reached)))
    return made


def _named(trace: Trace, rows: NDArray[np.int64], own: Times) -> tuple[Named, ...]:
    """Sums by name and kind of events whose own times are `own`."""
    key = trace.name[rows].astype(np.int64) * len(Kind) + trace.kind[rows]
    unique, place, count = np.unique(key, return_inverse=True, return_counts=True)
    total = np.bincount(place, weights=own, minlength=len(unique))
    order = np.argsort(-total, kind="stable")
    return tuple(
        Named(trace.names[unique[at] // len(Kind)], Kind(int(unique[at] % len(Kind))), int(count[at]), int(total[at]))
        for at in order
    )


def threads(trace: Trace) -> tuple[Thread, ...]:
    """Every thread of the host, the busiest first."""
    host = np.flatnonzero(trace.kind > Kind.MEMSET)
    if not len(host):
        return ()
    whole = int(trace.end[host].max() - trace.start[host].min())
    order = host[np.lexsort((-trace.end[host], trace.start[host], trace.track[host]))]
    own = _own(trace, order)
    bounds = [0, *(np.flatnonzero(np.diff(trace.track[order])) + 1).tolist(), len(order)]
    made = []
    for low, high in pairwise(bounds):
        rows = order[low:high]
        sums = np.bincount(trace.kind[rows], weights=own[low:high], minlength=len(Kind))
        by_kind = tuple((kind, int(sums[kind])) for kind in Kind if sums[kind])
        name = " ".join(str(part) for part in trace.tracks[trace.track[rows[0]]])
        made.append(Thread(name, whole, by_kind, _named(trace, rows, own[low:high])))
    return tuple(sorted(made, key=lambda thread: -sum(time for _, time in thread.own)))


def _own(trace: Trace, order: NDArray[np.int64]) -> Times:
    """Nanoseconds of each event that none within it on its thread covers; `order` is by thread, start and falling end.
    Where events cross instead of nesting, the later one counts up to the end of the one that it began in."""
    own = np.zeros(len(order), np.int64)
    stack: list[tuple[int, int]] = []
    track = -1
    for base in range(0, len(order), _BLOCK):
        rows = order[base : base + _BLOCK]
        columns = (trace.track[rows].tolist(), trace.start[rows].tolist(), trace.end[rows].tolist())
        for at, (where, start, end) in enumerate(zip(*columns, strict=True), base):
            if where != track:
                stack, track = [], where
            while stack and stack[-1][1] <= start:
                stack.pop()
            if stack:
                parent, limit = stack[-1]
                end = min(end, limit)
                own[parent] -= end - start
            own[at] += end - start
            stack.append((at, end))
    return own
