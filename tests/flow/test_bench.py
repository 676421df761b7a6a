"""`fullbore bench` on real commands: what is counted, in which order, and what is said of it; never how long."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import fullbore
from fullbore.base.errors import Interrupted, JobError, RunFailed, UsageError
from tests.flow.conftest import TINY, Bench, neighbours

pytestmark = pytest.mark.slow

WORK = """
import json, os, sys, time
name, seconds, scale = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
with open("log", "a") as log:
    log.write(f"{name} {os.getpid()}\\n")
count = len(open("log").readlines())
if len(sys.argv) > 4 and count > int(sys.argv[4]):
    print("first line")
    print("\\n".join(f"trouble {line}" for line in range(30)), file=sys.stderr)
    sys.exit(3)
time.sleep(seconds)
noise = 1 + 0.01 * (count * 7919 % 13 - 6)
print("words before")
print(json.dumps({"figures": {"tokens_per_second": scale * noise}, "loss": 1.5, "text": "x", "none": 0}))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "work.py").write_text(WORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def work(name: str, seconds: float = 0.0, scale: float = 1.0, *fails_after: int) -> str:
    return " ".join([sys.executable, "work.py", name, str(seconds), str(scale), *map(str, fails_after)])


def log(folder: Path) -> list[str]:
    return [line.split()[0] for line in (folder / "log").read_text().splitlines()]


def quiet(_: str) -> None:
    pass


def test_pairs_are_interleaved_and_warm_up_is_left_out(folder: Path) -> None:
    answer = fullbore.bench(work("A"), work("B", 0.4), rounds=6, warm_up=2, notify=quiet)
    assert [pair["warm_up"] for pair in answer["pairs"]] == [True] * 2 + [False] * answer["pairs_measured"]
    orders = [pair["order"] for pair in answer["pairs"]]
    assert log(folder) == list("".join(orders))
    measured = orders[2:]
    assert all({one, two} == {"AB", "BA"} for one, two in zip(measured[::2], measured[1::2], strict=False))
    assert 6 <= answer["pairs_measured"] <= 12 and answer["pairs_used"] >= 6
    assert answer["pairs_measured"] - answer["pairs_disturbed"] == 6 or answer["pairs_measured"] == 12
    assert answer["verdict"]["faster"] == "A" and answer["verdict"]["sentence"].startswith("A is ")
    assert answer["status"] == "done" and answer["metric"] == "seconds"
    assert answer["before"]["cores"] >= 1 and len(answer["after"]["load"]) == 3 and answer["machine"]
    json.dumps(answer, allow_nan=False)


def test_the_order_is_the_seeds(folder: Path) -> None:
    def orders(seed: int) -> list[str]:
        found = fullbore.bench(work("A"), work("B"), rounds=8, warm_up=0, seed=seed, notify=quiet)["pairs"]
        return [pair["order"] for pair in found][:8]

    assert orders(1) == orders(1) and len({tuple(orders(seed)) for seed in range(4)}) > 1


def test_a_metric_of_the_last_line(folder: Path) -> None:
    key = "figures.tokens_per_second"
    answer = fullbore.bench(work("A", scale=200), work("B", scale=100), rounds=6, metric=key, notify=quiet)
    assert answer["verdict"]["faster"] == "A" and 1.7 < answer["verdict"]["ratio"]["value"] < 2.3
    assert 180 < answer["figures"]["A"]["median"] < 220 and 90 < answer["figures"]["B"]["median"] < 110
    same = fullbore.bench(work("A"), work("B"), rounds=6, metric="loss", notify=quiet)
    assert same["verdict"]["sentence"] == f"no difference: the same in {same['pairs_used']} pairs"
    assert not same["verdict"]["differs"] and same["verdict"]["faster"] is None


@pytest.mark.parametrize("metric", ["figures.nothing", "text", "none", "figures"])
def test_a_metric_that_is_none(metric: str, folder: Path) -> None:
    with pytest.raises(RunFailed, match=f"{metric} is .*, expected a number above zero") as caught:
        fullbore.bench(work("A"), metric=metric, notify=quiet)
    assert caught.value.hint == "its last line has loss, none"
    with pytest.raises(RunFailed, match="the last line of its stdout is no JSON object: 'hello'"):
        fullbore.bench(f"{sys.executable} -c 'print(\"hello\")'", metric="loss", notify=quiet)


def test_one_command_shows_its_noise(folder: Path) -> None:
    answer = fullbore.bench(work("A"), rounds=6, notify=quiet)
    assert answer["same"] and list(answer["figures"]) == ["A"] and not answer["verdict"]["differs"]
    assert answer["verdict"]["sentence"].startswith("noise: two runs of the same differ by ")
    assert set(log(folder)) == {"A"} and len(log(folder)) == 2 * len(answer["pairs"])


def test_a_budget_buys_pairs(folder: Path) -> None:
    answer = fullbore.bench(work("A"), work("B"), budget=1e-3, notify=quiet)
    assert answer["pairs_measured"] == 1 and answer["verdict"]["ratio"]["interval"] is None
    assert "at least 6 are needed" in answer["verdict"]["sentence"]


def test_disturbed_pairs_are_marked_and_repeated_so_often(folder: Path) -> None:
    with neighbours():
        answer = fullbore.bench(work("A", 0.3), work("B", 0.3), rounds=2, notify=quiet)
    assert answer["pairs_measured"] == answer["pairs_disturbed"] == answer["pairs_used"] == 4
    assert "4 pairs of 4 were disturbed by other processes" in answer["notes"][0]
    assert all(pair["A"]["others"] > 0.2 for pair in answer["pairs"])


def test_a_failing_command_is_shown_and_what_was_measured_is_kept(folder: Path) -> None:
    out = folder / "kept.json"
    with pytest.raises(RunFailed) as caught:
        fullbore.bench(work("A"), work("B", 0, 1, 6), rounds=9, warm_up=0, out=out, notify=quiet)
    first, *lines = caught.value.message.splitlines()
    assert first.startswith("B ended with exit code 3 in pair 4: ") and "work.py B" in first
    assert lines == [f"  trouble {line}" for line in range(20, 30)]
    result = dict(caught.value.result or {})
    assert result["status"] == "failed" and result["pairs_measured"] == len(result["pairs"]) == 3
    assert json.loads(out.read_text())["pairs"] == result["pairs"]


def command(*arguments: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "fullbore.cli.main", "bench", *arguments]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_an_interrupt_leaves_what_was_measured_and_the_same_command_goes_on(folder: Path) -> None:
    asked = (work("A"), work("B"), "--metric", "loss", "--out", "kept.json", "--rounds", "500", "--json")
    process = command(*asked)
    while not (folder / "log").exists() or len(log(folder)) < 18:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in stderr and "stopped by SIGINT" in stderr
    answer = json.loads(stdout)
    assert answer["status"] == "interrupted" and answer["pairs_measured"] == len(answer["pairs"]) - 1 >= 7
    assert answer["verdict"]["sentence"].startswith("no difference: the same in ")
    assert json.loads((folder / "kept.json").read_text())["pairs"] == answer["pairs"]
    last = int((folder / "log").read_text().split()[-1])
    assert not Path(f"/proc/{last}").exists()
    clean = answer["pairs_measured"] - answer["pairs_disturbed"]
    again = fullbore.bench(
        work("A"), work("B"), metric="loss", out="kept.json", rounds=max(clean, 1) + 1, warm_up=1, notify=quiet
    )
    assert again["pairs"][: len(answer["pairs"])] == answer["pairs"] and again["status"] == "done"
    with pytest.raises(UsageError, match=r"kept.json holds another comparison: its metric differs"):
        fullbore.bench(work("A"), work("B"), metric="seconds", out="kept.json", notify=quiet)


def test_people_get_a_table(folder: Path) -> None:
    process = command(work("A"), work("B", 0.3), "--rounds", "6")
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0 and stderr.startswith("stage=bench")
    lines = stdout.splitlines()
    assert lines[0] == f"A  {work('A')}" and lines[1] == f"B  {work('B', 0.3)}"
    assert lines[3].startswith("A is ") and "x as fast as B (95 % interval " in lines[3]
    assert lines[5].split() == "seconds 95 % interval least … most time CPU time memory".split()
    process = command(work("A", 0, 1, 2), "--rounds", "2")
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 1 and "Nothing was measured." in stdout and "exit code 3" in stderr


@pytest.mark.parametrize(
    ("targets", "settings", "message"),
    [
        ((), {}, "found 0 things to compare"),
        (("ls", "ls", "ls"), {}, "found 3 things to compare"),
        (("ls",), {"overrides": {"seed": "1"}}, "--set and --against are for jobs"),
        (("ls", "job.toml"), {}, "a job cannot be compared with a command"),
        (("ls",), {"rounds": 0}, "--rounds is at least 1"),
        (("ls",), {"out": "nowhere/x.json"}, "there is no folder nowhere"),
        (("ls",), {"out": "work.py"}, "work.py exists and is no file of fullbore bench"),
    ],
)
def test_mistakes(targets: tuple[str, ...], settings: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(UsageError) as caught:
        fullbore.bench(*targets, **settings, notify=quiet)
    assert message in caught.value.message and (folder / "work.py").read_text() == WORK


def test_a_wrong_setting_is_said_before_anything_runs(folder: Path) -> None:
    (folder / "job.toml").write_text(TINY)
    with pytest.raises(JobError, match=r"train\.precision"):
        fullbore.bench("job.toml", against={"train.precision": "fp31"}, notify=quiet)
    assert issubclass(Interrupted, Exception) and not (folder / "runs").exists()


def test_two_settings_of_a_job(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    job = bench.job(TINY.split("[compress]")[0].replace('baselines = ["bigram", "trigram"]\n', ""))
    asked = (
        "--set",
        "train.budget=3 steps",
        "--set",
        "train.micro_batch_size=8",
        "--against",
        "train.micro_batch_size=2",
    )
    answer = bench.done("bench", job, *asked, "--rounds", "1", "--warm-up", "0")
    assert answer["metric"] == "tokens_per_second" and answer["pairs_measured"] in (1, 2)
    assert [label.rpartition("=")[2] for label in answer["contenders"].values()] == ["8", "2"]
    assert all("train.budget=3 steps" in label for label in answer["contenders"].values())
    assert not (tmp_path / "runs").exists()
    kept = bench.done("bench", job, *asked, "--rounds", "1", "--warm-up", "0", "--keep", "--metric", "steps")
    runs = [path for path in (tmp_path / "runs").iterdir() if path.is_dir() and not path.name.startswith(".")]
    assert len(runs) == 2 * kept["pairs_measured"] and kept["figures"]["A"]["median"] == 3
