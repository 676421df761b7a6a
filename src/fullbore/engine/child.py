"""A process of ours that answers questions, one line of JSON each, and dies alone: of want of memory, of a crash."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from fullbore.base.errors import FullboreError, from_json
from fullbore.engine.rank import ERROR

_ANSWER = "\x1f"
"""Begins the line that holds an answer: whatever else a library prints is no answer."""
_LAST_LINES = 5
_MOST_WANTED = "1000"
"""For /proc/<pid>/oom_score_adj: whom the kernel ends first where memory runs out (proc(5))."""


class Died(Exception):
    """The process ended instead of answering."""

    def __init__(self, code: int, lines: Sequence[str], error: FullboreError | None) -> None:
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        super().__init__(f"{how}{': ' if lines else ''}{lines[-1] if lines else ''}")
        self.code, self.lines, self.error = code, lines, error


class Child:
    """Runs `python -m module arguments` in a process group of its own. It dies with this process."""

    def __init__(self, module: str, arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self._pending = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fullbore.engine.rank", str(os.getpid()), module, *arguments],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            process_group=0,
        )

    def ask(self, question: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Its answer. Raises Died, and TimeoutError if there is none within `seconds`."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._died() from None
        until = time.monotonic() + seconds
        while True:
            line = self._line(until)
            if line.startswith(_ANSWER):
                return dict(json.loads(line.removeprefix(_ANSWER)))

    def _line(self, until: float) -> str:
        assert self._process.stdout is not None
        while b"\n" not in self._pending:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise TimeoutError
            if not (read := os.read(self._process.stdout.fileno(), 1 << 16)):
                raise self._died()
            self._pending += read
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode(errors="replace")

    def _died(self) -> Died:
        code = self._process.wait()
        self._said.seek(0)
        lines = [line for line in self._said.read().decode(errors="replace").split("\n") if line.strip()]
        told = next((line for line in reversed(lines) if line.startswith(ERROR)), None)
        error = None if told is None else from_json(json.loads(told.removeprefix(ERROR)))
        return Died(code, [line for line in lines if not line.startswith(ERROR)][-_LAST_LINES:], error)

    def close(self) -> None:
        """End it and what it started, and wait for it."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._said):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


def answer(questions: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """In the child: answer each line of stdin until there are no more. Ctrl-C is the parent's."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(_MOST_WANTED)
    out, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        out.write(f"{_ANSWER}{json.dumps(questions(json.loads(line)))}\n")
        out.flush()
