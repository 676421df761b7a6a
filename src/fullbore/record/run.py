"""Runs: folders that say what was asked, what happened and where the results are, whatever ended them."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fullbore.base.errors import CorruptError, InputError, UsageError
from fullbore.base.files import folder_atomic, write_atomic
from fullbore.base.names import run_name
from fullbore.base.paths import RunPaths, runs_root
from fullbore.base.refusals import about

Status = Literal["running", "done", "failed", "interrupted", "killed"]

_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]*")
_LAST = "last"
_MEND = "remove the run's folder, or put the file back"


@dataclass(frozen=True)
class RunFolder:
    """One run on disk."""

    name: str
    paths: RunPaths

    def environment(self) -> dict[str, Any]:
        """What it ran on. Raises InputError, as the others do, for a file that is not as fullbore wrote it."""
        return _parsed(self.paths.environment, json.loads)

    def created(self) -> float:
        """When it was made, in seconds since the epoch."""
        created = self.environment().get("created")
        if not isinstance(created, int | float):
            raise _unlike(self.paths.environment, "no time of its making")
        return created

    def job(self) -> dict[str, Any]:
        """The resolved job, as plain data."""
        return _parsed(self.paths.job, tomllib.loads)

    def result(self) -> dict[str, Any] | None:
        """The final object of `run --json`, or none if the run has not ended by itself."""
        try:
            return _parsed(self.paths.result, json.loads)
        except InputError:
            if self.paths.result.is_file():
                raise
            return None

    def status(self) -> Status:
        if _locked(self.paths.lock):
            return "running"
        result = self.result()
        return result.get("status", "killed") if result is not None else "killed"

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Hold the run's lock, so that everybody sees that it runs; a killed process loses it. Raises UsageError."""
        with open(self.paths.lock, "a+") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    if _locked(self.paths.lock):  # else somebody only looked, as `status` does
                        raise UsageError(f"run {self.name} is running", hint="wait for it, or stop it first") from None
            yield

    def finish(self, result: dict[str, Any]) -> None:
        with about(self.paths.result):
            write_atomic(self.paths.result, json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def _parsed(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    try:
        return dict(parse(path.read_text()))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})", hint=_MEND) from None
    except (ValueError, TypeError) as error:
        raise _unlike(path, str(error)) from None


def _unlike(path: Path, why: str) -> CorruptError:
    return CorruptError(f"{path}: not as fullbore wrote it ({why})", hint=_MEND)


def _locked(path: Path) -> bool:
    try:
        with open(path) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except OSError:
        return True


def create(job_toml: str, environment: dict[str, Any], name: str | None = None) -> RunFolder:
    """A new run folder that holds the resolved job and the environment; another process's is never taken."""
    root = runs_root()
    if name is not None:
        _require_name(name)
    root.mkdir(parents=True, exist_ok=True)
    while True:
        chosen = name or run_name(entry.name for entry in root.iterdir())
        paths = RunPaths(root / chosen)
        try:
            if not paths.folder.exists():
                _write(paths.folder, job_toml, environment)
                return RunFolder(chosen, paths)
        except FileExistsError:
            pass
        if name:
            raise UsageError(f"run {chosen} exists already", hint=f"fullbore runs show {chosen}")


def _write(folder: Path, job_toml: str, environment: dict[str, Any]) -> None:
    with about(folder), folder_atomic(folder, replace=False) as draft:
        beside = RunPaths(draft)
        beside.job.write_text(job_toml)
        beside.environment.write_text(json.dumps({"created": time.time(), **environment}, indent=1) + "\n")
        beside.artifacts.mkdir()


def _require_name(name: str) -> None:
    if name == _LAST or not _NAME.fullmatch(name):
        raise UsageError(
            f"a run cannot be called {name!r}; expected letters, digits, '.', '_' and '-', a letter or digit first",
            hint=f"take another name; {_LAST!r} is the newest run",
        )


def folders() -> Iterator[RunFolder]:
    """Every run folder, in no order; what is in it may be unreadable."""
    root = runs_root()
    for entry in root.iterdir() if root.exists() else ():
        if not entry.name.startswith(".") and _is_run(entry):
            yield RunFolder(entry.name, RunPaths(entry))


def _is_run(folder: Path) -> bool:
    try:
        return RunPaths(folder).environment.is_file()
    except PermissionError:
        return True


def list_runs() -> list[RunFolder]:
    """All runs that say when they were made, oldest first."""
    created: dict[RunFolder, float] = {}
    for run in folders():
        with suppress(InputError):
            created[run] = run.created()
    return sorted(created, key=created.__getitem__)


def find(name: str) -> RunFolder:
    """The run called `name`, `last` for the newest, or a path to a run folder. Raises InputError, UsageError."""
    if name == _LAST:
        runs = list_runs()
        if not runs:
            raise InputError(f"no runs in {runs_root()}", hint="fullbore run <job.toml> makes one")
        return runs[-1]
    if os.sep not in name:
        _require_name(name)
    folder = Path(name) if os.sep in name else runs_root() / name
    paths = RunPaths(folder.absolute())
    if not paths.environment.is_file():
        known = ", ".join(run.name for run in list_runs()[-5:]) or "none"
        raise InputError(f"no run {name!r} in {runs_root()}", hint=f"the latest are: {known}")
    return RunFolder(folder.name, paths)


def environment() -> dict[str, Any]:
    """What a later reader needs to know of the machine and the program: read, not measured."""
    from importlib.metadata import PackageNotFoundError, version

    def found(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    packages = ("fullbore", "torch", "numpy", "pyarrow", "tokenizers", "transformers", "safetensors")
    return {
        "schema": 1,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "packages": {name: found(name) for name in packages},
        "command": sys.argv,
    }
