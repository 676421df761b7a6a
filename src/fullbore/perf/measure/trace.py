"""A PyTorch profiler trace (Chrome/Kineto JSON, plain or gzip), read as a stream into a table of 33 bytes per event.

What is kept of an event: start, end and correlation id (int64), name and track (int32), kind (uint8). Names and tracks
are interned, at most `MOST_NAMES` of each, names of up to 500 characters; of the file a window is held. Kineto does not
sort its events, so nothing is merged before the end. Format: Trace Event Format (Google, 2016), as libkineto's
output_json.cpp writes it.
"""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullbore.base.errors import InputError
from fullbore.perf.measure.window import Window

MOST_NAMES = 100_000
_NAME_CHARACTERS = 500
_FARTHEST = 1 << 61
"""Nanoseconds: 73 years; a start beyond it is no time."""

Times = NDArray[np.int64]


class Kind(IntEnum):
    """What an event is. The first four run on a device; each of the first eight is one bit of an occupancy mask."""

    COMPUTE = 0
    COMMUNICATION = 1
    COPY = 2
    MEMSET = 3
    LAUNCH = 4
    """A call into the device's runtime or driver: a launch, a copy, a synchronisation."""
    LOADER = 5
    """The data loader's `__next__`."""
    OPERATOR = 6
    ANNOTATION = 7
    """A region that the program named."""
    PYTHON = 8
    STEP = 9
    COLLECTIVE = 10
    """A collective's operator or annotation on the host."""


DEVICE = (Kind.COMPUTE, Kind.COMMUNICATION, Kind.COPY, Kind.MEMSET)

_CATEGORIES: dict[str, Kind | None] = {
    "kernel": Kind.COMPUTE, "gpu_memcpy": Kind.COPY, "memcpy": Kind.COPY, "gpu_memset": Kind.MEMSET,
    "memset": Kind.MEMSET,
    "cuda_runtime": Kind.LAUNCH, "cuda_driver": Kind.LAUNCH, "runtime": Kind.LAUNCH, "mtia_runtime": Kind.LAUNCH,
    "xpu_runtime": Kind.LAUNCH, "xpu_driver": Kind.LAUNCH, "privateuse1_runtime": Kind.LAUNCH,
    "privateuse1_driver": Kind.LAUNCH, "glow_runtime": Kind.LAUNCH,
    "cpu_op": Kind.OPERATOR, "operator": Kind.OPERATOR, "user_annotation": Kind.ANNOTATION,
    "python_function": Kind.PYTHON, "python": Kind.PYTHON,
    "cuda_sync": None, "cuda_event": None, "gpu_user_annotation": None, "overhead": None, "trace": None,
    "cuda_profiler_range": None,
}  # fmt: skip
"""Category in lower case, of today's and of 2021's profilers → kind; none: no work of its own. An event of another
category is a device's if it names a stream (as HTA has it)."""

_COMMUNICATES = re.compile(
    r"nccl|hccl|xccl|rccl|oneccl|nvshmem|msccl|cross_device_reduce|all_?reduce|all_?gather|reduce_?scatter",
    re.IGNORECASE,
)
_COPIES = re.compile(r"(?:hip)?Memcpy|dma")
_FILLS = re.compile(r"(?:hip)?Memset")
_COLLECTS = re.compile(r"(?:gloo|mpi|ucc|nccl|hccl|xccl):|c10d::")
_LOADS = re.compile(r"enumerate\(Data(?:Loader|Pipe)\)#")
_STEP = re.compile(r"ProfilerStep#?\d*")


@dataclass(frozen=True)
class Trace:
    """The events of one process. Columns have one entry an event; times are nanoseconds on the clock of the machine."""

    path: Path
    rank: int | None
    world_size: int | None
    names: tuple[str, ...]
    tracks: tuple[tuple[Any, Any], ...]
    """(device, stream) of a device's event, (process, thread) of a host's."""
    start: Times
    end: Times
    correlation: Times
    """What a device's event shares with the call that launched it; -1: nothing."""
    name: NDArray[np.int32]
    track: NDArray[np.int32]
    kind: NDArray[np.uint8]
    missing: tuple[str, ...]
    """What an answer from this trace lacks, in words; empty: the trace is whole."""

    def __len__(self) -> int:
        return len(self.start)


class _Interned:
    """Values by number; from `MOST_NAMES` on all are one."""

    def __init__(self, rest: Any) -> None:
        self._rest = rest
        self.numbers: dict[Any, int] = {}

    def number(self, value: Any) -> int:
        found = self.numbers.get(value)
        if found is None:
            if len(self.numbers) >= MOST_NAMES:
                value = self._rest
            found = self.numbers.setdefault(value, len(self.numbers))
        return found


class _Table:
    """The columns while they grow."""

    def __init__(self) -> None:
        self.start, self.end, self.correlation = array("q"), array("q"), array("q")
        self.name, self.track, self.kind = array("i"), array("i"), array("B")
        self.names, self.tracks = _Interned("(other names)"), _Interned(("other", "other"))
        self.refined: dict[tuple[Kind, str], Kind] = {}
        self.seen = self.bad = 0

    def add(self, event: Any) -> None:
        """Keep an event if it is an interval of a kind that counts; one that makes no sense is counted as bad."""
        self.seen += 1
        try:
            if event.get("ph") != "X":
                return
            arguments = event.get("args") or {}
            stream = arguments.get("stream")
            kind = _CATEGORIES.get(str(event.get("cat")).lower(), Kind.COMPUTE if _is_stream(stream) else None)
            if kind is None:
                return
            begin, lasts = event["ts"], event.get("dur", 0)
            start = round(begin * 1000)
            end = start + round(lasts * 1000)
            name = str(event.get("name"))[:_NAME_CHARACTERS]
            if not -_FARTHEST < start <= end < _FARTHEST:
                raise ValueError
            if kind <= Kind.MEMSET:
                track = (arguments.get("device", event.get("pid")), stream if stream is not None else event.get("tid"))
            else:
                track = (event.get("pid"), event.get("tid"))
            row = self.tracks.number(track), self.names.number(name), self._kind(kind, name)
        except (TypeError, ValueError, KeyError, OverflowError, AttributeError):
            self.bad += 1
            return
        self.correlation.append(_correlation(arguments.get("correlation")))
        self.start.append(start)
        self.end.append(end)
        self.track.append(row[0])
        self.name.append(row[1])
        self.kind.append(row[2])

    def _kind(self, kind: Kind, name: str) -> Kind:
        found = self.refined.get((kind, name))
        if found is None:
            found = _refined(kind, name)
            if len(self.refined) < MOST_NAMES:
                self.refined[kind, name] = found
        return found


def _is_stream(value: Any) -> bool:
    return isinstance(value, int) and value >= 0


def _correlation(value: Any) -> int:
    return value if isinstance(value, int) and 0 <= value < _FARTHEST else -1


def _refined(kind: Kind, name: str) -> Kind:
    """What the name adds to the category."""
    if kind is Kind.COMPUTE:
        if _COPIES.match(name):
            return Kind.COPY
        if _FILLS.match(name):
            return Kind.MEMSET
        return Kind.COMMUNICATION if _COMMUNICATES.search(name) else kind
    if kind in (Kind.OPERATOR, Kind.ANNOTATION):
        if _STEP.fullmatch(name):
            return Kind.STEP
        if _LOADS.match(name):
            return Kind.LOADER
        return Kind.COLLECTIVE if _COLLECTS.match(name) else kind
    return kind


def read(path: Path) -> Trace:
    """The trace at `path`; of one that is cut or damaged, what could be read, with `missing` saying so.

    Raises InputError if there is no event of a PyTorch profiler in it, OSError if it cannot be opened.
    """
    table, about = _Table(), dict[str, Any]()
    with open(path, "rb") as file:
        window = Window(file)
        whole = _fill(path, window, table, about)
    if not table.start:
        raise _foreign(path, table, window, whole)
    missing = []
    if not whole:
        why = window.broken or "it is cut"
        missing.append(f"{path.name} ends after {table.seen:,} events: {why}; whatever came later is missing")
    if bad := window.malformed + table.bad:
        missing.append(f"{path.name}: {bad:,} malformed events were left out")
    if len(table.names.numbers) > MOST_NAMES:
        missing.append(f"{path.name}: more than {MOST_NAMES:,} names; the rest are one, (other names)")
    told = about.get("distributedInfo")
    told = told if isinstance(told, dict) else {}
    base = about.get("baseTimeNanoseconds")
    shift = base if isinstance(base, int) and 0 <= base < _FARTHEST else 0
    return Trace(
        path=path,
        rank=_integer(told.get("rank")),
        world_size=_integer(told.get("world_size")),
        names=tuple(table.names.numbers),
        tracks=tuple(table.tracks.numbers),
        start=_column(table.start, np.int64, shift),
        end=_column(table.end, np.int64, shift),
        correlation=_column(table.correlation, np.int64),
        name=_column(table.name, np.int32),
        track=_column(table.track, np.int32),
        kind=_column(table.kind, np.uint8),
        missing=tuple(missing),
    )


def _column(values: array[int], dtype: Any, shift: int = 0) -> NDArray[Any]:
    column = np.frombuffer(values, dtype=dtype)
    column += dtype(shift)
    return column


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _fill(path: Path, window: Window, table: _Table, about: dict[str, Any]) -> bool:
    """Read the whole text; whether it came to its end."""
    first = window.peek()
    if first not in ("{", "["):
        found = f"begins with {first!r}" if first else window.broken or "is empty"
        raise InputError(f"{path}: {found}, expected a JSON trace", hint=_HINT)
    window.at += 1
    try:
        if first == "[":
            _events(window, table)
        else:
            _members(window, table, about)
    except EOFError:
        return False
    except ValueError as error:
        if not table.start:
            raise InputError(f"{path}: {error}", hint=_HINT) from None
        return False
    return True


def _members(window: Window, table: _Table, about: dict[str, Any]) -> None:
    """Read an object after its `{`. Raises EOFError if it is cut, ValueError if it is none."""
    while (mark := window.peek()) != "}":
        if not mark:
            raise EOFError
        key = window.value() if mark == '"' else None
        if key is None or window.peek() not in (":", ""):
            raise ValueError(f"not JSON after {table.seen:,} events")
        window.at += 1
        if key == "traceEvents" and window.peek() == "[":
            window.at += 1
            _events(window, table)
        elif key in ("distributedInfo", "baseTimeNanoseconds"):
            about[key] = window.value()
        else:
            window.value()


def _events(window: Window, table: _Table) -> None:
    for event in window.elements():
        table.add(event)


_HINT = "name a file that torch.profiler wrote with export_chrome_trace or tensorboard_trace_handler"


def _foreign(path: Path, table: _Table, window: Window, whole: bool) -> InputError:
    if not table.seen:
        found = "no events" if whole else f"it ends before its first event ({window.broken or 'it is cut'})"
    else:
        found = f"{table.seen:,} events, none with a category of PyTorch's profiler and a time"
    return InputError(f"{path}: {found}", hint=_HINT)
