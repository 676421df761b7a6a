"""Ctrl-C and SIGTERM: the first one ends the run in good order, the second one ends it now."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from fullbore.base.errors import Interrupted


class Interrupts:
    """Turns SIGINT and SIGTERM into a request to stop.

    Inside `graceful()` the first signal only sets `requested`, which the training loop polls. Outside it, where every
    result is written whole or not at all, the signal raises Interrupted at once; so does a second one anywhere.
    """

    def __init__(self, notify: Callable[[str], None]) -> None:
        self.requested = False
        self._graceful = False
        self._notify = notify

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Install the handlers; from a thread other than the main one signals stay as they are."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextmanager
    def graceful(self) -> Iterator[None]:
        self._graceful = True
        try:
            yield
        finally:
            self._graceful = False

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.requested or not self._graceful:
            raise Interrupted(f"stopped by {signal.Signals(number).name}")
        self.requested = True
        self._notify("Stopping after this step; a checkpoint is being saved (Ctrl-C again: stop now).")
