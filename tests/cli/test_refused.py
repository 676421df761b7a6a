"""What cannot be done is said in plain words: places that cannot be written, names, damaged runs, faults of ours."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fullbore.base.errors import InputError, RunFailed, UsageError
from fullbore.base.refusals import refusal
from fullbore.record import run as runs

pytestmark = pytest.mark.slow

JOB = 'name = "toy"\n\n[data]\nsource = "a.txt"\n'
LEDGER = {"backward": {"seconds": 9.0, "share": 0.9}, "start": {"seconds": 1.0, "share": 0.1}}
RESULT = {"schema": 1, "status": "done", "job": "toy", "seconds": 10.0, "metrics": {}, "ledger": LEDGER, "busy": {}}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FULLBORE_RUNS", raising=False)
    (tmp_path / "a.txt").write_text("a line\n" * 100)
    (tmp_path / "job.toml").write_text(JOB)
    for name in ("one", "two"):
        runs.create(JOB, runs.environment(), name).finish({**RESULT, "run": name})
    return tmp_path


def fullbore(
    *arguments: str, limit: Callable[[], None] | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fullbore.cli.main", *arguments],
        capture_output=True, text=True, preexec_fn=limit, env={**os.environ, "NO_COLOR": "1", **environment},
    )  # fmt: skip


def refused(code: int, said: str, *arguments: str, **how: Any) -> None:
    """It ends with `code`, one line that says so, and what to do; with --json the same as one object."""
    plain, json_ = fullbore(*arguments, **how), fullbore(*arguments, "--json", **how)
    assert plain.returncode == json_.returncode == code, plain.stderr
    error, blank, hint = plain.stderr.splitlines()
    assert error.startswith("error: ") and said in error and not blank and hint.startswith("hint: ")
    assert "fault of fullbore" not in hint and plain.stdout == ""
    [line] = json_.stdout.splitlines()
    answer = json.loads(line)
    assert answer["schema"] == 1 and answer["status"] == "failed"
    assert set(answer["error"]) == {"kind", "message", "hint"}
    assert said in answer["error"]["message"] and hint == f"hint: {answer['error']['hint']}"


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["report", "one", "--output", "missing/dir/x.html"], "missing/dir/x.html: No such file or directory"),
        (["report", "one", "--output", "runs"], "runs: Is a directory"),
        (["report", "one", "--output", "a.txt/x.html"], "a.txt/x.html: Not a directory"),
        (["report", "one", "--output", f"{'x' * 300}.html"], ".html: File name too long"),
        (["init", "text-lm", "/proc/x.toml"], "/proc/x.toml: No such file or directory"),
        (["init", "text-lm", "missing/x.toml"], "missing/x.toml: No such file or directory"),
        (["pack", "a.txt", "/proc/x"], "/proc/x: No such file or directory"),
        (["pack", "a.txt", "a.txt"], "a.txt exists and was not written by fullbore"),
    ],
)
def test_a_place_that_cannot_be_written_is_named(here: Path, arguments: list[str], said: str) -> None:
    before = (here / "a.txt").read_text()
    refused(2, said, *arguments)
    assert leftovers(here) == [] and (here / "a.txt").read_text() == before


@pytest.mark.parametrize("verb", [["runs", "ls"], ["explain", "last"], ["run", "job.toml"]])
def test_a_file_where_the_runs_should_be_is_named(here: Path, verb: list[str]) -> None:
    refused(2, str(here / "a.txt"), *verb, FULLBORE_RUNS=str(here / "a.txt"))


def full() -> None:
    """A full disk, as far as one process can be given one without root: files hold 100 bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


@pytest.mark.parametrize(
    ("arguments", "file"), [(["report", "one", "--output", "page.html"], "page.html"), (["init", "tabular"], "tabular")]
)
def test_a_full_disk_is_named_with_the_file(here: Path, arguments: list[str], file: str) -> None:
    refused(1, file, *arguments, limit=full)
    assert "File too large" in fullbore(*arguments, limit=full).stderr
    assert leftovers(here) == [] and not (here / "page.html").exists()


def test_a_run_that_finds_no_room_for_its_folder(here: Path) -> None:
    refused(1, f"{here}/runs/big: File too large", "run", "job.toml", "--name", "big", limit=full)
    assert sorted(path.name for path in (here / "runs").iterdir()) == ["one", "two"]


def test_each_refusal_has_its_exit_code_and_what_is_none_stays_a_fault() -> None:
    kinds = {2: InputError, 28: RunFailed, 13: InputError, 24: "MachineLacks", 12: "DoesNotFit"}
    for number, kind in kinds.items():
        found = refusal(OSError(number, os.strerror(number), "a file"))
        assert type(found).__name__ == (kind if isinstance(kind, str) else kind.__name__)
        assert found is not None and found.message == f"a file: {os.strerror(number)}" and found.hint
    assert refusal(OSError("something of ours")) is None


@pytest.mark.parametrize("name", ["../escaped", "a/b", ".hid", "last", "..", "", "a b", "Über", "x\n"])
def test_names_of_runs_stay_inside_the_folder_of_runs(here: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"a run cannot be called {re.escape(repr(name))}; expected letters, digits"):
        runs.create(JOB, {}, name)
    assert sorted(path.name for path in (here / "runs").iterdir()) == ["one", "two"]


def test_a_name_that_leads_out_starts_no_run(here: Path) -> None:
    refused(2, "a run cannot be called '../escaped'", "run", "job.toml", "--name", "../escaped")
    assert not (here / "escaped").exists()


@pytest.mark.parametrize("name", ["", ".", "..", ".cache", "a b"])
def test_names_lead_to_runs_only(here: Path, name: str) -> None:
    """Each of these folders looks like a run; none is one of `runs/`."""
    for folder in (here, here / "runs", here / "runs" / ".cache", here / "runs" / "a b"):
        folder.mkdir(exist_ok=True)
        (folder / "env.json").write_text('{"created": 1}')
    with pytest.raises(UsageError, match="cannot be called"):
        runs.find(name)


@pytest.mark.parametrize("verb", ["explain", "resume", "report", "compress"])
def test_every_verb_minds_names(here: Path, verb: str) -> None:
    refused(2, "a run cannot be called '..'", verb, "..")


def test_a_path_leads_to_a_run_elsewhere(here: Path) -> None:
    assert runs.find("./runs/one").name == runs.find(str(here / "runs" / "one")).name == "one"


DAMAGE = {
    "empty": ("env.json", b""),
    "list": ("env.json", b"[1]"),
    "timeless": ("env.json", b'{"created": "x"}'),
    "binary": ("env.json", b"\xff\xfe"),
    "jobless": ("job.toml", b"= ="),
    "torn": ("result.json", b'{"status": "do'),
}


def test_damaged_runs_are_named_once_and_stand_in_nobodys_way(here: Path) -> None:
    for name, (file, content) in DAMAGE.items():
        runs.create(JOB, {"created": 1.0}, name)
        (here / "runs" / name / file).write_bytes(content)
    listed = fullbore("runs", "ls")
    assert listed.returncode == 0, listed.stderr
    for name, (file, _) in DAMAGE.items():
        [line] = [line for line in listed.stdout.splitlines() if name in line.split()]
        assert line.startswith(f"unreadable: {name} ({here}/runs/{name}/{file}: not as fullbore wrote it")
    assert [line.split()[0] for line in listed.stdout.splitlines()[-2:]] == ["one", "two"]
    answer = json.loads(fullbore("runs", "ls", "--json").stdout)
    assert [entry["run"] for entry in answer["runs"]] == ["one", "two"] and set(answer["unreadable"]) == set(DAMAGE)
    assert json.loads(fullbore("runs", "show", "last", "--json").stdout)["run"] == "two"
    assert fullbore("explain", "last").stdout.startswith("two (done)")
    refused(2, f"{here}/runs/torn/result.json: not as fullbore wrote it", "runs", "show", "torn")
    refused(2, f"{here}/runs/jobless/job.toml: not as fullbore wrote it", "runs", "diff", "one", "jobless")


CRASH = "from fullbore.flow import doctor\ndef broken(**_): raise ValueError('two\\nlines')\ndoctor.doctor = broken\n"
MAIN = "from fullbore.cli import main\nimport sys\nsys.argv = ['fullbore', 'doctor', '--json']\nmain.main()"


def crash(limit: Callable[[], None] | None = None) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", CRASH + MAIN], capture_output=True, text=True, preexec_fn=limit, check=False
    )
    assert done.returncode == 1 and done.stderr.startswith("error: ValueError: two lines\n")
    [line] = done.stdout.splitlines()
    return dict(json.loads(line))


def test_a_fault_of_ours_is_an_error_like_the_others() -> None:
    answer = crash()
    trace = Path(answer["error"]["hint"].rpartition(" ")[2])
    assert "ValueError: two\nlines" in trace.read_text()
    trace.unlink()
    assert answer == {"schema": 1, "status": "failed", "error": {
        "kind": "ValueError", "message": "two lines",
        "hint": f"this is a fault of fullbore; its traceback is in {trace}"}}  # fmt: skip


def test_a_fault_of_ours_is_told_where_there_is_no_room_for_its_traceback() -> None:
    assert "its traceback could not be kept (File too large)" in crash(full)["error"]["hint"]


def test_a_verb_that_has_answered_says_what_ends_it_to_stderr_only() -> None:
    """As a server that fails: it answered when it was ready."""
    code = (
        "from fullbore.base.errors import RunFailed\nfrom fullbore.cli.console import console\nconsole.json = True\n"
        "console.answer({'url': 'x'}, lambda answer, ink: [])\nconsole.failed(RunFailed('gone'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"schema": 1, "url": "x"} and done.stderr == "error: gone\n"


def test_a_job_that_ends_the_program_is_answered_too(here: Path) -> None:
    (here / "job.py").write_text("import sys\ndef job():\n    sys.exit(3)\n")
    refused(1, "ended by sys.exit(3)", "run", "job.py:job")


def test_nobody_reading_on_is_no_fault(here: Path) -> None:
    for number in range(300):
        runs.create(JOB, {"created": number}, f"a-run-with-a-long-name-so-that-the-pipe-is-full-{number}")
    command = f"{sys.executable} -m fullbore.cli.main runs ls --json | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout == "{" and not done.stderr
