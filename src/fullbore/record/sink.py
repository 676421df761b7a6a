"""Events to a JSON-lines file: the caller never waits; what does not fit is dropped and counted."""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

_CLOSE = object()
_GATHER_SECONDS = 0.2


class Sink:
    """A bounded queue in front of an append-only file.

    Lines are written whole in one call, so that a process killed at any byte leaves at most one torn line, which
    readers skip. A full queue or a full disk never blocks or stops the job: `dropped` counts what was lost.
    """

    def __init__(self, path: Path, capacity: int = 65536) -> None:
        self.dropped = 0
        self.cpu_seconds = 0.0
        """Used by the thread that writes, until now."""
        self._queue: queue.Queue[Any] = queue.Queue(capacity)
        self._hurry = threading.Event()
        self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        self._thread = threading.Thread(target=self._drain, name="fullbore-sink", daemon=True)
        self._thread.start()

    def put(self, event: dict[str, Any]) -> None:
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            self.dropped += 1

    def settle(self) -> None:
        """Return when what was put so far is in the file."""
        written = threading.Event()
        self._queue.put(written)
        self._hurry.set()
        written.wait()

    def close(self) -> None:
        """Write what is queued and make it durable."""
        if self._descriptor < 0:
            return
        self._queue.put(_CLOSE)
        self._hurry.set()
        self._thread.join()
        try:
            os.fsync(self._descriptor)
        except OSError:
            pass
        os.close(self._descriptor)
        self._descriptor = -1

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _torn(self) -> bool:
        """Whether the file ends within a line: a process killed or a disk full while it, or another, wrote to it."""
        size = os.fstat(self._descriptor).st_size
        return bool(size) and os.pread(self._descriptor, 1, size - 1) != b"\n"

    def _drain(self) -> None:
        closing = False
        while not closing:
            batch = [self._queue.get()]
            if isinstance(batch[0], dict):
                self._hurry.wait(_GATHER_SECONDS)
            self._hurry.clear()
            while not self._queue.empty():
                batch.append(self._queue.get_nowait())
            closing = any(item is _CLOSE for item in batch)
            events = [item for item in batch if isinstance(item, dict)]
            lost = self._write(events)
            self.dropped += lost
            if self.dropped and closing:
                self._write([{"kind": "dropped", "t": time.time(), "count": self.dropped}])
            self.cpu_seconds = time.thread_time()
            for item in batch:
                if isinstance(item, threading.Event):
                    item.set()

    def _write(self, events: list[dict[str, Any]]) -> int:
        """Write `events` and say how many of them are not whole in the file."""
        if not events:
            return 0
        data = "".join(json.dumps(event, separators=(",", ":"), default=str) + "\n" for event in events).encode()
        try:
            before = b"\n" if self._torn() else b""
            written = os.write(self._descriptor, before + data)
        except OSError:
            return len(events)
        return len(events) - data.count(b"\n", 0, max(0, written - len(before)))


class NoSink:
    """Where events go when nobody keeps them."""

    dropped = 0
    cpu_seconds = 0.0

    def put(self, event: dict[str, Any]) -> None:
        pass

    def settle(self) -> None:
        pass

    def close(self) -> None:
        pass
