"""Raw data to what a feed reads: corpus, tokenizer and packed shards, each from the cache if nothing changed."""

from __future__ import annotations

from pathlib import Path

from fullbore.base.errors import InputError
from fullbore.base.units import format_bytes, format_count
from fullbore.data import pack, prepare
from fullbore.data.shards import Shards
from fullbore.flow.session import Session, content_key
from fullbore.models import tokenizer
from fullbore.record import artifact
from fullbore.record.artifact import Artifact
from fullbore.record.ledger import State
from fullbore.spec.job import Job


def prepare_data(session: Session) -> Artifact:
    """Run the stages from the source to the shards that training reads; returns the last artifact."""
    corpus = _corpus(session)
    if session.job.tokenizer is None or session.job.task is None:
        return corpus
    vocabulary = _tokenizer(session, corpus)
    return _shards(session, corpus, vocabulary)


def _corpus(session: Session) -> Artifact:
    job = session.job
    with session.stage("read") as facts:
        packed = Path(job.data.source, artifact.MANIFEST)
        if packed.is_file():
            corpus = session.cached(
                "corpus",
                "given",
                State.READ,
                facts,
                lambda _: artifact.require_intact(artifact.read(packed.parent, "corpus")),
            )
        else:
            with session.recorder.state(State.READ):
                key = corpus_key(job)
            corpus = session.cached(
                "corpus",
                key,
                State.READ,
                facts,
                lambda out: prepare.prepare(
                    job.data, job.task, out, recorder=session.recorder, progress=session.progress
                ),
            )
        facts["detail"] = corpus_summary(corpus)
    return corpus


def corpus_key(job: Job) -> str:
    """What the corpus of `job` depends on: the files of its source, its settings, what the labels are for."""
    return content_key(prepare.fingerprint(job.data), job.task.kind if job.task is not None else None)


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
