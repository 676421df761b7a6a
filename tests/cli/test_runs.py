"""What is shown of a run: the drawing, on a run folder made through the record API; the streams it goes to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fullbore.base import units
from fullbore.cli import analysis, draw
from fullbore.cli.ink import Ink
from fullbore.cli.main import execute
from fullbore.record import run as runs

JOB = 'name = "toy"\n\n[data]\nsource = "."\nvalidation = {validation}\n'
LEDGER = {
    "backward": {"seconds": 60.0, "share": 0.6},
    "data wait": {"seconds": 30.0, "share": 0.3},
    "start": {"seconds": 10.0, "share": 0.1},
}
RESULT = {
    "schema": 1,
    "status": "done",
    "job": "toy",
    "seconds": 100.0,
    "loss": 1.25,
    "metric": "bits_per_byte",
    "metrics": {"loss": 1.25, "bits_per_byte": 2.125},
    "baselines": {"bigram": 3.5},
    "tokens_per_second": 12345.6,
    "steps": 430,
    "mfu": 0.42,
    "ledger": LEDGER,
    "busy": {"decode": 50.0},
    "verdict": {
        "limit": "data",
        "sentence": "Limited by data loading: 30 % of the time.",
        "share": 0.3,
        "evidence": ["the queue was empty"],
        "advice": [{"change": "use more threads", "set": "train.threads=2", "predicted_gain": 0.28, "error": 0.06}],
    },
    "predicted": {"step_seconds": {"predicted": 0.2, "measured": 0.25, "unit": "s", "error": 0.03}},
    "compression": [
        {"variant": "bf16", "value": 2.13, "interval": [2.1, 2.2], "drop": 0.002, "samples_per_second": 88.0,
         "latency_ms": 11.0, "bytes": 7_000_000, "kept": True, "reason": "fastest within 1 %"},
        {"variant": "fp32", "value": 2.12, "interval": [0, 0], "drop": 0.0, "samples_per_second": 40.25,
         "latency_ms": 1460.0, "bytes": 14_000_000, "kept": True, "reason": "the trained model",
         "spread": [38.0, 41.5]},
    ],
    "chosen": "bf16",
    "completion": {"prompt": "def ", "text": "f(x):\n    return x"},
    "stages": [{"stage": "read", "seconds": 2.0, "cached": False, "artifact": "a", "detail": "600 files"}],
    "model": "runs/one/artifacts/compressed",
    "next": ["fullbore explain one", "fullbore serve one"],
    "error": None,
}  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FULLBORE_RUNS", raising=False)
    for name, validation, seconds in (("one", 0.05, 100.0), ("two", 0.1, 50.0)):
        folder = runs.create(JOB.format(validation=validation), runs.environment(), name)
        folder.finish({**RESULT, "run": name, "seconds": seconds})
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert execute(arguments) == code
    return capsys.readouterr().out


def test_runs_ls(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, "runs", "ls").splitlines()
    assert lines[0].split()[:3] == ["run", "job", "status"]
    assert [line.split()[:3] for line in lines[1:]] == [["one", "toy", "done"], ["two", "toy", "done"]]
    assert "1 min 40 s" in lines[1] and "bits per byte 2.125 " in lines[1] and lines[1].endswith("data")
    assert said(capsys, "runs").splitlines() == lines
    assert said(capsys, "runs", "--json") == said(capsys, "runs", "ls", "--json")
    assert "runs" in said(capsys, "runs", "--help")
    answer = json.loads(said(capsys, "runs", "ls", "--json"))
    assert answer["schema"] == 1 and [entry["run"] for entry in answer["runs"]] == ["one", "two"]


def test_runs_show_says_it_all(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "runs", "show", "one")
    for part in (
        "one (toy): done in 1 min 40 s", "600 files", "bits per byte", "2.125", "bigram baseline", "12.3k tokens/s",
        "42.0%", "→ bf16", "✓ fp32", "38 … 41.5", "1.46 s", "11 ms",
        "fastest within 1 %", "Where the time went", "Limited by data loading: 30 % of the time.",
        "the queue was empty", "step seconds", "+25%", "return x", "fullbore serve one", "runs/one/artifacts",
    ):  # fmt: skip
        assert part in text, part
    assert "\x1b" not in text
    assert json.loads(said(capsys, "runs", "show", "--json"))["run"] == "two"


def test_runs_diff_names_settings_and_figures(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, "runs", "diff", "one", "two").splitlines()
    assert any(line.split() == ["data.validation", "0.05", "0.1"] for line in lines)
    assert any(line.split()[0] == "seconds" and line.endswith("-50.0%") for line in lines if line.strip())
    assert "Single runs carry noise" in lines[-1] and "5%" in lines[-1]


def test_runs_diff_leaves_small_states_out_and_marks_what_may_be_chance(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def ledger(**seconds: float) -> dict[str, Any]:
        whole = sum(seconds.values())
        return {state: {"seconds": spent, "share": spent / whole} for state, spent in seconds.items()}

    pairs = (("three", 60.0, 0.5, 0.4), ("four", 61.0, 0.7, 30.0))
    for name, forward, small, grown in pairs:
        folder = runs.create(JOB.format(validation=0.1), runs.environment(), name)
        spent = ledger(forward=forward, other=small, start=grown, read=30.0)
        folder.finish(
            {**RESULT, "run": name, "seconds": sum(item["seconds"] for item in spent.values()), "ledger": spent}
        )
    text = said(capsys, "runs", "diff", "three", "four")
    shown = {" ".join(line.split()[:2]): line for line in text.splitlines() if "ledger." in line}
    assert [key.split()[0] for key in shown] == ["ledger.forward", "ledger.start"]
    assert shown["ledger.forward 1"].endswith("≈ +1.7%") and shown["ledger.start 400"].endswith("+7400.0%")
    answer = json.loads(said(capsys, "runs", "diff", "three", "four", "--json"))
    assert answer["noise"] == 0.05 and answer["figures"]["ledger.start"] == [0.4, 30.0]


def test_what_ended_a_run_comes_first(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = {"kind": "RunFailed", "message": "the loss is NaN", "hint": "lower train.learning_rate"}
    runs.find("one").finish({**RESULT, "run": "one", "status": "failed", "error": error})
    for verb in (["runs", "show", "one"], ["explain", "one"]):
        lines = [line.strip() for line in said(capsys, *verb).splitlines() if line.strip()]
        assert lines[0].startswith("one ")
        assert lines[1:3] == ["error: the loss is NaN", "hint: lower train.learning_rate"]
    assert json.loads(said(capsys, "explain", "one", "--json"))["error"] == error


def test_the_report_of_a_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = json.loads(said(capsys, "report", "one", "--output", "page.html", "--json"))
    assert answer["report"] == "page.html" and (here / "page.html").read_text().startswith("<!doctype html>")


def test_the_ledger_is_drawn_in_the_colours_of_its_states() -> None:
    lines = draw.ledger(LEDGER, Ink(24))
    assert lines[1] == "\x1b[1mWhere the time went\x1b[0m"
    assert "60.0 %" in lines[2] and lines[2].count("█") == int(0.6 * 28) and "\x1b[38;2;43;143;214m" in lines[2]
    assert lines[-1].split() == ["total", "1", "min", "40", "s", "100.0", "%"]
    assert "\x1b[38;5;" in "".join(draw.ledger(LEDGER, Ink(8))) and "\x1b" not in "".join(draw.ledger(LEDGER, Ink()))


def test_bars_and_numbers() -> None:
    assert [draw.bar(share, 4) for share in (0, 0.125, 0.5, 1, 2)] == ["", "▌", "██", "████", "████"]
    cases: list[tuple[Any, str, str]] = [
        (None, "", "–"), (3, "", "3"), (0.123456, "", "0.1235"), (12345.6, "tokens/s", "12.3k tokens/s"),
        (90, "s", "1 min 30 s"), (7e6, "bytes", "7 MB"), ("x", "", "x"), (True, "", "True"),
    ]  # fmt: skip
    assert [draw.number(value, unit) for value, unit, _ in cases] == [expected for _, _, expected in cases]


def test_advice_gives_the_exact_setting() -> None:
    assert analysis.advice(RESULT["verdict"]["advice"], Ink())[2:] == [  # type: ignore[index]
        "  1. use more threads (predicted +28% ± 6.0%)",
        "     --set train.threads=2",
    ]
    rated = {
        "change": "compute in bf16", "set": "--set train.precision=bf16", "predicted_gain": 0.5, "error": None,
        "figure": "training rate", "now": 2000.0, "then": 3000.0, "unit": "tokens/s", "changes_training": True,
    }  # fmt: skip
    shorter = {**rated, "figure": "run time", "now": 30.0, "then": 20.0, "unit": "s", "error": 0.08}
    assert analysis.advice([rated, {**shorter, "changes_training": False}], Ink())[2::2] == [
        "  1. compute in bf16 (training rate 2k → 3k tokens/s: +50%, error not known yet); changes the training",
        "  2. compute in bf16 (run time 30 s → 20 s ± 8.0%: +50%)",
    ]


def test_lines_come_by_their_residual() -> None:
    said = {
        "line.forward": {"predicted": 10.0, "measured": 9.5, "unit": "s", "error": 0.1},
        "line.compress": {"predicted": 3.0, "measured": 9.0, "unit": "s", "error": None},
        "line.compile": {"predicted": 0.0, "measured": 2.0, "unit": "s", "error": None},
        "rate": {"predicted": 5.0, "measured": 4.0, "unit": "samples/s", "error": None},
    }
    rows = [line.split() for line in analysis.lines(said, Ink())[3:]]
    assert [row[0] for row in rows] == ["compress", "compile", "forward"]
    assert rows[0][-2:] == ["+6.00", "s"] and "±" in rows[2] and rows[1][1] == "–"
    assert not any("line" in line for line in draw.predicted(said, Ink()))
    assert analysis.lines({"rate": said["rate"]}, Ink()) == []


def test_a_run_without_steps_or_roofs_has_no_such_lines() -> None:
    for show in (analysis.steps, analysis.roofline, analysis.what_if, analysis.forecast):
        assert show(None, Ink()) == []
    assert analysis.mfu(None) == [] and analysis.notes((), Ink()) == []


def test_numbers_are_rounded_to_what_is_significant() -> None:
    assert units.format_seconds(0.0123) == "12.3 ms"
