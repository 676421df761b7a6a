"""The layout of a run folder and of the machine's cache: the one place that knows their file names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunPaths:
    """`runs/<name>/` and what lies in it."""

    folder: Path

    @property
    def job(self) -> Path:
        return self.folder / "job.toml"

    @property
    def environment(self) -> Path:
        return self.folder / "env.json"

    @property
    def plan(self) -> Path:
        return self.folder / "plan.json"

    @property
    def ceilings(self) -> Path:
        return self.folder / "ceilings.json"

    @property
    def work(self) -> Path:
        return self.folder / "work.json"

    @property
    def result(self) -> Path:
        return self.folder / "result.json"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    @property
    def lock(self) -> Path:
        return self.folder / "lock"

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        return self.folder / "tensorboard"

    def events(self, rank: int = 0) -> Path:
        return self.folder / ("events.jsonl" if rank == 0 else f"events.rank{rank}.jsonl")

    def artifact(self, kind: str) -> Path:
        return self.artifacts / kind


def runs_root() -> Path:
    """Where runs are kept: `$FULLBORE_RUNS`, else `runs/` in the working directory."""
    return Path(os.environ.get("FULLBORE_RUNS", "runs")).absolute()


def stage_cache() -> Path:
    """Finished stage artifacts by content key, shared by the runs beside it."""
    return runs_root() / ".cache"


def machine_cache() -> Path:
    """What was measured of this machine: `$XDG_CACHE_HOME/fullbore`, else `~/.cache/fullbore`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fullbore"
