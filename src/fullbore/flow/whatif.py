"""`explain --if`: what a run would have taken with other settings, and the settings worth changing, best first."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from fullbore.base.errors import FullboreError
from fullbore.flow import foretold, lines, replan
from fullbore.flow.replan import Basis
from fullbore.perf.measure import proc
from fullbore.perf.model.calibration import Past
from fullbore.perf.plan import whatif
from fullbore.perf.plan.advise import Advice
from fullbore.perf.plan.course import STEPS
from fullbore.perf.plan.whatif import Change, Figure
from fullbore.spec.load import load
from fullbore.spec.plan import Prediction

_LEARNING = (
    "train.optimizer train.global_batch_size train.sequence_length train.learning_rate train.weight_decay train.l1 "
    "train.l2 train.momentum train.beta2 train.schedule train.warmup train.clip train.seed model task data tokenizer"
).split()
"""Settings, and sections, that change what is learnt."""


@dataclass(frozen=True)
class WhatIf:
    change: Change
    figure: Figure
    error: float | None
    """Relative, of the predicted rate or seconds: of such changes where some were made here, else of the lines."""
    known_by: str
    """What the prediction goes by."""
    ledger: Mapping[str, Prediction]
    notes: tuple[str, ...]
    """What is not predicted, or does not fit."""

    def to_json(self) -> dict[str, Any]:
        return {
            "change": self.change.said,
            "set": self.change.settings,
            "changes_training": self.change.changes_training,
            "figure": asdict(self.figure),
            "gain": self.figure.gain,
            "error": self.error,
            "known_by": self.known_by,
            "ledger": {state: asdict(line) for state, line in self.ledger.items()},
            "notes": list(self.notes),
        }

    def advice(self) -> Advice:
        figure = self.figure
        return Advice(
            self.change.said, self.change.settings, figure.gain, self.error, figure.name, figure.now, figure.then,
            figure.unit, self.change.changes_training,
        )  # fmt: skip


def what_if(found: Basis, change: Change) -> WhatIf:
    """The ledger and the figure of the run under a change. Raises what a job raises that cannot be."""
    job = load(found.paths.job, change.overrides).job
    subject, known_by, notes = replan.changed(found, job)
    plan = subject.plan
    assert plan is not None
    base = replace(found.subject, plan=found.as_planned)
    now, then = lines.pair(base, subject, found.past)
    now, then = _counted(now, then, plan.steps / found.as_planned.steps)
    known = replan.step_ratio(found, subject)
    if known is not None:
        ratio, error, known_by = known
        before = sum(now[state].value for state in STEPS if state in now)
        then = _scaled(then, before * ratio * plan.steps / found.as_planned.steps, error)
    ledger = whatif.corrected(found.facts.ledger.seconds, now, then)
    units = float(found.work.units_per_sample)
    more = plan.steps * plan.global_batch_size / (found.as_planned.steps * found.plan.global_batch_size)
    if subject.work is not None:
        more *= subject.work.units_per_sample / found.work.units_per_sample
    samples = float(found.facts.samples), float(found.facts.samples * more)
    measured = dict(found.facts.ledger.seconds)
    seconds = {state: line.value for state, line in ledger.items()}
    figure = whatif.figure(found.timed, measured, seconds, samples, units)
    if figure.name == "training rate":
        figure = replace(figure, unit=f"{found.work.units}/s")
    states = STEPS if figure.name == "training rate" else None
    doubt = _known_error(found.past, found.subject.ceilings.basis, change) or whatif.error(ledger, measured, states)
    return WhatIf(change, figure, doubt, known_by, ledger, tuple(notes))


def asked(found: Basis, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What `explain --if` answers, with a digest that shows later that nothing of it was changed; kept in the run, so
    that a run of the changed job can say how true it was."""
    written = {key: str(value) for key, value in overrides.items()}
    learning = any(key in _LEARNING or key.partition(".")[0] in _LEARNING for key in written)
    answer = what_if(found, Change(", ".join(f"{key} = {value}" for key, value in written.items()), written, learning))
    told = {"schema": 1, "run": found.paths.folder.name, **answer.to_json()}
    signed = {**told, "sha256": hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()}
    foretold.keep(found.paths, load(found.paths.job, written).job, signed, answer.change.keys)
    return signed


def ranked(found: Basis, *, brief: bool = False) -> list[WhatIf]:
    """Every change that is known and possible, the largest gain first; those that change the training come after.

    `brief`: without those of the network, whose work takes seconds to trace.
    """
    precisions = tuple(found.subject.ceilings.matmul_flops)
    validation = found.subject.amounts.rows.get("validation", 0)
    answers = []
    for change in whatif.candidates(found.subject.job, found.plan, precisions, proc.core_count(), validation):
        if brief and any(key.startswith("model.") or key == "train.sequence_length" for key in change.overrides):
            continue
        try:
            answers.append(what_if(found, change))
        except FullboreError:
            continue  # the job cannot be so: it does not fit, or its settings contradict each other
    if found.timed:  # a setting that leaves the rate as it is would only save its trial
        answers = [each for each in answers if each.figure.name == "training rate" or not each.change.of_training]
    return sorted(answers, key=lambda answer: (answer.change.changes_training, -answer.figure.gain))


def _scaled(then: Mapping[str, Prediction], seconds: float, error: float | None) -> dict[str, Prediction]:
    """The lines of the steps made to last so long together."""
    whole = sum(then[state].value for state in STEPS if state in then)
    scale = seconds / whole if whole else 1.0
    return {
        state: Prediction(line.value * scale, "s", error) if state in STEPS else line for state, line in then.items()
    }


def _counted(
    now: Mapping[str, Prediction], then: Mapping[str, Prediction], more: float
) -> tuple[dict[str, Prediction], dict[str, Prediction]]:
    """The same lines, those of steps that only come `more` often without an error: that is counted, not predicted."""
    same = {
        state
        for state in STEPS
        if state in now and state in then and math.isclose(then[state].value, now[state].value * more, rel_tol=1e-9)
    }
    one, two = (
        {state: replace(line, error=0.0) if state in same else line for state, line in lines_.items()}
        for lines_ in (now, then)
    )
    return one, two


def _known_error(past: tuple[Past, ...], fingerprint: str, change: Change) -> float | None:
    """How far such changes were from what was predicted of them, on this machine; none if fewer than two were made."""
    found = [
        abs(entry.measured / entry.predicted - 1)
        for entry in past
        if (entry.fingerprint, entry.quantity, entry.kind) == (fingerprint, whatif.QUANTITY, change.keys)
        and entry.predicted
    ]
    return median(found[-9:]) if len(found) > 1 else None
