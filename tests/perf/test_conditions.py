"""A run whose machine was not as it was when its ceilings were measured says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fullbore.perf.plan import killed
from fullbore.perf.plan.conditions import notes
from fullbore.perf.plan.facts import Facts, Usage
from fullbore.record.ledger import Ledger
from tests.perf.test_whatif import CEILINGS, PLAN, WORK

CALM = Facts(
    Ledger({"forward": 10.0}), 2, usage={"forward": Usage(10.0, cpu_self=1.9)}, plan=PLAN, ceilings=CEILINGS, work=WORK
)


def seen(fingerprint: str = "host", megahertz: float | None = 3000.0) -> dict[str, Any]:
    return {"kind": "condition", "fingerprint": fingerprint, "megahertz": megahertz}


def test_nothing_is_said_of_a_calm_run() -> None:
    assert notes(CALM, [seen(), seen(megahertz=2900.0), seen(megahertz=None)]) == []
    assert notes(replace(CALM, ceilings=None), []) == []


@pytest.mark.parametrize(
    ("facts", "events", "told"),
    [
        (CALM, [seen("other")], "its ceilings are of another machine (host) than it ran on (other)"),
        (CALM, [seen("one"), seen("two")], "resumed on another machine (one, then two)"),
        (CALM, [seen(), seen(megahertz=2000.0)], "the cores ran at 3000 MHz at first, 2000 to 2000 MHz in the run"),
        (
            replace(CALM, ceilings=replace(CEILINGS, condition={"megahertz": 3500.0})),
            [seen()],
            "3500 MHz when its ceilings were measured, 3000 to 3000 MHz",
        ),
        (
            replace(CALM, usage={"forward": Usage(10.0, cpu_self=1.2, cpu_others=0.8)}),
            [seen()],
            "other processes used 0.8 of 2 cores while it trained, and none when its ceilings were measured",
        ),
        (replace(CALM, ceilings=replace(CEILINGS, notes=("disturbed",))), [seen()], "too low, perhaps: disturbed"),
    ],
)
def test_what_was_otherwise_is_said(facts: Facts, events: list[dict[str, Any]], told: str) -> None:
    (note,) = notes(facts, events)
    assert told in note


def test_the_end_of_a_killed_run() -> None:
    begun = [{"kind": "session", "t": 100.0, "began": 100.0}]
    calm = {"kind": "resource", "t": 107.0, "memory_available": 8e9, "rss": 4e8}
    assert killed.notes([]) == []
    (told,) = killed.notes([*begun, calm])
    assert "no events after 7 s" in told
    for sample, said in (
        ({**calm, "memory_limit": 300_000_000, "memory_available": 2e6}, "2 MB were left of the limit of 300 MB"),
        ({**calm, "memory_available": 1e7}, "10 MB were left of the machine's memory"),
    ):
        found = killed.notes([*begun, calm, sample])
        assert len(found) == 2 and said in found[1] and "the kernel kills for want of memory" in found[1]
