"""Bytes of a store on their way to a source: read ahead in order, counted, decompressed."""

from __future__ import annotations

import gzip
import io
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, TypeVar, cast

import zstandard

from fullbore.base.errors import InputError
from fullbore.store import Entry, Store

_THREADS = 8
_WINDOW = 64
_WINDOW_BYTES = 256 << 20

Result = TypeVar("Result")


@dataclass
class Tally:
    """Bytes read so far of those there are."""

    total: int
    done: int = 0


def ahead(store: Store, entries: list[Entry], tally: Tally, work: Callable[[Entry, bytes], Result]) -> Iterator[Result]:
    """`work(entry, content)` of every entry, in order, computed on threads a bounded number of bytes ahead."""
    waiting: deque[tuple[Entry, Future[Result]]] = deque()
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="fullbore-read")

    def produce(entry: Entry) -> Result:
        return work(entry, store.read(entry.path))

    def first() -> Result:
        entry, future = waiting.popleft()
        result = future.result()
        tally.done += entry.bytes
        return result

    try:
        held = 0
        for entry in entries:
            waiting.append((entry, pool.submit(produce, entry)))
            held += entry.bytes
            while len(waiting) > _WINDOW or (held > _WINDOW_BYTES and len(waiting) > 1):
                held -= waiting[0][0].bytes
                yield first()
        while waiting:
            yield first()
    finally:
        pool.shutdown(cancel_futures=True)


class _Counted(io.RawIOBase):
    def __init__(self, inner: BinaryIO, tally: Tally) -> None:
        self._inner, self._tally = inner, tally

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = cast(int, self._inner.readinto(buffer))  # type: ignore[attr-defined]
        self._tally.done += count
        return count

    def close(self) -> None:
        self._inner.close()
        super().close()


@contextmanager
def opened(store: Store, entry: Entry, tally: Tally) -> Iterator[BinaryIO]:
    """A file as a stream, .gz and .zst decompressed. Raises InputError when it is cut short or damaged."""
    with io.BufferedReader(_Counted(store.stream(entry.path), tally), 1 << 20) as raw:
        if entry.path.endswith(".gz"):
            stream: BinaryIO = cast(BinaryIO, gzip.GzipFile(fileobj=raw))
        elif entry.path.endswith(".zst"):
            stream = cast(BinaryIO, io.BufferedReader(_Zstd(raw)))
        else:
            stream = raw
        try:
            yield stream
        except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
            raise InputError(
                f"{store.url}: {entry.path}: compressed data is cut short or damaged ({error})",
                hint="fetch the file again, or leave it out with data.exclude",
            ) from None
        except OSError as error:
            raise InputError(f"{store.url}: {entry.path}: cannot be read ({error.strerror or error})") from None


class _Zstd(io.RawIOBase):
    """zstandard's reader, which ends silently where a frame is cut short, made to say so."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._begun = False
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._ready:
            if self._frame.eof:
                block, self._begun = self._frame.unused_data or self._raw.read(1 << 17), False
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            else:
                block = self._raw.read(1 << 17)
            if not block:
                if self._begun:
                    raise zstandard.ZstdError("the frame ends early")
                return 0
            self._begun = True
            self._ready = self._frame.decompress(block)
            self._begun = not self._frame.eof
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count
