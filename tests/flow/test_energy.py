"""Energy of a real run on a machine whose counters, if it has any, are in nobody's way."""

from __future__ import annotations

from typing import Any

import pytest

from tests.flow.conftest import TINY, Bench, Outcome

pytestmark = pytest.mark.slow

Finished = tuple[Bench, dict[str, Any], Outcome]


def adds_up(answer: dict[str, Any]) -> None:
    told = answer["energy"]
    whole = told["joules"]["value"]
    assert 0 < told["joules"]["low"] <= whole <= told["joules"]["high"]
    assert sum(state["joules"] for state in told["states"].values()) == pytest.approx(whole)
    assert sum(state["share"] for state in told["states"].values()) == pytest.approx(1)
    assert sum(part["joules"]["value"] for part in told["parts"]) == pytest.approx(whole)
    assert told["source"] in ("measured", "modelled") and all(part["how"] for part in told["parts"])


def test_a_run_tells_its_joules_by_state(finished: Finished) -> None:
    bench, result, _ = finished
    adds_up(result)
    told = result["energy"]
    assert set(told["states"]) == set(result["ledger"]) and told["unit"] == "token"
    assert told["count"] == 30 * 8 * 32 and told["joules_per_unit"]["value"] > 0
    assert told["cost"] is None and told["carbon_grams"] is None
    assert bench.done("explain", "tiny-run")["energy"] == told
    (counters,) = bench.events("tiny-run", "energy")
    assert told["source"] == ("measured" if counters["counters"] else "modelled")
    said = bench.run("explain", "tiny-run").stdout
    assert f"energy ({told['source']})" in said and f"processor {told['source']}" in said
    assert f"energy, {told['source']}" in (bench.folder / "runs" / "tiny-run" / "report.html").read_text()


def test_a_job_is_told_its_energy_and_cost_before_it_runs(bench: Bench) -> None:
    section = '[energy]\nidle_watts = 10\nbusy_watts = 60\npue = 1.5\nprice_per_kwh = 2\ncurrency = "CHF"\n'
    answer = bench.done("check", bench.job(TINY + section))
    adds_up(answer)
    told, seconds = answer["energy"], answer["predicted"]["total_seconds"]["value"]
    assert told["joules"]["low"] == pytest.approx(10 * seconds)
    assert told["joules"]["high"] == pytest.approx(60 * seconds)
    assert told["cost"]["value"] == pytest.approx(2 * 1.5 * told["joules"]["value"] / 3.6e6)
    assert "CHF" in bench.run("check", bench.job(TINY + section)).stdout


def test_a_run_that_only_prepares_data_uses_energy_too(bench: Bench) -> None:
    only_data = TINY.partition("[tokenizer]")[0]
    result = bench.done("run", bench.job(only_data))
    adds_up(result)
    assert result["energy"]["joules_per_unit"] is None
