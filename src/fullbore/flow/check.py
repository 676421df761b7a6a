"""`check`: what a job would do here: duration, rate, memory and the limiting part, before it runs."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fullbore.base.errors import InputError
from fullbore.base.paths import stage_cache
from fullbore.base.units import format_seconds, format_share
from fullbore.data import prepare
from fullbore.data.prepare import Source
from fullbore.flow import energy, forecast, lines
from fullbore.flow import prepare as prepare_data
from fullbore.flow.limits import limits
from fullbore.flow.lines import Subject
from fullbore.flow.prepare import corpus_key, look
from fullbore.flow.work import work as work_of
from fullbore.models import build, tokenizer
from fullbore.perf.measure import probe, proc
from fullbore.perf.model import memory
from fullbore.perf.model.energy import Energy
from fullbore.perf.plan.cause import OF_STATE, Limit
from fullbore.perf.plan.course import STEPS, Amounts
from fullbore.record import artifact
from fullbore.record.artifact import Artifact
from fullbore.record.ledger import State
from fullbore.record.progress import no_progress
from fullbore.record.span import Recorder
from fullbore.spec.hardware import Ceilings
from fullbore.spec.job import Job
from fullbore.spec.load import LoadedJob
from fullbore.spec.plan import Prediction
from fullbore.spec.work import Work

_WHOLE_BYTES = 256 * 2**20
"""A source up to this size is read whole (and kept for the run); of a larger one a sample is read."""
_BRIEF = "ceilings probed in seconds; fullbore doctor measures kernels, from which steps are predicted closer"
_SAMPLE_BYTES = 32 * 2**20
_TRAINING = "training"
_TOLD = 0.01
"""Share of a run from which on a part of it is worth a line."""


def check(loaded: LoadedJob) -> dict[str, Any]:
    """Choices, predicted duration, rate, memory and energy of a job, and what would limit it (schema 1).

    Raises InputError for data that cannot be read, DoesNotFit if memory will not suffice.
    """
    job = loaded.job
    ceilings = probe.probe(folder=Path.cwd())
    seen = look(loaded)
    source = seen.source
    corpus, share = _look(job, source)
    known = _facts(corpus, share)
    kept = prepare_data.kept(job, source) if share == 1.0 else frozenset[str]()
    given = Amounts(lines.material(job, corpus, share), known["samples"], lines.units_per_row(job), kept)
    subject = Subject(job, ceilings, given, corpus.info["source_format"])
    answer: dict[str, Any] = {
        "schema": 1,
        "job": job.name,
        "source": {
            "files": len(source.entries) if source is not None else len(corpus.files),
            "bytes": corpus.info["source_bytes"] if source is not None else corpus.bytes,
            "format": corpus.info["source_format"] if source is not None else corpus.kind,
            **known,
            "kept": sorted(kept),
        },
    }
    answer["warnings"] = [seen.warning] if seen.warning else []
    predicted: dict[str, Prediction] = {}
    if job.train is not None and job.model is not None and job.task is not None:
        planned, work, rows = _training(job, corpus, known, ceilings)
        answer["plan"] = {key: value for key, value in planned.plan.to_json().items() if key != "predicted"}
        answer["memory"] = planned.memory
        predicted |= planned.predicted
        answer["warnings"] += [planned.warning] if planned.warning else []
        memory.require(planned.memory, proc.memory_in_reach(), job.train.world_size)
        subject = replace(subject, plan=planned.plan, work=work, amounts=replace(given, rows=rows))
    ledger = lines.predict(subject, predicted.get("step_seconds"))
    predicted["total_seconds"] = lines.total(ledger)
    answer["ledger"] = {state: asdict(line) for state, line in sorted(ledger.items(), key=lambda item: -item[1].value)}
    answer["energy"] = _energy(job, ledger, answer.get("plan"), predicted.get("rate")).to_json()
    answer["basis"] = ceilings.curves.source if ceilings.curves is not None else _BRIEF
    answer["predicted"] = {key: asdict(item) for key, item in predicted.items()}
    answer["verdict"] = _verdict({state: line.value for state, line in ledger.items()})
    return answer


def _look(job: Job, source: Source | None) -> tuple[Artifact, float]:
    """The corpus, or one of a sample, and the share of the source that it holds; no source: it is a packed one."""
    if source is None:
        return artifact.read(Path(job.data.source), "corpus"), 1.0
    source_bytes = sum(entry.bytes for entry in source.entries)
    cached = stage_cache() / f"corpus-{corpus_key(job, source)}"
    if (cached / artifact.MANIFEST).is_file():
        return artifact.read(cached, "corpus"), 1.0
    recorder = Recorder()
    if source_bytes <= _WHOLE_BYTES:
        return prepare.prepare(job.data, job.task, cached, recorder=recorder, progress=no_progress), 1.0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "corpus")
        made = prepare.prepare(
            job.data, job.task, place, recorder=recorder, progress=no_progress, sample_bytes=_SAMPLE_BYTES
        )
        limited = job.data.limit is not None and made.info["read"] >= job.data.limit
        return made, 1.0 if limited else made.info["bytes_read"] / source_bytes


def _facts(corpus: Artifact, share: float) -> dict[str, Any]:
    rows = {split: sum(shard["rows"] for shard in shards) for split, shards in corpus.info["splits"].items()}
    text = sum((corpus.info.get("text_bytes") or {}).values())
    return {
        "samples": {split: math.ceil(count / share) for split, count in rows.items()},
        "text_bytes": text / share,
        "estimated": share < 1,
    }


def _training(
    job: Job, corpus: Artifact, known: dict[str, Any], ceilings: Ceilings
) -> tuple[forecast.Forecast, Work, dict[str, int]]:
    """Also the model's work, and the rows of each split."""
    section, model, task = job.train, job.model, job.task
    if section is None or model is None or task is None:
        raise InputError("no [train], [model] and [task] sections")
    language = task.kind.endswith("_lm")
    rows = dict(known["samples"])
    if language:
        share = corpus.info["text_bytes"]
        whole = sum(share.values()) or 1
        tokens = known["text_bytes"] / _bytes_per_token(job)
        rows = {split: int(tokens * part / whole / section.sequence_length) for split, part in share.items()}
    shapes = build.sizes(corpus.info, None, None)
    if job.tokenizer is not None:
        shapes = build.with_vocabulary(shapes, _vocabulary_size(job), section.sequence_length)
    work = work_of(model, task, shapes, launched=ceilings.curves is not None)
    bounds = limits(section, model, task, shapes, work, rows)
    bounds = forecast.informed(job, section, work, bounds, ceilings)
    return forecast.forecast(job, section, work, bounds, ceilings, rows.get("validation", 0)), work, rows


def _vocabulary_size(job: Job) -> int:
    section = job.tokenizer
    if section is None or section.kind == "byte_bpe":
        return section.vocabulary_size if section is not None else 0
    return tokenizer.load(Path(section.folder or "")).vocabulary_size


def _bytes_per_token(job: Job) -> float:
    """What a token of source code or English stands for, by the size of the vocabulary: 2.6 bytes at 1,024, 3.4 at
    4,096, measured on Python's standard library; a vocabulary grown fourfold gains 0.84 bytes."""
    return max(1.0, 0.42 * math.log2(max(2, _vocabulary_size(job))) - 1.6)


def _energy(job: Job, ledger: Mapping[str, Prediction], plan: dict[str, Any] | None, rate: Prediction | None) -> Energy:
    """Data are prepared on all cores, models trained on those that the plan gives them, and the rest is done on one."""
    cores = proc.core_count()
    training = plan["threads"] * plan["world_size"] if plan is not None else 1
    busy = {State.READ: cores, State.TOKENISE: cores, State.PACK: cores, **dict.fromkeys(STEPS, training)}
    phases: dict[str, tuple[float, float]] = {}
    for state, line in ledger.items():
        name = _called(state)
        phases[name] = (phases.get(name, (0.0, 0.0))[0] + line.value, float(busy.get(State(state), 1)))
    return energy.predicted(phases, cores, job.energy, rate, _TRAINING)


def _called(state: str) -> str:
    """What a line is called where those of a step are told as one."""
    return _TRAINING if state in STEPS else str(OF_STATE[state])


def _verdict(seconds: Mapping[str, float]) -> dict[str, Any]:
    """What would take most of the time, and what the rest."""
    parts: dict[str, float] = {}
    for state, line in seconds.items():
        parts[_called(state)] = parts.get(_called(state), 0.0) + line
    limit, *rest = sorted(parts, key=lambda part: -parts[part])
    whole = sum(parts.values()) or 1.0
    told = f"{limit.capitalize()} would take most of the time: {format_seconds(parts[limit])}"
    return {
        "limit": Limit.COMPUTE if limit == _TRAINING else limit,
        "sentence": f"{told}, {format_share(parts[limit] / whole)}.",
        "share": parts[limit] / whole,
        "evidence": [f"{part}: {format_seconds(parts[part])}" for part in rest if parts[part] > _TOLD * whole],
        "advice": [],
    }
