"""`explain` of a loop of one's own: the verdict on what its ledger and its samples hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from fullbore.base.errors import InputError
from fullbore.base.units import format_seconds
from fullbore.perf.measure.ledger import LoopLedger
from fullbore.perf.plan.cause import COMPUTE, Limit
from fullbore.perf.plan.facts import Facts, gather
from fullbore.perf.plan.verdict import Verdict, verdict
from fullbore.record.ledger import Ledger, State

_PHASES = {"Training, ": "The loop, ", "Reporting, ": "Work in no named state, "}
_IDLE_CORES = 0.3
"""Cores below which a program that waits for data does not make them itself."""


def explain(loop: LoopLedger) -> dict[str, Any]:
    """Verdict, ledger, utilisation and steps of a loop, over or still running (schema 1). Raises InputError."""
    events, whole = loop.events(), loop.ledger
    if not whole.wall:
        raise InputError("the ledger was never entered", hint="with fullbore.ledger() as ledger: ...")
    steps = loop.steps
    # What is in no named state is the loop's own computing, unless its computing is named.
    merged = not any(whole.seconds.get(state) for state in COMPUTE)
    if merged:
        events = [
            {**event, "seconds": _merged(event["seconds"])} if event["kind"] == "ledger" else event for event in events
        ]
    facts = gather(Ledger(_merged(whole.seconds), whole.busy) if merged else whole, events)
    if steps is not None:
        facts = replace(facts, steps=steps.count, samples=float(steps.count))
    return {
        "schema": 1,
        "status": loop.status,
        "verdict": _of_a_loop(verdict(facts), facts, merged).to_json(),
        "seconds": whole.wall,
        "ledger": whole.to_json(),
        "busy": dict(whole.busy),
        "steps": asdict(steps) if steps else None,
    }


def _merged(seconds: Mapping[str, float]) -> dict[str, float]:
    """With `other` counted as `forward`."""
    kept = {str(state): spent for state, spent in seconds.items() if state != State.OTHER}
    return {**kept, str(State.FORWARD): kept.get(State.FORWARD, 0.0) + seconds.get(State.OTHER, 0.0)}


def _of_a_loop(found: Verdict, facts: Facts, merged: bool) -> Verdict:
    """In the words of a loop: it has no job, so no settings."""
    sentence, evidence = found.sentence, list(found.evidence)
    for phase, said in _PHASES.items():
        sentence = sentence.replace(phase, said, 1) if sentence.startswith(phase) else sentence
    if merged and found.limit == Limit.COMPUTE:
        sentence = sentence.replace("by model compute", "by its own work")
        evidence[0] = f"its own work {format_seconds(facts.seconds(State.FORWARD))}"
        if (usage := facts.usage.get(State.FORWARD)) is not None:
            evidence[0] += f", on {usage.cpu_self:.1f} of {facts.cores} cores"
    usage = facts.usage.get(State.DATA_WAIT)
    if found.limit == Limit.DATA and usage is not None:
        used = f"{usage.cpu_self:.2f} of {facts.cores} cores were used meanwhile"
        idle = usage.cpu_self < _IDLE_CORES
        told = "whoever delivers it is slow" if idle else "making the batches takes that"
        sentence = f"{sentence.removesuffix('.')}: {told}."
        evidence.insert(0, used)
    advice = tuple(replace(item, set="") for item in found.advice)
    return replace(found, sentence=sentence, evidence=tuple(evidence), advice=advice)
