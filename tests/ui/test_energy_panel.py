"""A report shows the joules of a run beside its seconds, and by what they are known."""

from __future__ import annotations

import example_run
from page import Page

from fullbore.flow import energy
from fullbore.perf.plan.facts import Facts
from fullbore.record.ledger import Ledger
from fullbore.spec.energy import EnergySection
from fullbore.ui.report import write


def test_joules_stand_beside_seconds() -> None:
    run = example_run.done()
    result = run.result()
    assert result is not None
    facts = Facts(Ledger.from_json(result["ledger"]), cores=2)
    section = EnergySection(price_per_kwh=0.3, currency="<EUR>")
    told = energy.of_run(facts, section).to_json()
    run.finish({**result, "energy": told})
    page = Page(write(run))
    assert page.unbalanced == []
    assert "energy, modelled" in page.sections["time"] and "&lt;EUR&gt;" in run.paths.report.read_text()
    assert "between" in page.sections["time"] and "Cascade Lake" in page.sections["time"]
    assert abs(sum(page.shares) - 100) < 0.05


def test_odd_energy_is_no_reason_for_no_report() -> None:
    run = example_run.done()
    for odd in (3, {"joules": 1}, {"states": {"forward": 2}, "joules": {"value": "many"}, "parts": [1]}):
        run.finish({**(run.result() or {}), "energy": odd})
        assert "time" in Page(write(run)).ids()


def test_a_killed_run_has_joules_too() -> None:
    page = Page(write(example_run.killed()))
    assert "energy, modelled" in page.sections["time"]
