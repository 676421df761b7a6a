"""A run's predicted ledger: each line as past runs on this machine correct it, with the error that this leaves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fullbore.base.paths import RunPaths
from fullbore.data.shards import Shards
from fullbore.flow.session import content_key
from fullbore.flow.stages import wanted
from fullbore.perf.measure import history, proc
from fullbore.perf.model import feed
from fullbore.perf.model.calibration import UNKNOWN, Calibration, Past, calibrate
from fullbore.perf.plan.course import STEPS, Amounts, course
from fullbore.record import artifact
from fullbore.record.artifact import Artifact
from fullbore.record.ledger import Ledger, State
from fullbore.spec.hardware import Ceilings
from fullbore.spec.job import Job
from fullbore.spec.plan import Plan, Prediction
from fullbore.spec.work import Work

LINE = "line."
"""What the keys of predicted ledger lines begin with; the state follows."""
_FIXED = (State.START, State.PROBE, State.SERVE, State.REPORT)
"""Lines that depend on which stages a job has more than on how it trains."""
_COMPILED = "compiled"
_ALL = 0.95
"""A total has an error if that of so much of it is known."""


@dataclass(frozen=True)
class Subject:
    """What a ledger is predicted for. Without a plan: nothing is trained."""

    job: Job
    ceilings: Ceilings
    amounts: Amounts
    source_format: str
    plan: Plan | None = None
    work: Work | None = None

    def raw(self, past: Sequence[Past]) -> dict[str, float]:
        """Seconds by state, uncorrected."""
        given = (self.job, self.plan, self.work, self.ceilings, self.amounts, proc.core_count())
        return course(*given, compiled_before=self._compiled_before(past))

    def _compiled_before(self, past: Sequence[Past]) -> bool:
        if self.plan is None or self.work is None:
            return False
        return compiled_before(past, self.work, self.plan, self.ceilings.basis)

    def calibration(self, state: str, seconds: float, past: Sequence[Past]) -> Calibration:
        """What past runs say of a line that is predicted to be so long."""
        quantity, kind, precision = self._key(state, past)
        return calibrate(past, self.ceilings.basis, quantity, kind, precision, predicted=seconds)

    def _key(self, state: str, past: Sequence[Past]) -> tuple[str, str, str]:
        plan, ranks = self.plan, self.plan.world_size if self.plan is not None else 1
        if state in (State.READ, State.TOKENISE, State.PACK):
            spared = state in self.amounts.kept and (state != State.TOKENISE or State.PACK in self.amounts.kept)
            return LINE + state, f"{self.source_format} {'kept' if spared else 'new'}", ""
        if state in _FIXED or plan is None or self.work is None:
            return LINE + state, f"{stages_key(self.job)} x{ranks}", ""
        if state == State.COMPILE:
            kept = self._compiled_before(past)
            return LINE + state, f"{model_kind(self.job)} {'kept' if kept else 'new'}", plan.precision
        return LINE + state, f"{step_kind(self.job, plan.compile)} x{ranks}", plan.precision

    def entries(self, measured: Mapping[str, float], past: Sequence[Past]) -> list[Past]:
        """What a run that took so many seconds by state teaches."""
        lines = [(self._key(state, past), seconds, measured.get(state)) for state, seconds in self.raw(past).items()]
        return [
            Past(self.ceilings.basis, quantity, kind, precision, seconds, took)
            for (quantity, kind, precision), seconds, took in lines
            if took and seconds > 0 and math.isfinite(seconds)
        ]


def predict(
    subject: Subject, step: Prediction | None = None, past: Sequence[Past] | None = None
) -> dict[str, Prediction]:
    """Seconds of every line of the ledger, by state. `step`: what a step takes, if that is known better than as the sum
    of its states: these are then scaled to it."""
    past = history.load() if past is None else past
    raw = subject.raw(past)
    known = {state: subject.calibration(state, seconds, past) for state, seconds in raw.items()}
    found = {state: Prediction(seconds * known[state].ratio, "s", known[state].error) for state, seconds in raw.items()}
    if step is None or subject.plan is None:
        return found
    whole = sum(found[state].value for state in STEPS if state in found)
    scale = subject.plan.steps * step.value / whole if whole else 1.0
    return {
        state: replace(line, value=line.value * scale, error=step.error) if state in STEPS else line
        for state, line in found.items()
    }


def pair(one: Subject, two: Subject, past: Sequence[Past]) -> tuple[dict[str, Prediction], dict[str, Prediction]]:
    """The ledgers of two jobs for the ratio of their lines: where past runs tell of one of them only, what they say is
    taken to hold for the other, too."""
    raws = one.raw(past), two.raw(past)
    found: tuple[dict[str, Prediction], dict[str, Prediction]] = {}, {}
    for state in {**raws[0], **raws[1]}:
        known = [
            subject.calibration(state, raw[state], past) if state in raw else UNKNOWN
            for subject, raw in zip((one, two), raws, strict=True)
        ]
        borrowed = max(known, key=lambda calibration: calibration.count)
        for ledger, raw, own in zip(found, raws, known, strict=True):
            if state in raw:
                used = own if own.count else replace(borrowed, error=None)
                ledger[state] = Prediction(raw[state] * used.ratio, "s", used.error)
    return found


def keyed(ledger: Mapping[str, Prediction]) -> dict[str, Prediction]:
    """Lines and their sum as a plan keeps them."""
    return {**{LINE + state: line for state, line in ledger.items()}, "total_seconds": total(ledger)}


def compared(
    predicted: Mapping[str, Prediction], measured: Mapping[str, float | None], ledger: Ledger
) -> dict[str, dict[str, Any]]:
    """Each predicted figure and line beside what was measured: `predicted`, `measured`, `unit`, `error`."""
    said = {
        key: {"predicted": item.value, "measured": measured.get(key), "unit": item.unit, "error": item.error}
        for key, item in predicted.items()
    }
    measure(said, ledger)
    return said


def measure(said: dict[str, dict[str, Any]], ledger: Ledger) -> None:
    """Put a ledger into what `compared` gave; lines that nobody predicted are added to those that somebody did."""
    if not any(key.startswith(LINE) for key in said):
        return
    for state, seconds in ledger.seconds.items():
        unforeseen = {"predicted": 0.0, "measured": 0.0, "unit": "s", "error": None}
        said.setdefault(LINE + state, unforeseen)["measured"] = seconds
    for key in said:
        if key.startswith(LINE):
            said[key]["measured"] = ledger.seconds.get(key.removeprefix(LINE), 0.0)
    if "total_seconds" in said:
        said["total_seconds"]["measured"] = ledger.wall


def total(parts: Mapping[str, Prediction]) -> Prediction:
    """The sum of lines. Errors weigh as much as the lines they belong to, and are taken to go the same way; that of the
    sum is known if those of nearly all of it are."""
    seconds = sum(part.value for part in parts.values())
    known = [(part.value, part.error) for part in parts.values() if part.error is not None]
    covered = sum(value for value, _ in known)
    errors = sum(value * error for value, error in known)
    return Prediction(seconds, "s", errors / covered if covered and covered >= _ALL * seconds else None)


def material(job: Job, corpus: Artifact, share: float = 1.0) -> feed.Input:
    """What preparing the data of `job` has to do; `corpus` was read from `share` of its source."""
    section = job.tokenizer
    text = sum(corpus.info["text_bytes"].values()) / share if section is not None else 0.0
    learnt = min(text, section.training_bytes) if section is not None and section.kind == "byte_bpe" else 0.0
    pictures = corpus.info["kept"] / share if corpus.info["source_format"] == "images" else 0.0
    pixels = pictures * math.prod(corpus.info["columns"]["pixels"]["shape"]) if pictures else 0.0
    return feed.Input(bytes=corpus.info["source_bytes"], text_bytes=text, learnt_bytes=learnt, pixels=pixels)


def of_folder(
    job: Job,
    paths: RunPaths,
    ceilings: Ceilings,
    kept: frozenset[str],
    plan: Plan | None = None,
    work: Work | None = None,
) -> Subject:
    """The subject that a run whose data are prepared is; `kept`: states of preparing that it was spared."""
    corpus = artifact.read(paths.artifact("corpus"), "corpus")
    shards = Shards(paths.artifact("shards" if job.tokenizer is not None and job.task is not None else "corpus"))
    rows = {split: shards.rows(split) for split in ("train", "validation", "test")}
    amounts = Amounts(material(job, corpus), rows, units_per_row(job), kept)
    return Subject(job, ceilings, amounts, corpus.info["source_format"], plan, work)


def units_per_row(job: Job) -> int:
    """Tokens of a language model's row, else 1."""
    language = job.task is not None and job.task.kind.endswith("_lm")
    return job.train.sequence_length if language and job.train is not None else 1


def compiled_now(past: Sequence[Past], work: Work, plan: Plan, fingerprint: str) -> list[Past]:
    """The note that this machine has compiled the step of `plan`, if it is news."""
    if compiled_before(past, work, plan, fingerprint):
        return []
    return [Past(fingerprint, _COMPILED, compiled_graph(work, plan), plan.precision, 1.0, 1.0)]


def compiled_before(past: Sequence[Past], work: Work, plan: Plan, fingerprint: str) -> bool:
    note = (fingerprint, _COMPILED, compiled_graph(work, plan))
    return any((entry.fingerprint, entry.quantity, entry.kind) == note for entry in past)


def compiled_graph(work: Work, plan: Plan) -> str:
    """What is compiled, in short."""
    return content_key(work.to_json(), plan.micro_batch_size, plan.threads, plan.precision)


def model_kind(job: Job) -> str:
    return job.model.kind if job.model is not None else ""


def step_kind(job: Job, compiled: bool) -> str:
    """Compiled steps are predicted by steps of their own kind."""
    return model_kind(job) + ("+compile" if compiled else "")


def stages_key(job: Job) -> str:
    return "+".join([model_kind(job), *(stage.name for stage in wanted(job))])
