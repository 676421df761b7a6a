"""Real jobs run by the real program in a process of its own, in a folder of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FULLBORE = Path(sys.executable).with_name("fullbore")

NEIGHBOUR = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"


@contextmanager
def neighbours() -> Iterator[None]:
    """A program on each core, that wants all of it."""
    cores = sorted(os.sched_getaffinity(0))
    hungry = [subprocess.Popen([sys.executable, "-c", NEIGHBOUR, str(core)]) for core in cores]
    try:
        yield
    finally:
        for each in hungry:
            each.kill()
            each.wait()


TINY = """
name = "tiny"
[data]
source = "python://stdlib"
format = "text"
include = ["json/*.py", "email/*.py", "http/*.py"]
validation = "20%"
[tokenizer]
vocabulary_size = 300
[task]
kind = "causal_lm"
baselines = ["bigram", "trigram"]
[model]
kind = "decoder"
width = 32
layers = 2
heads = 2
[train]
budget = "30 steps"
global_batch_size = 8
sequence_length = 32
threads = 1
precision = "fp32"
evaluate_every = 10
checkpoint_every = 5
evaluate_samples = 64
[compress]
samples = 64
[serve]
prompt_tokens = 8
"""


@dataclass(frozen=True)
class Outcome:
    code: int
    stdout: str
    stderr: str
    seconds: float
    """From before exec to after exit, taken from outside."""

    @property
    def answer(self) -> dict[str, Any]:
        return dict(json.loads(self.stdout.splitlines()[-1]))


@dataclass(frozen=True)
class Bench:
    """A folder with its own runs and caches, and the program to use in it."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        own = {"FULLBORE_RUNS": str(self.folder / "runs"), "XDG_CACHE_HOME": str(self.folder / "cache")}
        return {**os.environ, **own, "NO_COLOR": "1"}

    def job(self, text: str = TINY, name: str = "job.toml") -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def start(self, *arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [FULLBORE, *map(str, arguments)],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def run(self, *arguments: str | Path, patience: float = 300, **options: Any) -> Outcome:
        began = time.monotonic()
        process = self.start(*arguments, **options)
        stdout, stderr = process.communicate(timeout=patience)
        return Outcome(process.returncode, stdout, stderr, time.monotonic() - began)

    def done(self, *arguments: str | Path) -> dict[str, Any]:
        outcome = self.run(*arguments, "--json")
        assert outcome.code == 0, outcome.stderr
        return outcome.answer

    def runs(self) -> list[str]:
        """Names of the runs that there are."""
        folder = self.folder / "runs"
        return sorted(path.name for path in folder.glob("[!.]*")) if folder.is_dir() else []

    def result(self, run: str) -> dict[str, Any]:
        return dict(json.loads((self.folder / "runs" / run / "result.json").read_text()))

    def events(self, run: str, kind: str) -> list[dict[str, Any]]:
        lines = (self.folder / "runs" / run / "events.jsonl").read_bytes().splitlines()
        found = []
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if event["kind"] == kind:
                found.append(event)
        return found

    def losses(self, run: str) -> dict[int, float]:
        """The last loss of each step: a step after a resumed checkpoint is taken again."""
        return {event["step"]: event["loss"] for event in self.events(run, "step")}

    def wait_for_run(self, process: subprocess.Popen[str], run: str, kind: str, count: int = 1) -> None:
        """Return when the run has written `count` events of a kind."""
        events = self.folder / "runs" / run / "events.jsonl"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if events.exists() and len(self.events(run, kind)) >= count:
                return
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)
        raise AssertionError(f"{run}: no {count} events of {kind}")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, dict[str, Any], Outcome]:
    """One tiny language model, run once for all tests that only look at it."""
    bench = Bench(tmp_path_factory.mktemp("finished"))
    outcome = bench.run("run", bench.job(), "--json", "--name", "tiny-run")
    assert outcome.code == 0, outcome.stderr
    return bench, outcome.answer, outcome


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()
