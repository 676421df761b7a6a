"""The only place that prints: answers to stdout, everything else to stderr, for people, for files and for programs."""

from __future__ import annotations

import json as json_module
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from fullbore.base.errors import FullboreError, Interrupted, JobError
from fullbore.cli.ink import Ink

if TYPE_CHECKING:
    from fullbore.cli.progress import StoredProgress

Show = Callable[[dict[str, Any], Ink], Iterable[str]]
SCHEMA = 1


def _interactive(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _ink(stream: TextIO) -> Ink:
    plain = bool(os.environ.get("NO_COLOR")) or not (_interactive(stream) or os.environ.get("FORCE_COLOR"))
    return Ink(colours=0 if plain else 24 if os.environ.get("COLORTERM") in ("truecolor", "24bit") else 8)


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _kept(trace: str) -> str:
    """Where a traceback is, now that it is written to a file; said so if there is no room for one."""
    try:
        with tempfile.NamedTemporaryFile("w", prefix="fullbore-", suffix=".log", delete=False) as file:
            file.write(trace)
    except OSError as error:
        return f"its traceback could not be kept ({error.strerror}), -vv prints it"
    return f"its traceback is in {file.name}"


class Console:
    """One per process. `configure` is called by the verb once its options are read."""

    def __init__(self) -> None:
        self.json = False
        self.verbosity = 0
        self._answered = False
        self._above: Callable[[str], None] | None = None
        """Prints a line where progress is shown: above the live region, after the lines that are due."""

    def configure(self, json: bool, quiet: bool, verbose: int) -> None:
        from fullbore.base import log

        self.json = json
        self.verbosity = -1 if quiet else verbose
        log.configure(self.verbosity)

    def note(self, text: str) -> None:
        """Something to know while a verb works, to stderr; `-q` is silent."""
        if self.verbosity < 0:
            return
        if self._above is not None:
            self._above(text)
        else:
            _to_stderr(text)

    def answer(self, result: Mapping[str, Any], show: Show) -> None:
        """What a verb was asked for, to stdout: one JSON object, or as `show` draws it for people."""
        whole = {"schema": SCHEMA, **result}
        self._answered = True
        if self.json:
            print(json_module.dumps(whole, ensure_ascii=False, default=str))
        else:
            for line in show(whole, _ink(sys.stdout)):
                print(line.rstrip())
        sys.stdout.flush()

    @contextmanager
    def progress(self) -> Iterator[StoredProgress]:
        """Progress of long work: a live region on a terminal, else a plain line now and then; nothing with `-q`."""
        from fullbore.cli.progress import StoredProgress, live, plain

        progress = StoredProgress()
        if self.verbosity < 0 or os.environ.get("FULLBORE_NO_PROGRESS"):
            yield progress
        elif _interactive(sys.stderr):
            with live(progress) as self._above:
                try:
                    yield progress
                finally:
                    self._above = None
        else:
            with plain(progress, _to_stderr) as self._above:
                try:
                    yield progress
                finally:
                    self._above = None

    def failed(self, error: FullboreError) -> int:
        """Say what went wrong and what to do; returns the exit code."""
        if isinstance(error, JobError):
            self._complain([str(problem) for problem in error.problems], error.hint)
        else:
            self._complain([f"error: {error.message}"], error.hint)
        if self.verbosity >= 2:
            traceback.print_exception(error)
        status = "interrupted" if isinstance(error, Interrupted) else "failed"
        self._fail(status, type(error).__name__, error.message, error.hint, error.result)
        return error.exit_code

    def misused(self, message: str, hint: str) -> int:
        """A command line that makes no sense."""
        self._complain([f"error: {message}"], hint)
        self._fail("failed", "UsageError", message, hint)
        return 2

    def crashed(self, error: BaseException) -> int:
        """A mistake of ours: one line, and the whole story in a file."""
        trace = "".join(traceback.format_exception(error))
        kind, message = type(error).__name__, " ".join(str(error).split())[:200]
        hint = f"this is a fault of fullbore; {_kept(trace)}"
        self._complain([f"error: {kind}: {message}"], hint)
        if self.verbosity >= 2:
            print(trace, file=sys.stderr)
        self._fail("failed", kind, message, hint)
        return 1

    def _complain(self, lines: list[str], hint: str | None) -> None:
        ink = _ink(sys.stderr)
        for line in lines:
            name, found, rest = line.partition("error: ")
            print(f"{name}{ink.bad(found)}{rest}" if found and not name else line, file=sys.stderr)
        if hint:
            print(f"\n{ink.bold('hint:')} {hint}", file=sys.stderr)
        sys.stderr.flush()

    def _fail(
        self, status: str, kind: str, message: str, hint: str | None, result: Mapping[str, Any] | None = None
    ) -> None:
        """One JSON object: the whole `result` of the run that the error ended, or the error alone.

        None where the verb had answered before: there is one object on stdout.
        """
        if self.json and not self._answered:
            error = {"kind": kind, "message": message, "hint": hint}
            whole = {"schema": SCHEMA, **(result or {}), "status": status, "error": error}
            print(json_module.dumps(whole, ensure_ascii=False, default=str), flush=True)


console = Console()
