"""Serving until told to stop: the port first, then the models, then answers; SIGTERM finishes what is in flight."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import uvicorn
from starlette.applications import Starlette

from fullbore.base.errors import MachineLacks, RunFailed
from fullbore.models.weights import LoadedModel
from fullbore.serve.api import application
from fullbore.serve.backends.torch import fastest_threads
from fullbore.serve.lane import Lane
from fullbore.spec.serve import ServeSection

_CLOSING_SECONDS = 5.0
_BACKLOG = 2048

Models = Mapping[str, LoadedModel]


def serve(models: Models | Callable[[], Models], section: ServeSection, *, ready: Callable[[str], None]) -> None:
    """Answer on `section.host` and `port` until SIGTERM or SIGINT, then finish what is in flight and return.

    The port is taken before `models`, if it is a callable, loads anything. `ready` is told the URL once the server
    accepts. What is not finished `drain_timeout` after the signal, or at a second one, is refused with 503.
    Raises MachineLacks if the port cannot be had, UsageError for models that cannot be served.
    """
    with _bound(section) as listener:
        loaded = models() if callable(models) else models
        torch.set_num_threads(fastest_threads(loaded, len(os.sched_getaffinity(0))))
        app = application(loaded, section)
        with _port_errors(section):
            listener.listen(_BACKLOG)
        server = _Server(app, section, lambda: ready(_url(section.host, listener)))
        server.run(sockets=[listener])
    _require_started(server)


@contextmanager
def background(models: Models, section: ServeSection) -> Iterator[str]:
    """Serve from a thread of this process on any free port, until the block ends; yields the URL."""
    with _bound(section.model_copy(update={"port": 0})) as listener:
        accepting = threading.Event()
        server = _Server(application(models, section), section, accepting.set)

        def work() -> None:
            try:
                server.run(sockets=[listener])
            finally:
                accepting.set()

        thread = threading.Thread(target=work, name="fullbore-serve", daemon=True)
        thread.start()
        accepting.wait()
        _require_started(server)
        try:
            yield _url(section.host, listener)
        finally:
            server.stop()
            thread.join()


class _Server(uvicorn.Server):
    """uvicorn without its ten wake-ups a second, and whose signals end in a return instead of a death by signal."""

    def __init__(self, app: Starlette, section: ServeSection, ready: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,
            lifespan="on",
            ws="none",
        )
        super().__init__(config)
        self._lane: Lane[Any] = app.state.lane
        self._ready = ready
        self._drain_timeout = section.drain_timeout
        self._stopping = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def stop(self) -> None:
        """End as SIGTERM does; from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._begin_to_stop)

    async def main_loop(self) -> None:
        self._ready()
        await self._stopping.wait()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        self._loop = loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
        for one in signals:
            loop.add_signal_handler(one, self._begin_to_stop)
        try:
            yield
        finally:
            for one in signals:
                loop.remove_signal_handler(one)

    def _begin_to_stop(self) -> None:
        if self._stopping.is_set():
            self._refuse_the_rest()
            return
        self.should_exit = True
        self._stopping.set()
        asyncio.get_running_loop().call_later(self._drain_timeout, self._refuse_the_rest)

    def _refuse_the_rest(self) -> None:
        """What is left is answered 503; connections that stay after that are cut."""
        self._lane.stop()
        asyncio.get_running_loop().call_later(_CLOSING_SECONDS, self._cut)

    def _cut(self) -> None:
        self.force_exit = True


def _bound(section: ServeSection) -> socket.socket:
    """A socket that holds the port and does not accept yet. Raises MachineLacks."""
    with _port_errors(section):
        family, _, _, _, address = socket.getaddrinfo(section.host, section.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    return listener


@contextmanager
def _port_errors(section: ServeSection) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = f"{section.host}:{section.port}"
        if error.errno == errno.EADDRINUSE:
            raise MachineLacks(
                f"serve.port: {where} is in use", hint="--set serve.port=0 takes any free port"
            ) from None
        raise MachineLacks(f"serve.host: {where}: {error.strerror}", hint="--set serve.host=127.0.0.1") from None


def _url(host: str, listener: socket.socket) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listener.getsockname()[1]}"


def _require_started(server: _Server) -> None:
    if not server.started:
        raise RunFailed("the server could not start", hint="its log above says why")
