"""Run folders: no two share a name, everybody sees which one is alive, and what ended it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fullbore.base.errors import InputError, UsageError
from fullbore.record import run
from fullbore.record.run import RunFolder
from tests.base.killing import killed_before_every_line


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of runs, also for child processes."""
    monkeypatch.setenv("FULLBORE_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def test_a_new_run_has_a_readable_name_and_holds_what_was_asked(root: Path) -> None:
    made = run.create("[train]\n# 中文\n", {"schema": 1})
    assert re.fullmatch(r"[a-z]+-[a-z]+-1", made.name)
    assert made.paths.folder == root / made.name
    assert sorted(path.name for path in made.paths.folder.iterdir()) == ["artifacts", "env.json", "job.toml"]
    assert made.paths.job.read_text() == "[train]\n# 中文\n"
    assert made.environment()["schema"] == 1
    assert made.environment()["created"] > 0
    assert (made.result(), made.status()) == (None, "killed")
    assert [entry.name for entry in root.iterdir()] == [made.name]


def test_a_name_that_is_taken_is_refused_and_its_run_is_kept(root: Path) -> None:
    run.create("first", {}, "mine")
    with pytest.raises(UsageError, match="run mine exists already") as told:
        run.create("second", {}, "mine")
    assert told.value.hint == "fullbore runs show mine"
    assert run.find("mine").paths.job.read_text() == "first"
    (root / "empty").mkdir()
    with pytest.raises(UsageError):
        run.create("third", {}, "empty")


MANY = """
import os, sys
from fullbore.base import names
from fullbore.base.errors import UsageError
from fullbore.record import run
os.fsync = lambda descriptor: None
names._ADJECTIVES, names._ANIMALS = ["calm"], ["otter"]
turns, name = int(sys.argv[1]), sys.argv[2] or None
out, into = os.pipe()
go, gone = os.pipe()
children = []
for worker in range(8):
    child = os.fork()
    if child:
        children.append(child)
        continue
    os.close(gone)
    os.read(go, 1)
    for turn in range(turns):
        try:
            made = run.create(f"{worker} {turn}", {}, name)
            os.write(into, f"{made.name} {worker} {turn}\\n".encode())
        except UsageError:
            os.write(into, b"refused\\n")
    os._exit(0)
os.close(into), os.close(go), os.close(gone)
print(open(out).read(), end="")
sys.exit(sum(os.waitpid(child, 0)[1] != 0 for child in children))
"""


def test_many_processes_that_create_runs_at_once_each_get_their_own(root: Path) -> None:
    told = subprocess.run(python(MANY, "6", ""), capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(told) == 48
    for line in told:
        name, _, content = line.partition(" ")
        assert (root / name / "job.toml").read_text() == content
    assert {line.split()[0] for line in told} == {run.name for run in run.list_runs()}
    assert {entry.name for entry in root.iterdir()} == {f"calm-otter-{number}" for number in range(1, 49)}


def test_of_many_processes_that_want_one_name_one_gets_it(root: Path) -> None:
    for name in ("a", "b", "c", "d"):
        told = subprocess.run(python(MANY, "1", name), capture_output=True, text=True, check=True).stdout.splitlines()
        assert told.count("refused") == 7
        [winner] = [line for line in told if line != "refused"]
        assert (root / name / "job.toml").read_text() == winner.partition(" ")[2]
    assert sorted(entry.name for entry in root.iterdir()) == ["a", "b", "c", "d"]


def test_a_run_is_whole_or_absent_wherever_its_making_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = killed_before_every_line(
        tmp_path / "killed",
        "import os; from fullbore.record import run; os.environ['FULLBORE_RUNS'] = str(folder)",
        "run.create('job', {'schema': 1}, 'mine')",
    )
    whole = 0
    for place in places:
        monkeypatch.setenv("FULLBORE_RUNS", str(place))
        for made in run.list_runs():
            assert (made.name, made.paths.job.read_text(), made.status()) == ("mine", "job", "killed")
            assert made.paths.artifacts.is_dir()
            whole += 1
    assert 0 < whole < len(places)


ALIVE = """
import sys
from fullbore.record import run
with run.find(sys.argv[1]).alive():
    print("alive", flush=True)
    sys.stdin.read()
"""


@contextmanager
def living(name: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the run's lock, until its standard input ends."""
    with subprocess.Popen(python(ALIVE, name), stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "alive\n"
        yield child


def test_another_process_sees_that_a_run_is_alive_and_that_it_was_killed(root: Path) -> None:
    made = run.create("", {}, "mine")
    with living("mine") as child:
        assert [made.status() for _ in range(3)] == ["running"] * 3
        with pytest.raises(UsageError, match="run mine is running"), made.alive():
            raise AssertionError
        child.send_signal(signal.SIGKILL)
    assert made.status() == "killed"
    with made.alive():
        assert made.status() == "running"
    assert made.status() == "killed"


def test_a_run_that_is_resumed_is_running_whatever_ended_it_before(root: Path) -> None:
    made = run.create("", {}, "mine")
    made.finish({"status": "interrupted"})
    with living("mine"):
        assert made.status() == "running"
    assert made.status() == "interrupted"


@pytest.mark.parametrize("status", ["done", "failed", "interrupted"])
def test_a_run_that_ended_by_itself_says_how(root: Path, status: str) -> None:
    made = run.create("", {}, "mine")
    with made.alive():
        made.finish({"status": status, "text": "中文"})
        assert made.status() == "running"
    assert made.status() == status
    assert made.result() == {"status": status, "text": "中文"}


def test_who_only_looks_never_keeps_a_run_from_starting(root: Path) -> None:
    made = run.create("", {}, "mine")
    looks = (
        "from fullbore.record import run\n"
        "made = run.find('mine')\n"
        "print('looking', flush=True)\n"
        "while True: made.status()\n"
    )
    with subprocess.Popen(python(looks), stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "looking\n"
        try:
            for _ in range(5000):
                with made.alive():
                    pass
        finally:
            child.send_signal(signal.SIGKILL)


def test_the_result_is_the_old_or_the_new_wherever_its_writing_is_killed(tmp_path: Path) -> None:
    places = killed_before_every_line(
        tmp_path / "killed",
        "import os; from fullbore.record import run; os.environ['FULLBORE_RUNS'] = str(folder)\n"
        "made = run.create('', {}, 'mine'); made.finish({'status': 'interrupted'})",
        "made.finish({'status': 'done', 'steps': 200})",
    )
    results = [json.loads((place / "mine" / "result.json").read_text()) for place in places]
    assert {result["status"] for result in results} == {"interrupted", "done"}
    assert all(result["status"] == "interrupted" or result["steps"] == 200 for result in results)


def test_runs_are_listed_oldest_first_and_found_by_name_path_or_last(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no runs in"):
        run.find("last")
    assert run.list_runs() == []
    for name, created in (("b", 3.0), ("c", 1.0), ("a", 2.0)):
        run.create("", {"created": created}, name)
    (root / ".cache").mkdir()
    (root / "notes").mkdir()
    (root / "file").touch()
    (root / ".draft.1.tmp").mkdir()
    (root / ".draft.1.tmp" / "env.json").write_text("{}")
    assert [made.name for made in run.list_runs()] == ["c", "a", "b"]
    assert run.find("last") == run.find("b") == run.find(str(root / "b")) == run.find(f"{root}/b/")
    elsewhere = tmp_path / "elsewhere"
    run.find("a").paths.folder.rename(elsewhere)
    assert run.find(str(elsewhere)).name == "elsewhere"
    for absent in ("a", "notes", "file", str(tmp_path / "nothing")):
        with pytest.raises(InputError, match="no run") as told:
            run.find(absent)
        assert told.value.hint == "the latest are: c, b"


def test_the_environment_is_plain_json_of_this_machine() -> None:
    found = run.environment()
    assert json.loads(json.dumps(found)) == found
    assert found["cores"] >= 1
    assert found["packages"]["numpy"]
    assert set(found) == {"schema", "python", "platform", "cores", "packages", "command"}


def test_a_run_folder_is_plain_data(root: Path) -> None:
    made = run.create("", {}, "mine")
    assert made == RunFolder("mine", made.paths) == run.find("mine")
