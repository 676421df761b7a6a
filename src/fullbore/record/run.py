"""Runs: folders that say what was asked, what happened and where the results are, whatever ended them."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fullbore.base.errors import InputError, UsageError
from fullbore.base.files import folder_atomic, write_atomic
from fullbore.base.names import run_name
from fullbore.base.paths import RunPaths, runs_root

Status = Literal["running", "done", "failed", "interrupted", "killed"]


@dataclass(frozen=True)
class RunFolder:
    """One run on disk."""

    name: str
    paths: RunPaths

    def environment(self) -> dict[str, Any]:
        return dict(json.loads(self.paths.environment.read_text()))

    def result(self) -> dict[str, Any] | None:
        """The final object of `run --json`, or none if the run has not ended by itself."""
        try:
            return dict(json.loads(self.paths.result.read_text()))
        except FileNotFoundError:
            return None

    def status(self) -> Status:
        if _locked(self.paths.lock):
            return "running"
        result = self.result()
        return result["status"] if result is not None else "killed"

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Hold the run's lock, so that everybody sees that it runs; a killed process loses it. Raises UsageError."""
        with open(self.paths.lock, "a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UsageError(f"run {self.name} is running", hint="wait for it, or stop it first") from None
            yield

    def finish(self, result: dict[str, Any]) -> None:
        write_atomic(self.paths.result, json.dumps(result, indent=1, ensure_ascii=False) + "\n")


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
    """A new run folder that holds the resolved job and the environment."""
    root = runs_root()
    root.mkdir(parents=True, exist_ok=True)
    chosen = name or run_name(entry.name for entry in root.iterdir())
    paths = RunPaths(root / chosen)
    if paths.folder.exists():
        raise UsageError(f"run {chosen} exists already", hint=f"fullbore runs show {chosen}")
    with folder_atomic(paths.folder) as draft:
        beside = RunPaths(draft)
        beside.job.write_text(job_toml)
        beside.environment.write_text(json.dumps({"created": time.time(), **environment}, indent=1) + "\n")
        beside.artifacts.mkdir()
    return RunFolder(chosen, paths)


def list_runs() -> list[RunFolder]:
    """All runs, oldest first."""
    root = runs_root()
    if not root.is_dir():
        return []
    runs = [
        RunFolder(entry.name, RunPaths(entry))
        for entry in root.iterdir()
        if not entry.name.startswith(".") and RunPaths(entry).environment.is_file()
    ]
    return sorted(runs, key=lambda run: run.environment()["created"])


def find(name: str) -> RunFolder:
    """The run called `name`, `last` for the newest, or a path to a run folder. Raises InputError."""
    if name == "last":
        runs = list_runs()
        if not runs:
            raise InputError(f"no runs in {runs_root()}", hint="fullbore run <job.toml> makes one")
        return runs[-1]
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
