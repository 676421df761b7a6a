"""`check`: what a job would do here: duration, rate, memory and the limiting part, before it runs."""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fullbore.base.errors import InputError
from fullbore.base.paths import stage_cache
from fullbore.base.units import format_seconds, format_share
from fullbore.data import prepare
from fullbore.data.prepare import Source
from fullbore.flow import energy, forecast
from fullbore.flow.prepare import corpus_key, look
from fullbore.models import build, tokenizer
from fullbore.models import work as works
from fullbore.perf.measure import probe, proc
from fullbore.perf.model import memory
from fullbore.perf.model.energy import Energy
from fullbore.perf.plan import choose
from fullbore.perf.plan.cause import OF_STATE, Limit
from fullbore.record import artifact
from fullbore.record.artifact import Artifact
from fullbore.record.progress import no_progress
from fullbore.record.span import Recorder
from fullbore.spec.hardware import Ceilings
from fullbore.spec.job import Job
from fullbore.spec.load import LoadedJob
from fullbore.spec.plan import Prediction

_WHOLE_BYTES = 256 * 2**20
"""A source up to this size is read whole (and kept for the run); of a larger one a sample is read."""
_SAMPLE_BYTES = 32 * 2**20
_TOLD = {Limit.COMPUTE: "training", Limit.START: "starting, planning and what follows training"}
"""Parts of a run that are called otherwise here than where they limit one."""


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
    preparing = forecast.preparation(job, corpus, ceilings, share)
    answer: dict[str, Any] = {
        "schema": 1,
        "job": job.name,
        "source": {
            "files": len(source.entries) if source is not None else len(corpus.files),
            "bytes": corpus.info["source_bytes"] if source is not None else corpus.bytes,
            "format": corpus.info["source_format"] if source is not None else corpus.kind,
            **known,
        },
    }
    answer["warnings"] = [seen.warning] if seen.warning else []
    predicted: dict[str, Prediction] = {"preparing_seconds": preparing["total"]}
    parts = {OF_STATE[name]: item for name, item in preparing.items() if name != "total"}
    if job.train is not None and job.model is not None and job.task is not None:
        planned = _training(job, corpus, known, ceilings)
        answer["plan"] = {key: value for key, value in planned.plan.to_json().items() if key != "predicted"}
        answer["memory"] = planned.memory
        predicted |= planned.predicted
        parts[Limit.COMPUTE] = planned.predicted["train_seconds"]
        answer["warnings"] += [planned.warning] if planned.warning else []
        memory.require(planned.memory, proc.memory_available(), job.train.world_size)
    parts[Limit.START] = forecast.besides(job, ceilings)
    predicted["total_seconds"] = forecast.total(list(parts.values()))
    answer["energy"] = _energy(job, parts, answer.get("plan"), predicted.get("rate")).to_json()
    answer["predicted"] = {key: asdict(item) for key, item in predicted.items()}
    answer["verdict"] = _verdict({name: item.value for name, item in parts.items()})
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


def _training(job: Job, corpus: Artifact, known: dict[str, Any], ceilings: Ceilings) -> forecast.Forecast:
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
    work = works.work(model, task, shapes)
    limits = choose.Limits(
        rows=max(1, rows["train"]),
        units_per_row=section.sequence_length if language else 1,
        units=work.units,
        cores=len(os.sched_getaffinity(0)),
        memory_available=proc.memory_available(),
        memory_of=lambda micro: sum(memory.predict(work, section, micro).values()),
        has_validation=rows.get("validation", 0) > 0,
    )
    limits = forecast.informed(job, section, work, limits, ceilings)
    return forecast.forecast(job, section, work, limits, ceilings, rows.get("validation", 0))


def _vocabulary_size(job: Job) -> int:
    section = job.tokenizer
    if section is None or section.kind == "byte_bpe":
        return section.vocabulary_size if section is not None else 0
    return tokenizer.load(Path(section.folder or "")).vocabulary_size


def _bytes_per_token(job: Job) -> float:
    """What a token of source code or English stands for, by the size of the vocabulary: 2.6 bytes at 1,024, 3.4 at
    4,096, measured on Python's standard library; a vocabulary grown fourfold gains 0.84 bytes."""
    return max(1.0, 0.42 * math.log2(max(2, _vocabulary_size(job))) - 1.6)


def _energy(job: Job, parts: dict[Limit, Prediction], plan: dict[str, Any] | None, rate: Prediction | None) -> Energy:
    """Data are prepared on all cores, models trained on those that the plan gives them, and the rest is done on one."""
    cores = proc.core_count()
    busy = {Limit.START: 1.0, Limit.COMPUTE: plan["threads"] * plan["world_size"] if plan is not None else cores}
    phases = {_TOLD.get(name, str(name)): (item.value, busy.get(name, cores)) for name, item in parts.items()}
    return energy.predicted(phases, cores, job.energy, rate, _TOLD[Limit.COMPUTE])


def _verdict(seconds: dict[Limit, float]) -> dict[str, Any]:
    """What would take most of the time, and what the rest."""
    limit, *rest = sorted(seconds, key=lambda part: -seconds[part])
    share = seconds[limit] / (sum(seconds.values()) or 1.0)
    what = _TOLD.get(limit, str(limit)).capitalize()
    return {
        "limit": limit,
        "sentence": f"{what} would take most of the time: {format_seconds(seconds[limit])}, {format_share(share)}.",
        "share": share,
        "evidence": [f"{_TOLD.get(part, str(part))}: {format_seconds(seconds[part])}" for part in rest],
        "advice": [],
    }
