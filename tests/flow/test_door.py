"""The Python door does all that the command line does, and answers with the same objects."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import fullbore
from fullbore.base.errors import UsageError
from fullbore.cli.main import VERBS
from tests.flow.conftest import Bench, Outcome

Finished = tuple[Bench, dict[str, Any], Outcome]


def plain(answer: Any) -> Any:
    """As JSON has it: lists for tuples."""
    return json.loads(json.dumps(answer))


def test_every_verb_has_its_function() -> None:
    for name in VERBS:
        found = getattr(fullbore, name)
        assert callable(found) or name == "runs"
    assert all(callable(getattr(fullbore.runs, name)) for name in ("ls", "show", "diff"))


def test_rooms_do_not_hide_the_verbs_of_their_names() -> None:
    code = (
        "import fullbore.serve.requests, fullbore.compress.guard, fullbore\n"
        "from fullbore.serve import requests\nfrom fullbore.compress import guard\n"
        "assert fullbore.serve.__module__ == fullbore.compress.__module__ == 'fullbore.door'\n"
        "assert requests.__name__ == 'fullbore.serve.requests' and guard.__name__ == 'fullbore.compress.guard'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_needs_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FULLBORE_RUNS", "nowhere")
    assert fullbore.runs.ls() == {"schema": 1, "runs": [], "unreadable": {}}
    assert fullbore.schema()["job"]["title"] == "fullbore job"
    made = fullbore.init("text-lm", "mine.toml", data="essays")
    assert made["path"] == "mine.toml" and 'source = "essays"' in Path("mine.toml").read_text()
    with pytest.raises(UsageError, match="exists and is left as it is"):
        fullbore.init("text-lm", "mine.toml")


@pytest.fixture
def copied(finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The finished run as one's own, to change; the door looks for runs there."""
    shutil.copytree(finished[0].folder, tmp_path, dirs_exist_ok=True)
    bench = Bench(tmp_path)
    for key in ("FULLBORE_RUNS", "XDG_CACHE_HOME"):
        monkeypatch.setenv(key, bench.environment[key])
    monkeypatch.chdir(tmp_path)
    return bench


@pytest.mark.slow
def test_answers_are_what_json_prints(copied: Bench) -> None:
    assert fullbore.runs.ls() == copied.done("runs", "ls")
    assert fullbore.runs.show("tiny-run") == copied.done("runs", "show", "tiny-run")
    assert fullbore.runs.diff("last", "tiny-run") == copied.done("runs", "diff", "last", "tiny-run")
    assert plain(fullbore.explain()) == copied.done("explain")
    assert fullbore.report() == copied.done("report")
    assert fullbore.inspect("last", verify=True) == copied.done("inspect", "last", "--verify")
    assert fullbore.schema() == copied.done("schema")
    assert plain(fullbore.doctor(brief=True)["ceilings"]) == copied.done("doctor", "--brief")["ceilings"]
    checked = fullbore.check("job.toml", {"train.budget": "7 steps"}, resolved=True)
    typed = copied.done("check", "job.toml", "--set", "train.budget=7 steps", "--resolved")
    assert checked["resolved"] == typed["resolved"] and checked["plan"]["steps"] == typed["plan"]["steps"] == 7
    data = {"data.include": ["json/*.py", "email/*.py"]}
    packed = fullbore.pack("python://stdlib", "by-door", data)
    typed = copied.done(
        "pack", "python://stdlib", "by-verb", "--set", f"data.include={json.dumps(data['data.include'])}"
    )
    assert packed["kept"] == typed["kept"] and packed["digest"] == typed["digest"]


@pytest.mark.slow
def test_a_run_says_its_choices_and_writes_its_report(copied: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    run = fullbore.run("job.toml", {"train.budget": "3 steps"}, name="said")
    said = capsys.readouterr()
    assert said.out == "" and f"Run said in {run.folder}" in said.err.splitlines()
    choices = copied.events("said", "choice")
    assert choices and all(f"{choice['key']} {choice['value']} (" in said.err for choice in choices)
    assert run.folder == copied.folder / "runs" / "said" and plain(run.result) == copied.result("said")
    written = run.folder / "report.html"
    assert written.is_file() and run.report() == written
    assert run.report(copied.folder / "page.html").read_text() == written.read_text()


@pytest.mark.slow
def test_a_run_elsewhere_is_resumed_where_it_is(copied: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    process = copied.start("run", "job.toml", "--name", "stopped", "--set", "train.budget=100000 steps")
    copied.wait_for_run(process, "stopped", "step")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 130
    job = copied.folder / "runs" / "stopped" / "job.toml"
    plan = copied.folder / "runs" / "stopped" / "plan.json"
    done = max(event["step"] for event in copied.events("stopped", "step"))
    plan.write_text(json.dumps({**json.loads(plan.read_text()), "steps": done + 2}))
    job.write_text(job.read_text().replace("100000 steps", f"{done + 2} steps"))
    monkeypatch.setenv("FULLBORE_RUNS", str(copied.folder / "other"))
    said: list[str] = []
    run = fullbore.resume(str(copied.folder / "runs" / "stopped"), notify=said.append)
    assert run.folder == copied.folder / "runs" / "stopped" and run.result["steps"] == done + 2
    assert said[0] == "Resuming run stopped" and (run.folder / "report.html").is_file()


@contextmanager
def held(lock: Path) -> Iterator[None]:
    """Another process holds the lock of a run, as one that works on it does."""
    code = "import fcntl, sys\nfile = open(sys.argv[1], 'a+')\nfcntl.flock(file, fcntl.LOCK_EX)\nprint('held')\ninput()"
    arguments = [sys.executable, "-uc", code, str(lock)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield
        process.communicate("go\n")


@pytest.mark.slow
def test_compress_leaves_a_running_run_alone(copied: Bench) -> None:
    paths = copied.folder / "runs" / "tiny-run"
    before = (paths / "result.json").read_bytes(), (paths / "artifacts/compressed/manifest.json").read_bytes()
    with held(paths / "lock"):
        outcome = copied.run("compress", "tiny-run")
        with pytest.raises(UsageError, match="run tiny-run is running"):
            fullbore.compress("tiny-run")
    assert outcome.code == 2 and "run tiny-run is running" in outcome.stderr
    after = (paths / "result.json").read_bytes(), (paths / "artifacts/compressed/manifest.json").read_bytes()
    assert before == after


@pytest.mark.slow
def test_compress_updates_what_the_run_says_of_itself(copied: Bench) -> None:
    before = copied.result("tiny-run")
    assert len(before["compression"]) > 1
    (copied.folder / "runs" / "tiny-run" / "report.html").write_text("the old one")
    elsewhere = fullbore.compress("tiny-run", "small", {"compress.variants": ["fp32"]})
    assert elsewhere["folder"] == str(copied.folder / "small") and copied.result("tiny-run") == before
    answer = copied.done("compress", "tiny-run", "--set", "compress.variants=fp32")
    assert len(answer["compression"]) == 1 and answer["chosen"]["variant"] == "fp32"
    told = copied.result("tiny-run")
    changed = {
        "compression": answer["compression"],
        "chosen": "fp32",
        "model": answer["folder"],
        "metric": answer["metric"],
    }
    assert told == {**before, **changed} and answer["metric"] in told["metrics"]
    assert fullbore.runs.show("tiny-run")["compression"] == answer["compression"]
    run = fullbore.Run.find("tiny-run")
    written = (run.folder / "report.html").read_text()
    assert "bf16" not in written.partition('id="compression"')[2].partition("</section>")[0]
    assert written == run.report(copied.folder / "anew.html").read_text()


@pytest.mark.slow
def test_compress_spares_what_it_did_not_write(copied: Bench) -> None:
    mine = copied.folder / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    for place in (mine, mine / "thesis.txt"):
        outcome = copied.run("compress", "tiny-run", "--out", place)
        assert outcome.code == 2 and f"{place} exists and was not written by fullbore" in outcome.stderr
    assert [path.read_text() for path in mine.iterdir()] == ["years of work"]


@pytest.mark.slow
def test_serve_answers_until_it_is_told_to_stop(copied: Bench) -> None:
    code = "import fullbore\nfullbore.serve('tiny-run', {'serve.port': 0})"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=copied.folder, env={**os.environ, **copied.environment},
        stderr=subprocess.PIPE, text=True,
    ) as server:  # fmt: skip
        assert server.stderr is not None
        url = server.stderr.readline().removeprefix("Serving at ").strip()
        with urllib.request.urlopen(f"{url}/health") as reply:
            assert reply.status == 200
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
