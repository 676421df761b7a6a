"""The ledger of anyone's own loop: `with ledger() as mine:`, and nothing else of fullbore is needed."""

from __future__ import annotations

import difflib
import statistics
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from fullbore.base.errors import UsageError
from fullbore.base.units import format_seconds, format_share, plural
from fullbore.perf.measure import stats
from fullbore.perf.measure.counters import Counters
from fullbore.record.ledger import Ledger, State
from fullbore.record.sink import NoSink
from fullbore.record.span import Recorder

T = TypeVar("T")

_EVENTS = 20_000
"""Kept in memory, the newest: some five hours of evidence. The ledger's seconds are of all the time, always."""
_FIRST_STEPS, _LAST_STEPS = 1000, 100_000
"""Steps whose seconds are kept, of the beginning and of the end."""
_WARM = 1.5
"""A first step that takes longer than so many medians still warms up."""


@dataclass(frozen=True)
class Steps:
    """What the steps of a loop took. Seconds."""

    count: int
    warm_up: int
    """First steps that took over 1.5 medians each: imports, caches, compiling."""
    warm_up_seconds: float
    median: float
    """Of the steps after those."""
    interval: tuple[float, float]
    """95 % confidence interval of the median."""
    jitter: float
    """What the slowest twentieth exceeds the median by, relative to it (0.1: by a tenth or more)."""


class _Kept(NoSink):
    """Keeps the newest events in memory; from any thread."""

    def __init__(self) -> None:
        self.events: deque[dict[str, Any]] = deque(maxlen=_EVENTS)

    def put(self, event: dict[str, Any]) -> None:
        self.events.append(event)


class LoopLedger:
    """Where the time of a `with` block goes: in exactly one state at every instant, 100 % of the time since entering.

    What is in no named state is `other`. The states are those of the thread that entered the block, and only it may
    switch them; `busy` may come from any thread. Another ledger may be entered inside, and counts on its own. What the
    process and its neighbours use is sampled once a second by a thread beside it.
    """

    def __init__(self) -> None:
        self._kept = _Kept()
        self._recorder: Recorder | None = None
        self._counters: Counters | None = None
        self._ended: Ledger | None = None
        self._thread = 0
        self._failed = False
        self._count = 0
        self._first: list[float] = []
        self._last: deque[float] = deque(maxlen=_LAST_STEPS)
        self._stepped = 0.0

    def __enter__(self) -> LoopLedger:
        if self._recorder is not None:
            raise UsageError("this ledger was entered before", hint="each with block takes a fullbore.ledger() anew")
        self._thread = threading.get_ident()
        self._recorder = Recorder(self._kept, began=time.time())
        self._stepped = time.perf_counter()
        with self._recorder.state(State.START):
            self._counters = Counters(self._recorder).__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._failed = kind is not None
        if self._counters is not None and self._recorder is not None:
            self._counters.__exit__(kind, error, trace)
            self._recorder.close()
            self._ended = self._recorder.ledger()

    def _open(self) -> Recorder:
        """The recorder, for the thread that entered. Raises UsageError."""
        if self._recorder is None or self._ended is not None:
            when = "not entered yet" if self._recorder is None else "left"
            raise UsageError(f"this ledger was {when}", hint="with fullbore.ledger() as ledger: ...")
        if threading.get_ident() != self._thread:
            raise UsageError(
                "a ledger's states and steps are of the thread that entered it",
                hint="in another thread use ledger.busy(name, seconds), or enter a ledger of its own",
            )
        return self._recorder

    def state(self, name: str) -> AbstractContextManager[None]:
        """Count the block as a state: `forward`, `backward`, `optimizer`, `copy`, `evaluate`, `checkpoint`, `read` …

        Blocks nest: the innermost counts. Raises UsageError for a name that no state has, and in another thread.
        """
        recorder = self._open()
        try:
            return recorder.state(State(name.replace("_", " ")))
        except ValueError:
            known = [str(state) for state in State]
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(known)}"
            raise UsageError(f"no state {name!r}", hint=hint) from None

    def data_wait(self) -> AbstractContextManager[None]:
        """Count the block as waiting for data."""
        return self._open().state(State.DATA_WAIT)

    def data(self, batches: Iterable[T]) -> Iterator[T]:
        """`batches`, their beginning and the time until each arrives counted as waiting for data."""
        with self.data_wait():
            iterator = iter(batches)
        while True:
            with self.data_wait():
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
            yield batch

    def step(self) -> None:
        """A step ends here, and the next one begins."""
        self._open()
        now = time.perf_counter()
        self._count += 1
        (self._first if self._count <= _FIRST_STEPS else self._last).append(now - self._stepped)
        self._stepped = now

    def busy(self, resource: str, seconds: float) -> None:
        """Seconds that something beside this thread worked; from any thread, never part of the 100 %."""
        if self._recorder is None:
            raise UsageError("this ledger was not entered yet", hint="with fullbore.ledger() as ledger: ...")
        self._recorder.busy(resource, seconds)

    @property
    def ledger(self) -> Ledger:
        """The seconds by state since entering, until now or until the block was left."""
        if self._ended is not None:
            return self._ended
        return self._recorder.ledger() if self._recorder is not None else Ledger({})

    @property
    def steps(self) -> Steps | None:
        """What the steps took; none if `step` was not called."""
        if not self._count:
            return None
        taken = [*self._first, *self._last]
        middle = statistics.median(taken)
        warm = next((at for at, seconds in enumerate(taken) if seconds <= _WARM * middle), 0)
        steady = sorted(taken[warm:])
        middle = statistics.median(steady)
        slow = steady[min(len(steady) - 1, int(0.95 * len(steady)))]
        jitter = slow / middle - 1 if middle else 0.0
        return Steps(self._count, warm, sum(taken[:warm]), middle, stats.interval(steady), jitter)

    @property
    def status(self) -> str:
        """`running`, `done`, or `failed` if the block ended with an exception."""
        return "failed" if self._failed else "done" if self._ended is not None else "running"

    def events(self) -> list[dict[str, Any]]:
        """What was recorded, as in a run's events.jsonl; in memory, so of a very long loop only the newest."""
        if self._recorder is not None and self._ended is None and threading.get_ident() == self._thread:
            self._recorder.account()
        return list(self._kept.events)

    def table(self) -> str:
        """State, time and share as aligned text, and a line on the steps if there were any."""
        lines, steps = self.ledger.table(), self.steps
        if steps is None:
            return lines
        told = (
            f"{plural(steps.count, 'step')}, median {format_seconds(steps.median)}, jitter {format_share(steps.jitter)}"
        )
        if steps.warm_up:
            told += f"; the first {steps.warm_up} warmed up in {format_seconds(steps.warm_up_seconds)}"
        return f"{lines}\n{told}"


def ledger() -> LoopLedger:
    """A ledger for a loop of your own: `with fullbore.ledger() as mine: ...`; then `mine.table()` says where the time
    went, and `fullbore.explain(mine)` what limited it."""
    return LoopLedger()
