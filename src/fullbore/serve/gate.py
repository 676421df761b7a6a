"""The gate: from a request's bytes to tickets in the lane, and from their answers back; all waiting is asynchronous."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from fullbore.serve.body import declared_length, require_json, too_large
from fullbore.serve.errors import ApiError, as_api_error
from fullbore.serve.lane import Abandoned, DeadlinePassed, Full, Lane, Refused, Ticket
from fullbore.serve.metrics import Metrics
from fullbore.spec.serve import ServeSection

T = TypeVar("T")
_SMALLEST_BODY = 4096


@dataclass(frozen=True)
class Piece:
    """A part of the streamed answer of ticket `index`; `last` comes with its future's end and no text."""

    index: int
    text: str
    last: bool = False


class Gate:
    """Everything between HTTP and the lane that all doors share."""

    def __init__(self, lane: Lane[Any], section: ServeSection, metrics: Metrics) -> None:
        self.lane = lane
        self._section = section
        self._metrics = metrics
        self._held: dict[Request, int] = {}
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="fullbore-gate")

    def deadline(self) -> float:
        """time.monotonic() at which a request that came now is too late."""
        return time.monotonic() + self._section.request_timeout

    @asynccontextmanager
    async def body(self, request: Request, deadline: float) -> AsyncIterator[bytes]:
        """The body, counted against `queue_bytes` for as long as the block holds it.

        Raises ApiError 408, 413, 415 or 429; a body that is too large is never held, whatever its headers say.
        """
        limit = self._section.body_bytes
        require_json(request)
        if declared_length(request) > limit:
            raise too_large(limit)
        try:
            self._hold(request, _SMALLEST_BODY)
            yield await self._read(request, limit, deadline)
        finally:
            del self._held[request]

    def _hold(self, request: Request, size: int) -> None:
        """Count a body; one alone is always taken, so that the lane can tell whether it could ever fit."""
        self._held[request] = self._held.get(request, 0) + size
        if len(self._held) > 1 and sum(self._held.values()) > self._section.queue_bytes:
            raise Full("bytes", self._section.queue_bytes, 1.0)

    async def _read(self, request: Request, limit: int, deadline: float) -> bytes:
        chunks: list[bytes] = []
        size = 0
        try:
            async with _until(deadline):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > limit:
                        raise too_large(limit)
                    self._hold(request, len(chunk))
                    chunks.append(chunk)
        except TimeoutError:
            raise ApiError(408, "the request body did not arrive in time", code="body_timeout") from None
        except ClientDisconnect:
            raise Abandoned from None
        return b"".join(chunks)

    async def prepare(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run parsing and tokenising off the event loop, one request after the other."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, work, *arguments)

    def submit(self, tickets: Sequence[Ticket[Any]]) -> None:
        self.lane.submit_all(tickets)

    async def collect(self, request: Request, tickets: Sequence[Ticket[Any]]) -> list[Any]:
        """The answers of `tickets`, in order. If one fails, the client goes or time is up, the others are abandoned.

        Raises what failed, Abandoned or DeadlinePassed.
        """
        answers = asyncio.gather(*(asyncio.wrap_future(ticket.future) for ticket in tickets))
        return await self._unless_gone(request, answers, tickets)

    async def first_piece(
        self, request: Request, pieces: asyncio.Queue[Piece], tickets: Sequence[Ticket[Any]]
    ) -> Piece:
        """The piece that begins a stream; what fails before it is raised, so that it can still be a status."""

        async def first() -> Piece:
            piece = await pieces.get()
            if piece.last:
                tickets[piece.index].future.result()
            return piece

        return await self._unless_gone(request, first(), tickets)

    async def _unless_gone(self, request: Request, work: Awaitable[T], tickets: Sequence[Ticket[Any]]) -> T:
        answer, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
        try:
            left = tickets[0].deadline - time.monotonic()
            done, _ = await asyncio.wait({answer, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if answer in done:
                return answer.result()
            raise Abandoned if done else DeadlinePassed
        except BaseException:
            for ticket in tickets:
                self.lane.abandon(ticket)
            raise
        finally:
            for task in (answer, gone):
                task.cancel()
            await asyncio.gather(answer, gone, return_exceptions=True)

    def open_stream(self, tickets: Sequence[Ticket[Any]]) -> asyncio.Queue[Piece]:
        """Let `tickets`, not yet submitted, put what they emit into one queue that this event loop can wait on."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[Piece] = asyncio.Queue()

        def put(piece: Piece) -> None:
            try:
                loop.call_soon_threadsafe(pieces.put_nowait, piece)
            except RuntimeError:
                pass  # the loop is closed: nobody listens

        for index, ticket in enumerate(tickets):
            ticket.emit = partial(_put_text, put, index)
            ticket.future.add_done_callback(partial(_put_last, put, index))
        return pieces

    async def next_piece(self, pieces: asyncio.Queue[Piece], deadline: float) -> Piece:
        """Raises DeadlinePassed."""
        try:
            async with _until(deadline):
                return await pieces.get()
        except TimeoutError:
            raise DeadlinePassed from None

    def refuse(self, error: BaseException) -> ApiError:
        """What the client is told, counted by reason."""
        told = as_api_error(error)
        if isinstance(error, Refused) or told.status in (413, 503):
            self._metrics.refused.labels(told.code).inc()
        return told

    def close(self) -> None:
        self._worker.shutdown(wait=False, cancel_futures=True)


def _until(deadline: float) -> asyncio.Timeout:
    return asyncio.timeout(deadline - time.monotonic())


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _put_text(put: Callable[[Piece], None], index: int, text: str) -> None:
    put(Piece(index, text))


def _put_last(put: Callable[[Piece], None], index: int, _: Future[Any]) -> None:
    put(Piece(index, "", last=True))
