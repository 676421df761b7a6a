"""Raw data to what a feed reads: corpus, tokenizer and packed shards, each from the cache if nothing changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fullbore.base.errors import InputError, JobError, Problem
from fullbore.base.units import format_bytes, format_count
from fullbore.data import pack, prepare
from fullbore.data.labels import require_classes
from fullbore.data.prepare import Source
from fullbore.data.shards import Shards
from fullbore.flow.session import Session, content_key
from fullbore.models import tokenizer
from fullbore.record import artifact
from fullbore.record.artifact import Artifact
from fullbore.record.ledger import State
from fullbore.spec.job import Job
from fullbore.spec.load import DEFAULT, LoadedJob

_CONFIG = "config.json"


@dataclass(frozen=True)
class Seen:
    """What lies at a job's source, no file read."""

    source: Source | None
    """None for shards that `pack` wrote."""
    warning: str | None = None
    """What the user should know of it."""


def look(loaded: LoadedJob) -> Seen:
    """See what lies at the job's source.

    Raises JobError naming each path of the job that leads nowhere and where it was written.
    """
    job, problems, hints = loaded.job, [], []
    source, packed = None, _packed(job)

    def complain(key: str, message: str, hint: str | None = None) -> None:
        problems.append(Problem(loaded.origins[key], key, message.removeprefix(f"{key}: ")))
        hints.append(hint)

    try:
        if packed is not None:
            artifact.read(packed, "corpus")
        else:
            source = prepare.find(job.data)
    except InputError as error:
        complain("data.source", error.message, error.hint)
    if job.tokenizer is not None and job.tokenizer.folder and not tokenizer.holds(Path(job.tokenizer.folder)):
        complain("tokenizer.folder", f"{job.tokenizer.folder}: neither tokenizer.json nor vocab.txt is there")
    if job.model is not None and job.model.kind == "transformers" and not Path(job.model.folder, _CONFIG).is_file():
        complain("model.folder", f"{job.model.folder}: no {_CONFIG} is there")
    if problems:
        raise JobError(problems, hint=next(filter(None, hints), None))
    return Seen(source, _without_effect(loaded) if packed is not None else None)


def _without_effect(loaded: LoadedJob) -> str | None:
    written = [key for key, origin in loaded.origins.items() if key.startswith("data.") and origin != DEFAULT]
    idle = [key for key in written if key not in ("data.source", "data.shard_bytes")]
    source = loaded.job.data.source
    return f"{source} was packed before: {', '.join(idle)} had to be given to fullbore pack" if idle else None


def _packed(job: Job) -> Path | None:
    """The folder of shards that `pack` wrote, if the source is one."""
    folder = Path(job.data.source)
    return folder if (folder / artifact.MANIFEST).is_file() else None


def prepare_data(session: Session, source: Source | None = None) -> Artifact:
    """Run the stages from the source to the shards that training reads; returns the last artifact.

    `source`: what `look` saw, if it was asked already.
    """
    corpus = _corpus(session, source)
    if session.job.tokenizer is None or session.job.task is None:
        return corpus
    vocabulary = _tokenizer(session, corpus)
    return _shards(session, corpus, vocabulary)


def _corpus(session: Session, source: Source | None) -> Artifact:
    job = session.job
    with session.stage("read") as facts:
        packed = _packed(job)
        if packed is not None:
            corpus = session.cached(
                "corpus",
                "given",
                State.READ,
                facts,
                lambda _: _given(packed, job),
            )
        else:
            with session.recorder.state(State.READ):
                source = source or prepare.find(job.data)
                key = corpus_key(job, source)
            corpus = session.cached(
                "corpus",
                key,
                State.READ,
                facts,
                lambda out: prepare.prepare(
                    job.data, job.task, out, recorder=session.recorder, progress=session.progress, source=source
                ),
            )
        facts["detail"] = corpus_summary(corpus)
    return corpus


def _given(folder: Path, job: Job) -> Artifact:
    """The corpus that `pack` wrote, which knows nothing of the task."""
    corpus = artifact.require_intact(artifact.read(folder, "corpus"))
    if job.task is not None and job.task.kind == "classification" and corpus.info["classes"]:
        totals = [sum(counts) for counts in zip(*corpus.info["class_counts_by_split"].values(), strict=True)]
        require_classes(dict(zip(corpus.info["classes"], totals, strict=True)), whole=True)
    return corpus


def corpus_key(job: Job, source: Source | None = None) -> str:
    """What the corpus of `job` depends on: the files of its source, its settings, what the labels are for."""
    return content_key(prepare.fingerprint(job.data, source), job.task.kind if job.task is not None else None)


def corpus_summary(corpus: Artifact) -> str:
    info = corpus.info
    parts = [f"{format_count(info['kept'])} of {format_count(info['read'])} samples kept"]
    if info["duplicates"]:
        parts.append(f"{format_count(info['duplicates'])} duplicates")
    if info["quarantined_count"]:
        first = info["quarantined"][0]
        parts.append(f"{info['quarantined_count']} quarantined (first: {first['id']}: {first['reason']})")
    return ", ".join([*parts, format_bytes(corpus.bytes)])


def _tokenizer(session: Session, corpus: Artifact) -> Artifact:
    section = session.job.tokenizer
    if section is None:
        raise InputError("no [tokenizer] section")
    with session.stage("tokenizer") as facts:
        key = content_key(corpus.digest, section.model_dump())

        def build(out: Path) -> Artifact:
            if section.kind == "folder":
                return tokenizer.adopt(Path(section.folder or ""), out)
            return tokenizer.train(Shards(corpus).texts("train"), section, out, parents=(corpus,))

        vocabulary = session.cached("tokenizer", key, State.TOKENISE, facts, build)
        facts["detail"] = f"{vocabulary.info['vocabulary_size']} tokens"
    return vocabulary


def _shards(session: Session, corpus: Artifact, vocabulary: Artifact) -> Artifact:
    job = session.job
    length = job.train.sequence_length if job.train is not None else 1024
    task = job.task
    if task is None:
        raise InputError("no [task] section")
    with session.stage("pack") as facts:
        key = content_key(corpus.digest, vocabulary.digest, task.kind, length, job.data.shard_bytes)
        shards = session.cached(
            "shards",
            key,
            State.PACK,
            facts,
            lambda out: pack.pack(
                corpus,
                tokenizer.load(vocabulary.folder),
                task,
                length,
                out,
                recorder=session.recorder,
                progress=session.progress,
                shard_bytes=job.data.shard_bytes,
            ),
        )
        tokens = shards.info["tokens"]
        facts["detail"] = ", ".join(f"{split} {format_count(count)} tokens" for split, count in tokens.items() if count)
    return shards
