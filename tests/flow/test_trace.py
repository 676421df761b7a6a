"""`fullbore explain` of real and odd traces: shares that sum to one, several ranks, JSON, refusals."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fullbore
from fullbore.base.errors import UsageError
from tests.perf.made_trace import DATA, event, kernel, real, write


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fullbore.cli.main", "explain", *map(str, arguments)],
        capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip


@pytest.mark.parametrize("path", sorted(DATA.glob("*.json.gz")), ids=lambda path: path.name.split(".")[0])
def test_every_partition_sums_to_its_span(path: Path) -> None:
    answer = fullbore.explain_traces(path)
    json.dumps(answer, allow_nan=False)
    assert answer["ranks"] and answer["verdict"]["sentence"]
    for rank in answer["ranks"]:
        steps_or_threads = [*rank.get("steps", []), *rank.get("threads", [])]
        for partition in [rank["partition"], *(part["partition"] for part in steps_or_threads)]:
            assert math.isclose(sum(item["share"] for item in partition.values()), 1.0)
            assert all(item["seconds"] >= 0 for item in partition.values())
        assert math.isclose(sum(item["seconds"] for item in rank["partition"].values()), rank["seconds"])
        if rank["device"] is not None:
            waits = [rank["partition"][part]["seconds"] for part in ("host wait", "kernel wait", "other idle")]
            assert math.isclose(sum(waits), sum(rank["idle_while_host_in"].values()), abs_tol=1e-9)


def test_ranks_of_one_job_are_put_on_one_clock() -> None:
    answer = fullbore.explain_traces(real("sampled_rank-0"), real("sampled_rank-1"))
    assert [rank["rank"] for rank in answer["ranks"]] == ["rank 0", "rank 1"]
    assert answer["ranks"][0]["begins"] == 0.0 and answer["ranks"][1]["begins"] == pytest.approx(153e-6)
    assert [rank["communication"]["overlap"] for rank in answer["ranks"]] == pytest.approx([0.1495, 0.1993], abs=1e-4)
    assert answer["status"] == "whole" and answer["missing"] == ["2 of 128 ranks were given"]


def test_without_a_device_the_host_is_partitioned() -> None:
    answer = fullbore.explain_traces(real("rank_non_gpu"))
    [rank] = answer["ranks"]
    assert rank["device"] is None and rank["seconds"] == pytest.approx(0.075542)
    assert rank["partition"]["operators"]["seconds"] == pytest.approx(0.027579)
    assert "no device event" in answer["missing"][0]


def test_the_command_draws_and_answers_json() -> None:
    drawn = command(real("resnet50_one_loader"))
    assert drawn.returncode == 0 and drawn.stderr == ""
    for said in ("What limited it", "data loader 73.0 %", "host wait", "By stream", "#10", "Longest kernels", "HtoD"):
        assert said in drawn.stdout
    spoken = command(real("sampled_rank-0"), real("sampled_rank-1"), "--json", "--drop-last-step")
    answer = json.loads(spoken.stdout)
    assert answer["schema"] == 1 and [len(rank["steps"]) for rank in answer["ranks"]] == [1, 1]
    threads = command(real("rank_non_gpu"))
    assert threads.returncode == 0 and "By thread" in threads.stdout


def test_a_cut_trace_is_explained_and_says_what_is_missing(tmp_path: Path) -> None:
    cut = tmp_path / "cut.json.gz"
    cut.write_bytes(real("sampled_rank-0").read_bytes()[:60_000])
    done = command(cut)
    assert done.returncode == 0 and "missing: cut.json.gz ends after" in done.stdout
    assert fullbore.explain_traces(cut)["status"] == "partial"


def test_what_cannot_be_explained_is_refused(tmp_path: Path) -> None:
    (tmp_path / "foreign.json").write_text('{"a": 1}')
    for arguments, said in (
        ([tmp_path / "foreign.json"], "no events"),
        ([tmp_path / "absent.json"], "No such file"),
        ([real("rank_non_gpu"), "last"], "expected one run, or the traces of a job"),
        (["last", "--drop-last-step"], "expected one run"),
    ):
        done = command(*arguments)
        assert done.returncode == 2 and said in done.stderr and "hint:" in done.stderr and done.stdout == ""


def test_a_device_that_only_the_last_step_used_is_left_out(tmp_path: Path) -> None:
    events = [event("user_annotation", "ProfilerStep#1", 0, 5), event("user_annotation", "ProfilerStep#2", 5, 9)]
    path = write(tmp_path / "a.json", [*events, kernel("a", 7, 1)])
    assert fullbore.explain_traces(path)["ranks"][0]["device"] == "0"
    assert fullbore.explain_traces(path, drop_last_step=True)["ranks"][0]["device"] is None
    with pytest.raises(UsageError):
        fullbore.explain_traces()
