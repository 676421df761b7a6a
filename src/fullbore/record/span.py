"""The recorder: a process's states, steps, choices and busy seconds, as they happen.

The main thread is in one state at every instant, from exec on. `with recorder.state(State.FORWARD):` switches for the
length of the block; leaving it returns to the state around it. The seconds of every state are written as `ledger`
events, each a closed interval, so that their sum is the wall time whatever ends the process.
"""

from __future__ import annotations

import os
import threading
import time
from types import TracebackType
from typing import Any

from fullbore.record.ledger import Ledger, State
from fullbore.record.sink import NoSink, Sink

RECORDING = "recording"
"""The name under which the CPU seconds of the threads that record are `busy`."""
_LEDGER_SECONDS = 0.5
_LEDGER_EVENTS = 1000


def exec_time() -> float:
    """When this process began, in seconds since the epoch (Linux: proc(5), field 22; elsewhere: now)."""
    try:
        with open("/proc/self/stat", "rb") as file:
            ticks = int(file.read().rsplit(b")", 1)[1].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        age = 0.0
    return time.time() - age


class _Span:
    """A reusable context manager: entering it costs no allocation."""

    __slots__ = ("_recorder", "_state")

    def __init__(self, recorder: Recorder, state: State) -> None:
        self._recorder = recorder
        self._state = state

    def __enter__(self) -> None:
        recorder = self._recorder
        recorder._stack.append(recorder._current)
        recorder._switch(self._state)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        recorder = self._recorder
        recorder._switch(recorder._stack.pop())


class Recorder:
    """One per process; states are switched from its main thread only, `busy` and `event` may come from any thread."""

    def __init__(self, sink: Sink | NoSink | None = None, rank: int = 0, began: float | None = None) -> None:
        """`began`: when the accounted time starts, in seconds since the epoch; none means the process's exec."""
        self.rank = rank
        self._sink = sink if sink is not None else NoSink()
        started = exec_time() if began is None else began
        now, clock = time.time(), time.perf_counter()
        self._epoch_offset = now - clock
        self.began = min(started, now)
        self._spans = {state: _Span(self, state) for state in State}
        self._stack: list[State] = []
        self._totals: dict[State, float] = dict.fromkeys(State, 0.0)
        self._flushed: dict[State, float] = dict.fromkeys(State, 0.0)
        self._since = clock - (now - self.began)
        self._flushed_at = self._since
        self._current = State.START
        self._busy: dict[str, float] = {}
        self._sink_seconds = 0.0
        self._children = Ledger({})
        self._busy_lock = threading.Lock()
        self._switch(State.OTHER)

    def state(self, state: State) -> _Span:
        return self._spans[state]

    def _switch(self, state: State) -> None:
        now = time.perf_counter()
        self._totals[self._current] += now - self._since
        self._since = now
        self._current = state
        if now - self._flushed_at > max(_LEDGER_SECONDS, (now + self._epoch_offset - self.began) / _LEDGER_EVENTS):
            self._flush(now)

    def _flush(self, now: float) -> None:
        delta = {s: t - self._flushed[s] for s, t in self._totals.items() if t > self._flushed[s]}
        begin, self._flushed_at = self._flushed_at, now
        written, self._sink_seconds = self._sink_seconds, self._sink.cpu_seconds
        self.busy(RECORDING, self._sink_seconds - written)
        self._flushed = dict(self._totals)
        self.event("ledger", begin=begin + self._epoch_offset, end=now + self._epoch_offset, seconds=delta)

    def hand_over(self) -> None:
        """From here until `take_back` a child process accounts for the time, in the same events file."""
        self._switch(self._current)
        self._flush(self._since)

    def take_back(self, child: Ledger) -> None:
        """End `hand_over`: `child` is what the child wrote; the rest was starting and ending it."""
        now = time.perf_counter()
        for name, seconds in child.seconds.items():
            self._totals[State(name)] += seconds
            self._flushed[State(name)] += seconds
        self._totals[State.START] += max(0.0, now - self._since - child.wall)
        self._since = now
        with self._busy_lock:
            self._children += Ledger({}, child.busy)

    def split(self, state: State, seconds: float) -> None:
        """The first `seconds` of the stretch that the main thread is in were `state`, as was learnt only now."""
        seconds = min(max(seconds, 0.0), time.perf_counter() - self._since)
        self._totals[state] += seconds
        self._since += seconds

    def elapsed(self) -> float:
        """Seconds since exec."""
        return time.time() - self.began

    def busy(self, resource: str, seconds: float) -> None:
        """Seconds that a resource beside the main thread worked (decode, prefetch, asynchronous save)."""
        with self._busy_lock:
            self._busy[resource] = self._busy.get(resource, 0.0) + seconds

    def event(self, kind: str, **fields: Any) -> None:
        self._sink.put({"kind": kind, "t": time.time(), "rank": self.rank, **fields})

    def ledger(self) -> Ledger:
        """The seconds so far, the running state included."""
        totals = dict(self._totals)
        totals[self._current] += time.perf_counter() - self._since
        with self._busy_lock:
            busy = Ledger({}, self._busy) + self._children
        return Ledger({str(state): seconds for state, seconds in totals.items() if seconds}, busy.busy)

    def settle(self) -> None:
        """Return when every event so far is in the file; from any thread."""
        self._sink.settle()

    def account(self) -> None:
        """Write the seconds until now, as `close` will do for the rest."""
        self._switch(self._current)
        self._flush(self._since)

    def close(self) -> None:
        """Account for the time until now and make all events durable."""
        self.account()
        with self._busy_lock:
            self.event("busy", seconds=dict(self._busy))
        self._sink.close()
