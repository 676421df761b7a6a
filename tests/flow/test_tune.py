"""`fullbore tune` on real jobs: what is tried, kept, written; want of memory, kills, Ctrl-C, budgets that are short."""

from __future__ import annotations

import json
import os
import resource
import signal
import time
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

import fullbore
from fullbore.base.errors import DoesNotFit, UsageError
from fullbore.flow import tuned
from fullbore.flow.trials import Kept, Trial
from fullbore.perf.measure import proc
from fullbore.perf.plan.choose import Setting
from fullbore.spec.load import load
from tests.flow.conftest import TINY, Bench, kill

OPEN = TINY.partition("[compress]")[0].replace("threads = 1\n", "").replace("checkpoint_every = 5\n", "")
"""The tiny model with threads, attention, micro-batch, recomputation and checkpoints left open; fp32, not compiled."""
OPEN = OPEN.replace('precision = "fp32"\n', 'precision = "fp32"\ncompile = false\n')
TRIAL = Trial(Setting("fp32", 1, 8, 1), 0.1, 0.2, "measured", (0.3, 0.2, 0.25), first_seconds=1.0)


def kept(bench: Bench) -> list[dict[str, Any]]:
    lines = (bench.folder / "runs" / ".tune" / "tiny" / "trials.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def trials(bench: Bench) -> list[dict[str, Any]]:
    return [line["trial"]["setting"] for line in kept(bench) if "trial" in line]


def tuned_job(bench: Bench, *arguments: str, text: str = OPEN) -> dict[str, Any]:
    return bench.done("tune", bench.job(text), "--budget", "90s", *arguments)


@pytest.mark.slow
def test_a_job_is_tuned_and_the_better_one_runs(bench: Bench) -> None:
    answer = tuned_job(bench)
    measured = [row for row in answer["trials"] if row["status"] == "measured"]
    assert answer["status"] == "done" and 1 <= answer["tried"] < answer["settings"] == 2 * 2 * 2 * 4
    fed = [row for row in measured if (row["setting"]["prefetch"], row["setting"]["feed_threads"]) != (4, 1)]
    assert len(measured) == answer["tried"] + len(fed)
    assert answer["knobs"].keys() == {
        "train.threads", "train.micro_batch_size", "train.attention", "train.recompute", "train.prefetch",
        "train.feed_threads",
    }  # fmt: skip
    assert all(row["setting"]["precision"] == "fp32" and not row["setting"]["compile"] for row in measured)
    assert all(row["setting"]["micro_batch_size"] * row["setting"]["accumulation"] == 8 for row in measured)
    assert answer["rounds"] >= 6 and answer["noise"]["sentence"].startswith("noise: ")
    assert 0 <= answer["left"]["expected"] < 1 and 0 <= answer["left"]["bound"] < 1 and answer["stopped"]
    assert [row["setting"] for row in measured if row["chosen"]] in ([answer["chosen"]], [])
    again = {key: getattr(load(bench.folder / answer["out"]).job, key) for key in ("data", "model", "task")}
    job = load(bench.folder / "job.toml").job
    assert again == {key: getattr(job, key) for key in again}
    written = tomllib.loads((bench.folder / "job.tuned.toml").read_text())
    assert written["extends"] == "job.toml" and written.keys() == {"extends", "train"}
    changed = {change["key"].partition(".")[2]: change["to"] for change in answer["changes"]}
    same = {change["key"].partition(".")[2] for change in answer["changes"] if change["from"] == change["to"]}
    assert written["train"] == {name: value for name, value in changed.items() if name not in same}
    assert set(changed) >= {"attention", "micro_batch_size", "checkpoint_every"}
    picture = Path(answer["picture"]).read_text()
    assert picture.startswith("<svg") and picture.count('class="tn-ring"') == len(measured) + 1
    result = bench.done("run", "job.tuned.toml", "--name", "better")
    assert result["status"] == "done"
    plan = json.loads((bench.folder / "runs" / "better" / "plan.json").read_text())
    assert {key: plan[key] for key in ("threads", "micro_batch_size", "attention", "recompute")} == {
        key: answer["chosen"][key] for key in ("threads", "micro_batch_size", "attention", "recompute")
    }


@pytest.mark.soak
def test_a_killed_tuner_goes_on_from_what_it_measured(bench: Bench) -> None:
    job = bench.job(OPEN)
    process = bench.start("tune", job, "--budget", "90s")
    file = bench.folder / "runs" / ".tune" / "tiny" / "trials.jsonl"
    deadline = time.monotonic() + 90
    while not (file.is_file() and len(trials(bench)) >= 2):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.02)
    kill(process)
    before = trials(bench)
    with open(file, "a") as torn:
        torn.write('{"trial": {"setting"')
    outcome = bench.run("tune", job, "--budget", "90s", "--json")
    assert outcome.code == 0, outcome.stderr
    assert f"going on from {len(before)} trials" in outcome.stderr
    assert trials(bench)[: len(before)] == before and len(trials(bench)) == len(outcome.answer["trials"])
    whole = kept(bench)
    outcome = bench.run("tune", job, "--budget", "90s", "--json")
    assert outcome.code == 0 and kept(bench)[: len(whole)] == whole
    assert len(kept(bench)) <= len(whole) + 2, "all is known: next to nothing is measured again"
    changed = bench.run("tune", bench.job(OPEN.replace("width = 32", "width = 16")), "--budget", "90s", "--json")
    assert changed.code == 0 and "measured anew: model.width changed since this job was tuned" in changed.stderr


@pytest.mark.slow
def test_ctrl_c_leaves_the_best_so_far_and_says_how_to_go_on(bench: Bench) -> None:
    job = bench.job(OPEN)
    process = bench.start("tune", job, "--budget", "90s", "--json", "--set", "model.layers=3")
    while process.stderr is not None and not process.stderr.readline().startswith("trial 1:"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"Resume with: fullbore tune {job} --budget 90s --set model.layers=3" in stderr
    answer = json.loads(stdout)
    assert answer["status"] == "interrupted" and answer["error"]["kind"] == "Interrupted" and answer["trials"]
    written = (bench.folder / "job.tuned.toml").read_text()
    assert load(bench.folder / "job.tuned.toml").job.model == load(job, {"model.layers": 3}).job.model
    assert "layers = 3  # --set" in written


@pytest.mark.soak
@pytest.mark.skipif(proc.memory_available() < 16e9, reason="what does not fit here is not even tried")
def test_want_of_memory_ends_a_trial_but_not_the_tuner(bench: Bench) -> None:
    """512 rows at once through 24 layers keep about 5 GB, inputs of layers alone a tenth of it; 4 GB are allowed."""
    large = OPEN.replace("global_batch_size = 8", "global_batch_size = 512\nmicro_batch_size = 512\nthreads = 1")
    large = large.replace("sequence_length = 32", "sequence_length = 128").replace("layers = 2", "layers = 24")

    def narrow() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))

    outcome = bench.run("tune", bench.job(large), "--budget", "100s", "--json", preexec_fn=narrow)
    assert outcome.code == 0, outcome.stderr
    rows = outcome.answer["trials"]
    full = [row for row in rows if row["status"] == "out of memory"]
    assert full and not any(row["setting"]["recompute"] for row in full)
    assert outcome.answer["chosen"]["recompute"]
    for place, row in enumerate(rows):
        if row in full:
            assert all(later["predicted_bytes"] < row["predicted_bytes"] for later in rows[place + 1 :])


def test_budgets_and_jobs_that_cannot_be_tuned(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bench.folder)
    monkeypatch.setenv("FULLBORE_RUNS", str(bench.folder / "runs"))
    for written in ("soon", "-3s", "5 parsecs"):
        outcome = bench.run("tune", bench.job(OPEN), f"--budget={written}")
        assert outcome.code == 2 and "error: --budget: found" in outcome.stderr, outcome.stderr
    with pytest.raises(UsageError, match="--budget: found 0 s, expected a time above zero"):
        fullbore.tune("job.toml", budget=0)
    packing = bench.job('name = "p"\n[data]\nsource = "."\n', "pack.toml")
    with pytest.raises(UsageError, match=r"pack.toml: has no \[train\], so there is nothing to tune"):
        fullbore.tune(packing)
    with pytest.raises(UsageError, match=r"--also train\.seed: is not tuned"):
        fullbore.tune("job.toml", also=["train.seed"])


def test_a_budget_shorter_than_the_start_says_so_and_keeps_what_was_prepared(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bench.folder)
    monkeypatch.setenv("FULLBORE_RUNS", str(bench.folder / "runs"))
    bench.job(OPEN)
    with pytest.raises(DoesNotFit, match="10 ms were over before its data were read") as refused:
        fullbore.tune("job.toml", budget=0.01)
    assert "what was prepared is kept" in str(refused.value)
    assert list((bench.folder / "runs" / ".cache").glob("shards-*")) and not Path("job.tuned.toml").exists()


def test_a_file_of_somebody_else_is_not_replaced(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bench.folder)
    loaded = load(bench.job(OPEN))
    mine = bench.folder / "job.tuned.toml"
    mine.write_text("# my own\n")
    with pytest.raises(UsageError, match="exists and was not written by fullbore tune"):
        tuned.place(loaded, None, force=False)
    assert tuned.place(loaded, None, force=True) == mine
    mine.write_text(f"{tuned.HEAD} on a day\n")
    assert tuned.place(loaded, None, force=False) == mine
    with pytest.raises(UsageError, match="is the job that is tuned"):
        tuned.place(loaded, Path("job.toml"), force=True)
    with pytest.raises(UsageError, match="there is no folder"):
        tuned.place(loaded, Path("nowhere/x.toml"), force=False)
    assert tuned.place(load(loaded.job), None, force=False) == Path("tiny.tuned.toml")


def test_the_micro_batch_of_a_network_with_batch_norm_must_be_asked_for(bench: Bench) -> None:
    from fullbore.flow.tune import _opened

    text = OPEN.replace('kind = "decoder"\nwidth = 32\nlayers = 2\nheads = 2', 'kind = "resnet"')
    pictures = load(
        bench.job(text.replace('kind = "causal_lm"\nbaselines = ["bigram", "trigram"]', 'kind = "regression"'))
    )
    micro = "train.micro_batch_size"
    assert micro not in _opened(pictures, []) and micro in _opened(pictures, [micro])
    words = load(bench.job(OPEN))
    assert micro in _opened(words, []) and "train.precision" not in _opened(words, [])
    assert "train.precision" in _opened(words, ["train.precision"])


def line_of(made: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    return {"gain": {"sentence": "as fast"}, "chosen_label": "x", "changes": made, **changes}


def test_the_better_job_holds_what_changed_and_stands_anywhere(bench: Bench) -> None:
    loaded = load(bench.job(OPEN), {"train.seed": 7, "data.include": "json/*.py"})
    change = {"key": "train.threads", "from": "auto", "to": 2, "reason": "it is"}
    out = bench.folder / "deep" / "better.toml"
    out.parent.mkdir()
    text = tuned.job_file(loaded, line_of([change]), out)  # type: ignore[arg-type]
    out.write_text(text)
    assert text.startswith(tuned.HEAD) and 'extends = "../job.toml"' in text and "threads = 2  # it is" in text
    better = load(out).job
    assert better.train is not None and loaded.job.train is not None
    assert better.train == loaded.job.train.model_copy(update={"threads": 2}) and better.data == loaded.job.data
    whole = tuned.job_file(load(loaded.job), line_of([change]), out)  # type: ignore[arg-type]
    out.write_text(whole)
    assert "extends" not in whole and load(out).job == better


def test_what_is_kept_survives_a_torn_line_and_forgets_another_job(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    first = Kept(path, {"model": {"width": 8}, "torch": "2"})
    assert first.changed == [] and first.trials == []
    first.add({"trial": asdict(TRIAL)})
    first.add({"round": {"a": 1.0, "twin": 1.1}})
    first.add({"save_seconds": 0.5})
    first.add({"compiled": {"x": 2.0}})
    with open(path, "a") as file:
        file.write('{"trial": {"set')
    second = Kept(path, {"model": {"width": 8}, "torch": "2"})
    assert second.trials == [TRIAL] and second.rounds == [{"a": 1.0, "twin": 1.1}] and second.save_seconds == 0.5
    assert second.compiled == {"x": 2.0}
    second.add({"trial": asdict(replace(TRIAL, status="out of memory", taken=()))})
    assert len(path.read_text().splitlines()) == 6
    third = Kept(path, {"model": {"width": 9}, "torch": "3"})
    assert third.changed == ["model.width", "torch"] and third.trials == []


def test_the_time_of_a_trial_is_not_reached_by_a_burst() -> None:
    assert TRIAL.seconds == 0.225 and 0 < TRIAL.noise <= 0.1
    assert replace(TRIAL, taken=(0.2, 0.2, 0.2, 9.0)).seconds == 0.2
    assert replace(TRIAL, others=1.0).noise == 0.1


def test_two_tuners_of_one_job_do_not_meet(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from fullbore.flow.tune import alone

    monkeypatch.setenv("FULLBORE_RUNS", str(bench.folder / "runs"))
    with alone("tiny"), pytest.raises(UsageError, match="tiny is being tuned"), alone("tiny"):
        pass
    assert os.listdir(bench.folder / "runs" / ".tune" / "tiny") == ["lock"]
