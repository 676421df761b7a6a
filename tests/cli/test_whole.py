"""A whole small job through the command line and through the Python door."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import fullbore
from fullbore.base.errors import InputError, UsageError

pytestmark = pytest.mark.slow
OVERRIDES = {
    "train.budget": "40 steps",
    "train.early_stopping": "none",
    "train.precision": "fp32",
    "train.threads": "1",
    "train.evaluate_every": "10",
}
"""Whatever is measured here, two runs of it come to the same."""
BUDGET = tuple(word for key, value in OVERRIDES.items() for word in ("--set", f"{key}={value}"))


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "fullbore.cli.main", *arguments]


def ask(*arguments: str, cwd: Path, code: int = 0) -> dict[str, Any]:
    done = subprocess.run(command(*arguments, "--json"), cwd=cwd, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert done.stdout.count("\n") == 1
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    source = random.Random(0)
    rows = [[source.gauss(0, 1) for _ in range(3)] for _ in range(400)]
    lines = [f"{a},{b},{c},{'yes' if a + b * c > 0 else 'no'}" for a, b, c in rows]
    (folder / "table.csv").write_text("\n".join(["a,b,c,answer", *lines]) + "\n")
    ask("init", "tabular", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def result(here: Path) -> dict[str, Any]:
    return ask("run", "tabular.toml", "--name", "first", *BUDGET, cwd=here)


def test_check_predicts_and_resolves(here: Path) -> None:
    answer = ask("check", "tabular.toml", "--resolved", *BUDGET, cwd=here)
    assert answer["predicted"]["total_seconds"]["value"] > 0 and answer["plan"]["steps"] == 40
    assert answer["resolved"]["train.budget"] == {"value": '"40 steps"', "origin": "--set"}
    assert answer["resolved"]["model.kind"]["origin"].startswith("tabular.toml:")


def test_run_ends_with_one_object(result: dict[str, Any]) -> None:
    assert result["schema"] == 1 and result["run"] == "first" and result["status"] == "done"
    for key in ("loss", "metrics", "samples_per_second", "ledger", "verdict", "model", "next"):
        assert result[key] is not None, key
    assert sum(state["share"] for state in result["ledger"].values()) == pytest.approx(1)


def test_what_is_said_for_people_names_the_results_and_what_to_do_next(result: dict[str, Any], here: Path) -> None:
    done = subprocess.run(command("runs", "show", "first"), cwd=here, capture_output=True, text=True)
    assert done.returncode == 0 and "Where the time went" in done.stdout and "What limited it" in done.stdout
    assert result["model"] in done.stdout and all(line in done.stdout for line in result["next"])


def test_the_other_verbs_answer(result: dict[str, Any], here: Path) -> None:
    assert ask("explain", cwd=here)["verdict"]["sentence"]
    assert ask("runs", "ls", cwd=here)["runs"][0]["run"] == "first"
    assert ask("inspect", "first", "--verify", cwd=here)["verified"] is True
    report = ask("report", "first", cwd=here)["report"]
    assert (here / report).is_file()
    assert ask("compress", "first", "--out", "small", "--set", "compress.max_drop=50%", cwd=here)["chosen"]["variant"]
    assert ask("pack", "table.csv", "shards", "--set", "data.label=answer", cwd=here)["kept"] == 400
    refused = ask("resume", "first", cwd=here, code=2)
    assert "is finished" in refused["error"]["message"]
    refused = ask("resume", "first", "--set", "train.budget=9s", cwd=here, code=2)["error"]
    assert "--set train.budget=9s: a run is resumed under its own job and plan" in refused["message"]
    assert refused["hint"].endswith("first/job.toml --set train.budget=9s")


def test_serve_answers_and_stops_on_sigterm(result: dict[str, Any], here: Path) -> None:
    arguments = command("serve", "first", "--json", "--set", "serve.port=0")
    with subprocess.Popen(arguments, cwd=here, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        with urllib.request.urlopen(f"{url}/health") as response:
            assert response.status == 200
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0


def test_the_door(result: dict[str, Any], here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    monkeypatch.delenv("FULLBORE_RUNS", raising=False)
    run = fullbore.run("tabular.toml", overrides=OVERRIDES, name="second")
    assert run.name == "second" and run.folder == here / "runs" / "second" and run.result["status"] == "done"
    assert run.ledger.wall == pytest.approx(sum(run.ledger.seconds.values())) and "total" in run.ledger.table()
    assert set(run.metrics) == set(result["metrics"]) and run.metrics["loss"] == pytest.approx(
        result["metrics"]["loss"]
    )
    answers = run.model.predict([[1.0, 0.0, 0.0], [-3.0, 0.0, 0.0]])
    assert {answer["label"] for answer in answers} <= {"yes", "no"}
    with pytest.raises(InputError, match="not causal_lm"):
        run.model.generate("def ")
    assert fullbore.explain("second")["run"] == "second"
    assert fullbore.Run.find("last").name == "second"
    with pytest.raises(UsageError, match="is finished"):
        fullbore.resume("second")


def test_ctrl_c_saves_and_says_how_to_go_on(here: Path) -> None:
    arguments = command("run", "tabular.toml", "--name", "stopped", "--json", "--set", "train.budget=10min",
                        "--set", "train.early_stopping=none")  # fmt: skip
    with subprocess.Popen(
        arguments, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "FULLBORE_NO_PROGRESS": "1"},
    ) as process:  # fmt: skip
        events = here / "runs" / "stopped" / "events.jsonl"
        while process.poll() is None and not (events.is_file() and '"kind":"step"' in events.read_text()):
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert json.loads(out)["status"] == "interrupted"
    assert err.splitlines()[-1] == "hint: Resume with: fullbore resume stopped"
    assert ask("runs", "show", "stopped", cwd=here)["status"] == "interrupted"
