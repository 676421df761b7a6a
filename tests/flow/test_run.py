"""A whole run: what it leaves, what it says, and that its seconds add up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fullbore.record import artifact
from tests.flow.conftest import TINY, Bench, Outcome

pytestmark = pytest.mark.slow

Finished = tuple[Bench, dict[str, Any], Outcome]


def test_the_result_holds_what_it_promises(finished: Finished) -> None:
    _, result, _ = finished
    assert result["status"] == "done" and result["error"] is None
    assert {"run", "loss", "metrics", "tokens_per_second", "ledger", "verdict", "mfu", "predicted"} <= set(result)
    assert result["steps"] == 30
    assert 0 < result["metrics"]["bits_per_byte"] < 10
    assert set(result["baselines"]) == {"bigram", "trigram"}
    assert result["baselines"]["trigram"] < result["baselines"]["bigram"]
    beaten = result["metrics"]["bits_per_byte"] < result["baselines"]["trigram"]
    assert beaten != any("does not beat its baselines" in text for text in result["warnings"])
    assert result["completion"]["usage"]["completion_tokens"] == 8
    assert [stage["stage"] for stage in result["stages"]] == [
        "read", "tokenizer", "pack", "plan", "train", "baselines", "compress", "serve",
    ]  # fmt: skip
    assert result["verdict"]["sentence"] and result["verdict"]["evidence"]


def test_the_ledger_is_the_wall_time_from_outside(finished: Finished) -> None:
    _, result, outcome = finished
    ledger = result["ledger"]
    seconds = sum(state["seconds"] for state in ledger.values())
    assert seconds == pytest.approx(result["seconds"])
    assert seconds == pytest.approx(outcome.seconds, rel=0.01, abs=0.15)
    assert sum(state["share"] for state in ledger.values()) == pytest.approx(1)
    assert ledger.get("other", {"share": 0})["share"] <= 0.01


def test_one_ledger_is_told_everywhere(finished: Finished) -> None:
    bench, result, _ = finished
    assert result["seconds"] == result["seconds"]
    assert result["predicted"]["total_seconds"]["measured"] == result["seconds"]
    kept = json.loads((bench.folder / "runs" / "tiny-run" / "result.json").read_text())
    assert kept == result
    assert bench.done("explain", "tiny-run")["ledger"] == result["ledger"]
    assert bench.done("runs", "show", "tiny-run")["seconds"] == result["seconds"]


def test_nothing_that_flow_does_is_unaccounted(finished: Finished) -> None:
    """Fixed costs have names of their own, however short the run: `other` is a few calls between states."""
    bench, _, _ = finished
    short = bench.done("run", bench.job(), "--set", "train.budget=2 steps")
    assert short["ledger"].get("other", {"seconds": 0})["seconds"] < 0.045


def test_the_chosen_variant_and_the_metric_are_named(finished: Finished) -> None:
    _, result, _ = finished
    assert result["metric"] == "bits_per_byte"
    chosen = {row["variant"]: row for row in result["compression"]}[result["chosen"]]
    assert chosen["kept"] and artifact.read(Path(result["model"])).info["variant"] == result["chosen"]


def test_the_environment_knows_the_machine(finished: Finished) -> None:
    bench, _, _ = finished
    environment = json.loads((bench.folder / "runs" / "tiny-run" / "env.json").read_text())
    assert environment["machine"]["memory_bytes"] > 2**28 and environment["machine"]["processor"]


def test_the_events_add_up_to_the_same_ledger(finished: Finished) -> None:
    bench, result, _ = finished
    summed: dict[str, float] = {}
    for event in bench.events("tiny-run", "ledger"):
        assert event["end"] >= event["begin"]
        assert sum(event["seconds"].values()) == pytest.approx(event["end"] - event["begin"], abs=1e-3)
        for state, seconds in event["seconds"].items():
            summed[state] = summed.get(state, 0.0) + seconds
    for state, item in result["ledger"].items():
        if state not in ("report", "other"):
            assert summed[state] == pytest.approx(item["seconds"], abs=0.02), state


def test_every_artifact_is_intact_and_knows_its_parents(finished: Finished) -> None:
    bench, _, _ = finished
    folder = bench.folder / "runs" / "tiny-run" / "artifacts"
    found = {kind: artifact.read(folder / kind) for kind in ("corpus", "tokenizer", "shards", "model", "compressed")}
    assert [artifact.verify(item) for item in found.values()] == [[]] * 5
    assert {p.digest for p in found["shards"].parents} >= {found["corpus"].digest}
    assert found["model"].parents[0].digest == found["shards"].digest
    assert found["compressed"].parents[0].digest == found["model"].digest


def test_the_report_is_one_small_file(finished: Finished) -> None:
    bench, result, _ = finished
    page = (bench.folder / "runs" / "tiny-run" / "report.html").read_text()
    assert len(page) < 1_000_000
    assert result["verdict"]["sentence"].split(",")[0] in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://127.0.0.1", "")


def test_what_was_prepared_is_used_again(finished: Finished) -> None:
    bench, first, _ = finished
    again = bench.done("run", bench.job(), "--set", "train.budget=2 steps")
    assert {stage["stage"]: stage["cached"] for stage in again["stages"] if stage["stage"] in ("read", "pack")} == {
        "read": True,
        "pack": True,
    }
    one, two = (Path(run["model"]).parent / "shards" / "manifest.json" for run in (first, again))
    assert one.read_bytes() == two.read_bytes()


def test_the_same_job_gives_the_same_bits(finished: Finished) -> None:
    bench, first, _ = finished
    again = bench.done("run", bench.job())
    assert again["loss"] == first["loss"]
    assert bench.losses(again["run"]) == bench.losses("tiny-run")
    one, two = (Path(run["model"]).parent / "model" / "model.safetensors" for run in (first, again))
    assert one.read_bytes() == two.read_bytes()


def test_verbs_that_look_at_it(finished: Finished) -> None:
    bench, result, _ = finished
    explained = bench.done("explain", "tiny-run")
    assert explained["verdict"]["limit"] == result["verdict"]["limit"]
    assert explained["seconds"] == pytest.approx(result["seconds"], rel=0.05)
    shown = bench.done("runs", "show", "tiny-run")
    assert shown["loss"] == result["loss"] and shown["status"] == "done"
    assert "tiny-run" in [run["run"] for run in bench.done("runs", "ls")["runs"]]
    inspected = bench.done("inspect", "tiny-run", "--verify")
    kinds = {item["kind"] for item in inspected["artifacts"]}
    assert {"corpus", "tokenizer", "shards", "model", "checkpoint"} <= kinds
    report = bench.done("report", "tiny-run", "--output", str(bench.folder / "elsewhere.html"))
    assert (bench.folder / "elsewhere.html").stat().st_size > 10_000, report


def test_compress_alone(finished: Finished) -> None:
    bench, _, _ = finished
    made = bench.done("compress", "tiny-run", "--set", "compress.variants=['bf16']", "--out", "small")
    assert artifact.read(bench.folder / "small", "model").info["variant"] == made["chosen"]["variant"]
    assert {row["variant"] for row in made["compression"]} == {"fp32", "bf16"}


def test_a_finished_run_is_not_resumed(finished: Finished) -> None:
    bench, _, _ = finished
    refused = bench.run("resume", "tiny-run")
    assert refused.code == 2
    assert "tiny-run is finished" in refused.stderr and "Traceback" not in refused.stderr


def test_the_python_door(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    import fullbore

    for key in ("FULLBORE_RUNS", "XDG_CACHE_HOME"):
        monkeypatch.setenv(key, bench.environment[key])
    run = fullbore.run(bench.job(), overrides={"train.budget": "5 steps"})
    assert "total" in run.ledger.table()
    assert json.loads((run.folder / "result.json").read_text())["steps"] == 5
    assert isinstance(run.model.generate("def ", max_tokens=4), str)
    assert fullbore.Run.find(run.name).metrics == run.metrics


def test_packed_shards_are_a_source(bench: Bench) -> None:
    packed = bench.done(
        "pack",
        "python://stdlib",
        "shards",
        "--set",
        'data.include=["json/*.py", "email/*.py"]',
        "--set",
        "data.validation=0.3",
    )
    job = bench.job(TINY.replace('source = "python://stdlib"', 'source = "shards"'))
    foreseen = bench.done("check", job)
    assert foreseen["source"]["format"] == "corpus" and foreseen["source"]["samples"] == packed["splits"]
    ran = bench.done("run", job, "--set", "train.budget=2 steps")
    assert ran["stages"][0]["detail"] == packed["summary"]
