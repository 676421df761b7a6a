"""Somebody else's command line, run to its end and measured from outside: no shell, no pipes, nothing beside it."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

from fullbore.base.errors import UsageError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_GRACE_SECONDS = 5.0
_TAIL_BYTES = 1 << 20
_SHELL = {"|", "||", "&", "&&", ";", ">", ">>", "<", "2>", "2>&1"}


@dataclass(frozen=True)
class Ended:
    """What a command came to."""

    code: int
    """Exit code; negative: the signal that ended it."""
    seconds: float
    """From before its start until its end."""
    cpu_seconds: float
    """Of all cores, by it and by what it started and waited for."""
    peak_bytes: int
    """The most memory that one of these processes held, or ours while it started, which Linux counts too."""
    stdout: str
    """The end of what it wrote, at most 1 MiB."""
    stderr: str

    @property
    def how(self) -> str:
        return f"exit code {self.code}" if self.code >= 0 else signal.Signals(-self.code).name


def words(line: str) -> tuple[str, ...]:
    """A command line as its words. Raises UsageError if it has none, is meant for a shell, or names no program."""
    try:
        found = tuple(shlex.split(line))
    except ValueError as error:
        raise UsageError(f"{line}: {str(error).lower()}", hint="quote it as for a shell") from error
    if not found:
        raise UsageError("a command is empty", hint='for example fullbore bench "python a.py" "python b.py"')
    if operators := _SHELL.intersection(found):
        raise UsageError(
            f"{line}: {min(operators)} is for a shell, and there is none", hint=f"sh -c {shlex.quote(line)}"
        )
    if shutil.which(found[0]) is None:
        raise UsageError(f"{found[0]}: no such program", hint="a name on the PATH, or the path of an executable file")
    return found


def run(command: Sequence[str], environment: Mapping[str, str] = os.environ) -> Ended:
    """Run `command` to its end, its input empty, in a process group of its own; from the main thread.

    Whatever is raised meanwhile (Ctrl-C) ends that group: SIGTERM, then SIGKILL. Raises OSError if it cannot start.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, out.fileno(), 1),
            (os.POSIX_SPAWN_DUP2, err.fileno(), 2),
        ]
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        began = time.perf_counter()
        try:
            pid = os.posix_spawnp(
                command[0],
                list(command),
                dict(environment),
                file_actions=actions,
                setpgroup=0,
                setsigmask=before,
                setsigdef=_SIGNALS,
            )
        except BaseException:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            raise
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            _, status, used = os.wait4(pid, 0)
        except BaseException:
            _end(pid)
            raise
        return Ended(
            code=os.waitstatus_to_exitcode(status),
            seconds=time.perf_counter() - began,
            cpu_seconds=used.ru_utime + used.ru_stime,
            peak_bytes=used.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
            stdout=_tail(out),
            stderr=_tail(err),
        )


def _end(pid: int) -> None:
    """End a process and its group, and wait for it."""
    ended = False
    try:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGTERM)
        until = time.monotonic() + _GRACE_SECONDS
        while not ended and time.monotonic() < until:
            ended = os.waitpid(pid, os.WNOHANG)[0] != 0
            time.sleep(0.01)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        if not ended:
            os.waitpid(pid, 0)


def _tail(file: BinaryIO) -> str:
    file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
    return file.read().decode("utf-8", "replace")
