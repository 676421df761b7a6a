"""Ranks as processes of this machine."""

from __future__ import annotations

import json
import math
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType

from fullbore.base.errors import FullboreError, Interrupted, RunFailed, from_json
from fullbore.engine.rank import ERROR

_POLL_SECONDS = 0.2
_GRACE_SECONDS = 3.0
_KEPT_LINES = 20


class RankLost(RunFailed):
    """A rank cannot go on because another one is gone. Its exit code tells `launch` that the other one is to blame."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


class _Rank:
    """One process; what it writes goes to our stderr, and its last lines are kept, and the error it ended with."""

    def __init__(self, number: int, command: list[str], environment: Mapping[str, str], listening: int) -> None:
        self.number = number
        self.lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self.error: FullboreError | None = None
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[listening] if number == 0 else [],
            process_group=0,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                text = line.decode(errors="replace")
                if text.startswith(ERROR):
                    self.error = from_json(json.loads(text.removeprefix(ERROR)))
                    continue
                self.lines.append(text.rstrip())
                sys.stderr.write(text)

    def watch(self, ended: queue.SimpleQueue[_Rank]) -> None:
        def wait() -> None:
            self.process.wait()
            ended.put(self)

        threading.Thread(target=wait, daemon=True).start()

    def send(self, number: int) -> None:
        """To the rank and what it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def failure(self) -> FullboreError:
        self._reader.join(1.0)
        if self.error is not None:
            return self.error
        code = self.process.returncode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        last = "\n".join(f"  {line}" for line in self.lines)
        told = f"rank {self.number} {how}" + (f"; its last lines:\n{last}" if last else " and wrote nothing")
        return RunFailed(told, hint="what it wrote says why; resume the run once that is put right")


def launch(
    module: str,
    arguments: list[str],
    world_size: int,
    *,
    environment: Mapping[str, str] | None = None,
    on_poll: Callable[[], None] | None = None,
) -> None:
    """Run `python -m module arguments` once per rank and wait for all; `on_poll` is called a few times a second.

    Each has RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in its environment, and torch's C++ code warns only if
    TORCH_CPP_LOG_LEVEL is set here (DDP would advise against what makes it repeatable). SIGINT and SIGTERM are passed
    on. The ranks die with this process, whatever ends it.

    Raises, after ending the others, the FullboreError that ended the first rank that failed, or RunFailed with that
    rank's last lines; Interrupted if a signal was passed on and a rank ended with that exit code (130).
    """
    with _listening() as (descriptor, port):
        shared = {
            "TORCH_CPP_LOG_LEVEL": "ERROR",
            **os.environ,
            "WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
            **(environment or {}),
        }
        command = [sys.executable, "-m", "fullbore.engine.rank", str(os.getpid()), module, *arguments]
        ranks: list[_Rank] = []
        try:
            for number in range(world_size):
                own = {**shared, "RANK": str(number), "LOCAL_RANK": str(number)}
                if number == 0:
                    own["MASTER_LISTEN_FD"] = str(descriptor)
                ranks.append(_Rank(number, command, own, descriptor))
            with _passing_on(ranks) as passed:
                _wait(ranks, passed, on_poll)
        finally:
            _end(ranks)


def _wait(ranks: list[_Rank], passed: list[int], on_poll: Callable[[], None] | None) -> None:
    ended: queue.SimpleQueue[_Rank] = queue.SimpleQueue()
    for rank in ranks:
        rank.watch(ended)
    interrupted = False
    lost: _Rank | None = None
    remaining, patience = len(ranks), math.inf
    while remaining and time.monotonic() < patience:
        if on_poll is not None:
            on_poll()
        try:
            rank = ended.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            continue
        remaining -= 1
        code = rank.process.returncode
        if passed and code in (Interrupted.exit_code, -signal.SIGINT, -signal.SIGTERM):
            interrupted = True
        elif code == RankLost.exit_code:
            lost, patience = lost or rank, time.monotonic() + _GRACE_SECONDS
        elif code:
            raise rank.failure()
    if lost is not None:
        raise lost.failure()
    if interrupted:
        raise Interrupted(f"stopped by {signal.Signals(passed[0]).name}")


def _end(ranks: list[_Rank]) -> None:
    """End what still runs: asked to, then forced."""
    for rank in ranks:
        if rank.process.poll() is None:
            rank.send(signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_SECONDS
    for rank in ranks:
        try:
            rank.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            rank.send(signal.SIGKILL)
            rank.process.wait()


@contextmanager
def _listening() -> Iterator[tuple[int, int]]:
    """A socket that listens on a free port, to be handed to rank 0."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.fileno(), server.getsockname()[1]


@contextmanager
def _passing_on(ranks: list[_Rank]) -> Iterator[list[int]]:
    """Inside, SIGINT and SIGTERM go to the ranks and then to who handled them before; gives the signals seen.

    Handlers belong to the main thread: called from another one, signals stay as they are.
    """
    passed: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield passed
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        passed.append(number)
        for rank in ranks:
            rank.send(number)
        before = previous[signal.Signals(number)]
        if callable(before) and before is not signal.default_int_handler:
            before(number, frame)

    for number in previous:
        signal.signal(number, handle)
    try:
        yield passed
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
