"""A PyTorch profiler trace (Chrome/Kineto JSON, plain or gzip), read as a stream into a table of 33 bytes per event.

What is kept of an event: start, end and correlation id (int64), name and track (int32), kind (uint8). Names and tracks
are interned, at most `MOST_NAMES` of each, names of up to 500 characters; of the file a window is held. Kineto does not
sort its events, so nothing is merged before the end. Format: Trace Event Format (Google, 2016), as libkineto's
output_json.cpp writes it.
"""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fullbore.base.errors import InputError

MOST_NAMES = 100_000
_NAME_CHARACTERS = 500
_CHUNK = 1 << 18
_LONGEST = 1 << 26
"""Characters of the longest value that is not the list of events."""
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
_GAP = re.compile(r"[\s,]*")
_EVENT = re.compile(r'\{\s*"(?:ph|name|cat)"\s*:')
_scan = json.JSONDecoder(strict=False).raw_decode


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


class _Window:
    """The part of a text that is being read; it grows while a value is not whole and slides on when it is."""

    def __init__(self, file: BufferedReader) -> None:
        zipped = file.peek(2)[:2] == b"\x1f\x8b"
        self._source = gzip.GzipFile(fileobj=file) if zipped else file
        self._decode = codecs.getincrementaldecoder("utf-8-sig")("replace").decode
        self.text = ""
        self.at = 0
        self.ended = False
        self.broken: str | None = None
        """Why it ended before its end."""

    def more(self) -> bool:
        """Let go of what was read and add a chunk; False at the end."""
        if self.ended:
            return False
        try:
            chunk = self._source.read1(_CHUNK)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            chunk, self.broken = b"", f"its gzip stream is cut or damaged ({error})"
        self.ended = not chunk
        self.text, self.at = self.text[self.at :] + self._decode(chunk, self.ended), 0
        return not self.ended

    def peek(self) -> str:
        """The next character that is neither space nor comma; empty at the end."""
        while True:
            self.at = cast(re.Match[str], _GAP.match(self.text, self.at)).end()
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def value(self) -> Any:
        """The next JSON value. Raises EOFError if the text ends within it, ValueError if it is none."""
        while True:
            self.peek()
            try:
                found, after = _scan(self.text, self.at)
                if after < len(self.text) or isinstance(found, dict) or not self.more():
                    self.at = after
                    return found
            except (json.JSONDecodeError, RecursionError) as error:
                if self._wrong(error):
                    raise ValueError(str(error)) from None
                if len(self.text) - self.at > _LONGEST:
                    raise ValueError(f"a value of more than {_LONGEST:,} characters") from None
                if not self.more():
                    raise EOFError from None

    def _wrong(self, error: BaseException) -> bool:
        """Whether more text would not mend it: the fault lies before the end of what is here."""
        if isinstance(error, json.JSONDecodeError):
            return not error.msg.startswith("Unterminated") and error.pos < len(self.text) - len("-Infinity")
        return True

    def resume(self) -> bool:
        """Go on where the next event seems to begin; False if none does."""
        self.at += 1
        while (match := _EVENT.search(self.text, self.at)) is None:
            self.at = max(self.at, len(self.text) - 80)
            if not self.more():
                return False
        self.at = match.start()
        return True


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
        window = _Window(file)
        skipped, whole = _fill(path, window, table, about)
    if not table.start:
        raise _foreign(path, table, window, whole)
    missing = []
    if not whole:
        why = window.broken or "it is cut"
        missing.append(f"{path.name} ends after {table.seen:,} events: {why}; whatever came later is missing")
    if skipped or table.bad:
        missing.append(f"{path.name}: {skipped + table.bad:,} malformed events were left out")
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


def _fill(path: Path, window: _Window, table: _Table, about: dict[str, Any]) -> tuple[int, bool]:
    """Read the whole text; the number of events that are no JSON, and whether the text came to its end."""
    first = window.peek()
    if first not in ("{", "["):
        found = f"begins with {first!r}" if first else window.broken or "is empty"
        raise InputError(f"{path}: {found}, expected a JSON trace", hint=_HINT)
    window.at += 1
    if first == "[":
        return _events(window, table)
    skipped = 0
    while (mark := window.peek()) not in ("}", ""):
        try:
            key = window.value() if mark == '"' else None
            if key is None or window.peek() != ":":
                raise InputError(f"{path}: not JSON after {table.seen:,} events", hint=_HINT)
            window.at += 1
            if key == "traceEvents" and window.peek() == "[":
                window.at += 1
                more, whole = _events(window, table)
                skipped += more
                if not whole:
                    return skipped, False
            elif key in ("distributedInfo", "baseTimeNanoseconds"):
                about[key] = window.value()
            else:
                window.value()
        except EOFError:
            return skipped, False
        except (ValueError, InputError) as error:
            if not table.start:
                raise InputError(f"{path}: {error}", hint=_HINT) from None
            return skipped, False
    return skipped, mark == "}"


def _events(window: _Window, table: _Table) -> tuple[int, bool]:
    """Read the elements of an array after its `[`; as `_fill`."""
    skipped = 0
    while True:
        for event in _run(window):
            table.add(event)
        mark = window.peek()
        if mark == "]":
            break
        if not mark:
            return skipped, False
        try:
            table.add(window.value())
        except EOFError:
            return skipped, False
        except ValueError:
            skipped += 1
            if not window.resume():
                return skipped, False
    window.at += 1
    return skipped, True


def _run(window: _Window) -> Iterator[dict[str, Any]]:
    """The events that lie whole in the window, up to the first thing that is something else."""
    text, at = window.text, window.at
    try:
        while text[at] == "{":
            event, after = _scan(text, at)
            yield event
            window.at = at = cast(re.Match[str], _GAP.match(text, after)).end()
    except (json.JSONDecodeError, RecursionError, IndexError):
        return


_HINT = "name a file that torch.profiler wrote with export_chrome_trace or tensorboard_trace_handler"


def _foreign(path: Path, table: _Table, window: _Window, whole: bool) -> InputError:
    if not table.seen:
        found = "no events" if whole else f"it ends before its first event ({window.broken or 'it is cut'})"
    else:
        found = f"{table.seen:,} events, none with a category of PyTorch's profiler and a time"
    return InputError(f"{path}: {found}", hint=_HINT)
