"""The lane: one bounded queue in front of one executor thread.

The executor takes what waits the moment it is free (batch while busy) and sleeps on a condition otherwise: nothing here
polls. A request that would pass a bound is refused at the door with the time after which it is worth asking again,
computed from what batches were measured to cost. A batch that fails is halved until only the guilty request is left.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from fullbore.serve.cost import Cost

Request = TypeVar("Request")


class Refused(Exception):
    """The lane did not take a request."""


class Full(Refused):
    """A bound of the queue would be passed; `retry_after` seconds from now there should be room."""

    def __init__(self, bound: str, limit: int, retry_after: float) -> None:
        super().__init__(f"the queue holds at most {limit} {bound}")
        self.bound = bound
        self.retry_after = retry_after


class TooLarge(Refused):
    """The request alone is larger than the whole queue: it can never be taken."""

    def __init__(self, bound: str, found: int, limit: int) -> None:
        super().__init__(f"{found} {bound} in one request, the queue holds at most {limit}")
        self.bound = bound


class Draining(Refused):
    """The lane ends: it takes nothing new."""


class DeadlinePassed(Exception):
    """The time that a request had is over."""


class Abandoned(Exception):
    """Nobody waits for the answer any more."""


@dataclass(eq=False)
class Ticket(Generic[Request]):
    """One request on its way through the lane; its answer is the result of `future`."""

    request: Request
    model: str
    tokens: int
    bytes: int
    deadline: float
    """time.monotonic() after which the answer is worth nothing."""
    alone: bool = False
    """Never executed together with others."""
    emit: Callable[[Any], None] = lambda _: None
    """Called from the executor's thread with each piece of a streamed answer; must not block."""
    future: Future[Any] = field(default_factory=Future)
    entered: float = 0.0
    stopped: Exception | None = None

    def check(self) -> None:
        """For long work to call between its steps. Raises Abandoned, Draining, DeadlinePassed."""
        if self.stopped is not None:
            raise self.stopped
        if time.monotonic() > self.deadline:
            raise DeadlinePassed


@dataclass(frozen=True)
class Batch:
    """What is told to `on_batch` when a batch has ended."""

    model: str
    requests: int
    tokens: int
    waited: tuple[float, ...]
    """Seconds that each request spent in the queue."""
    seconds: float


def next_batch(queue: Iterable[Ticket[Request]], batch_size: int) -> list[Ticket[Request]]:
    """The oldest request and, in order, those after it that can share its model call; `queue` is not changed."""
    batch: list[Ticket[Request]] = []
    for ticket in queue:
        if not batch or not (batch[0].alone or ticket.alone or ticket.model != batch[0].model):
            batch.append(ticket)
        if batch[0].alone or len(batch) == batch_size:
            break
    return batch


class Lane(Generic[Request]):
    """`execute(tickets)` returns one answer for each, in order; all of them are of one model.

    An answer that is an exception fails its request alone. `execute` runs on the lane's thread only.
    """

    def __init__(
        self,
        execute: Callable[[Sequence[Ticket[Request]]], Sequence[Any]],
        *,
        requests: int,
        tokens: int,
        bytes: int,
        batch_size: int,
        on_batch: Callable[[Batch], None] = lambda _: None,
    ) -> None:
        self._execute = execute
        self._limits = {"requests": requests, "tokens": tokens, "bytes": bytes}
        self._batch_size = batch_size
        self._on_batch = on_batch
        self._queue: deque[Ticket[Request]] = deque()
        self._running: list[Ticket[Request]] = []
        self._running_since = 0.0
        self._costs: dict[str, Cost] = {}
        self._changed = threading.Condition()
        self._accepting = True
        self._closed = False
        self.wakeups = 0
        """How often the executor woke up; it stands still while nothing is asked."""
        self._thread = threading.Thread(target=self._loop, name="fullbore-lane", daemon=True)
        self._thread.start()

    @property
    def accepting(self) -> bool:
        return self._accepting

    def queued(self) -> dict[str, int]:
        """What waits now, by bound: requests, tokens, bytes."""
        with self._changed:
            return self._waiting()

    def submit(self, ticket: Ticket[Request]) -> Future[Any]:
        """Take one request. Raises Full, TooLarge, Draining."""
        self.submit_all([ticket])
        return ticket.future

    def submit_all(self, tickets: Sequence[Ticket[Request]]) -> None:
        """Take all of `tickets` or none of them. Raises Full, TooLarge, Draining."""
        asked = _sizes(tickets)
        with self._changed:
            if not self._accepting:
                raise Draining("the server is shutting down")
            waiting = self._waiting()
            for bound, limit in self._limits.items():
                if asked[bound] > limit:
                    raise TooLarge(bound, asked[bound], limit)
                if waiting[bound] + asked[bound] > limit:
                    raise Full(bound, limit, self._room_after(bound, asked[bound]))
            now = time.monotonic()
            for ticket in tickets:
                ticket.entered = now
                self._queue.append(ticket)
            self._changed.notify_all()

    def abandon(self, ticket: Ticket[Request]) -> None:
        """Nobody waits for `ticket` any more: leave the queue at once, or end at the next token."""
        with self._changed:
            ticket.stopped = Abandoned()
            if ticket in self._queue:
                self._queue.remove(ticket)
                ticket.future.cancel()
                self._changed.notify_all()

    def stop(self) -> None:
        """Take nothing new and refuse as Draining what waits; what runs ends at its next check. Does not wait."""
        with self._changed:
            self._accepting, self._closed = False, True
            left, self._queue = list(self._queue), deque()
            for ticket in [*left, *self._running]:
                ticket.stopped = Draining("the server is shutting down")
            self._changed.notify_all()
        for ticket in left:
            if ticket.future.set_running_or_notify_cancel():
                ticket.future.set_exception(Draining("the server is shutting down"))

    def drain(self, timeout: float) -> bool:
        """Take nothing new and finish what is there within `timeout` seconds, then stop; True if all was finished."""
        with self._changed:
            self._accepting = False
            finished = self._changed.wait_for(lambda: not self._queue and not self._running, timeout)
        self.stop()
        self._thread.join(timeout=1.0)
        return finished

    def _waiting(self) -> dict[str, int]:
        return _sizes(self._queue)

    def _room_after(self, bound: str, asked: int) -> float:
        """Seconds until the batches ahead will have left room for `asked` more; a batch of unknown cost counts 1."""
        seconds = 0.0
        if self._running:
            elapsed = time.monotonic() - self._running_since
            seconds = max(0.0, self._predict(self._running) - elapsed)
        waiting = list(self._queue)
        while waiting and _sizes(waiting)[bound] + asked > self._limits[bound]:
            batch = next_batch(waiting, self._batch_size)
            waiting = [ticket for ticket in waiting if ticket not in batch]
            if _sizes(waiting)[bound] + asked > self._limits[bound]:
                seconds += self._predict(batch)
        return seconds

    def _predict(self, batch: Sequence[Ticket[Request]]) -> float:
        cost = self._costs.get(batch[0].model)
        return 1.0 if cost is None else cost.predict(_sizes(batch)["tokens"])

    def _loop(self) -> None:
        while (batch := self._take()) is not None:
            live = [ticket for ticket in batch if _still_wanted(ticket)]
            if live:
                began = time.monotonic()
                self._answer(live)
                self._learn(live, began, time.monotonic() - began)
            with self._changed:
                self._running = []
                self._changed.notify_all()

    def _take(self) -> list[Ticket[Request]] | None:
        with self._changed:
            while not self._queue:
                if self._closed:
                    return None
                self._changed.wait()
                self.wakeups += 1
            self._running = next_batch(self._queue, self._batch_size)
            self._running_since = time.monotonic()
            for ticket in self._running:
                self._queue.remove(ticket)
            return list(self._running)

    def _answer(self, batch: Sequence[Ticket[Request]]) -> None:
        try:
            answers = self._execute(batch)
            if len(answers) != len(batch):
                raise RuntimeError(f"{len(answers)} answers to {len(batch)} requests")
        except Exception as error:
            if len(batch) == 1:
                batch[0].future.set_exception(error)
            else:
                self._answer(batch[: len(batch) // 2])
                self._answer(batch[len(batch) // 2 :])
            return
        for ticket, answer in zip(batch, answers, strict=True):
            if isinstance(answer, Exception):
                ticket.future.set_exception(answer)
            else:
                ticket.future.set_result(answer)

    def _learn(self, batch: Sequence[Ticket[Request]], began: float, seconds: float) -> None:
        model, tokens = batch[0].model, _sizes(batch)["tokens"]
        with self._changed:
            self._costs[model] = self._costs.get(model, Cost()).observe(tokens, seconds)
        self._on_batch(Batch(model, len(batch), tokens, tuple(began - t.entered for t in batch), seconds))


def _sizes(tickets: Iterable[Ticket[Any]]) -> dict[str, int]:
    held = list(tickets)
    return {"requests": len(held), "tokens": sum(t.tokens for t in held), "bytes": sum(t.bytes for t in held)}


def _still_wanted(ticket: Ticket[Any]) -> bool:
    """Claim the answer of `ticket`, unless it is too late or nobody wants it; from then on only the lane ends it."""
    if not ticket.future.set_running_or_notify_cancel():
        return False
    try:
        ticket.check()
    except Exception as error:
        ticket.future.set_exception(error)
        return False
    return True
