"""Raw data to what a feed reads: corpus, tokenizer and packed shards, each from the cache if nothing changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fullbore.base.errors import InputError, JobError, Problem
from fullbore.base.paths import stage_cache
from fullbore.base.units import format_bytes, format_count
from fullbore.data import pack, prepare
from fullbore.data.labels import require_classes
from fullbore.data.prepare import Source
from fullbore.data.shards import Shards
from fullbore.flow.session import Session, content_key
from fullbore.models import hub, tokenizer
from fullbore.record import artifact
from fullbore.record.artifact import Artifact
from fullbore.record.ledger import State
from fullbore.spec.data import TokenizerSection
from fullbore.spec.job import Job
from fullbore.spec.load import DEFAULT, LoadedJob

PREPARING = {"read": State.READ, "tokenizer": State.TOKENISE, "pack": State.PACK}
"""The stages that prepare data, and the states in which they do."""
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

    A run that holds an artifact of its own needs nothing of what it was made from: that may be gone.
    `source`: what `look` saw, if it was asked already.
    """
    _base(session)
    corpus = _corpus(session, source)
    if session.job.tokenizer is None or session.job.task is None:
        return corpus
    vocabulary = _tokenizer(session, corpus)
    return _shards(session, corpus, vocabulary)


def _base(session: Session) -> None:
    """Keep what the run begins with of a transformers folder: the user may move it, or train on in it."""
    model = session.job.model
    if model is None or model.kind != "transformers":
        return
    folder, pretrained = Path(model.folder), model.pretrained

    def key() -> str:
        return content_key({path.name: artifact.checksum(path) for path in hub.files(folder, pretrained=pretrained)})

    session.cached("base", State.START, {}, key, lambda out: hub.adopt(folder, out, pretrained=pretrained))


def _corpus(session: Session, source: Source | None) -> Artifact:
    job = session.job
    packed = _packed(job)

    def key() -> str:
        nonlocal source
        if packed is not None:
            return "given"
        source = source or prepare.find(job.data)
        return corpus_key(job, source)

    def build(out: Path) -> Artifact:
        if packed is not None:
            return _given(packed, job)
        return prepare.prepare(
            job.data, job.task, out, recorder=session.recorder, progress=session.progress, source=source
        )

    with session.stage("read") as facts:
        corpus = session.cached("corpus", State.READ, facts, key, build)
        facts["detail"] = corpus_summary(corpus)
    return corpus


_ANSWERS = {"classification": "label", "regression": "target"}


def _given(folder: Path, job: Job) -> Artifact:
    """The corpus that `pack` wrote, which knows nothing of the task: its labels are classes, and targets if all of them
    are numbers."""
    corpus = artifact.require_intact(artifact.read(folder, "corpus"))
    kind, classes = job.task.kind if job.task is not None else "", corpus.info["classes"]
    if kind in _ANSWERS and _ANSWERS[kind] not in corpus.info["columns"]:
        shown = ", ".join(map(repr, classes[:3])) if classes else "no labels"
        raise InputError(
            f"data.source: {folder} was packed with {shown}{', …' if len(classes or ()) > 3 else ''}, "
            f"expected {'numbers' if classes else 'a label'} for task.kind = {kind!r}",
            hint="pack it again, and say with --set data.label=… which column or field holds the answer",
        )
    if kind == "classification" and classes:
        totals = [sum(counts) for counts in zip(*corpus.info["class_counts_by_split"].values(), strict=True)]
        require_classes(dict(zip(classes, totals, strict=True)), whole=True)
    return corpus


def corpus_key(job: Job, source: Source | None = None) -> str:
    """What the corpus of `job` depends on: the files of its source, its settings, what the labels are for."""
    return content_key(prepare.fingerprint(job.data, source), job.task.kind if job.task is not None else None)


def tokenizer_key(section: TokenizerSection, corpus: Artifact) -> str:
    """What a tokenizer depends on: the files that it is, or the texts that it is learnt from."""
    if section.kind == "folder":
        return content_key({path.name: artifact.checksum(path) for path in tokenizer.files(Path(section.folder or ""))})
    return content_key(corpus.digest, section.model_dump())


def shards_key(job: Job, corpus: Artifact, vocabulary: Artifact) -> str:
    """What packed shards depend on."""
    kind = job.task.kind if job.task is not None else None
    return content_key(corpus.digest, vocabulary.digest, kind, _row_tokens(job), job.data.shard_bytes)


def _row_tokens(job: Job) -> int:
    return job.train.sequence_length if job.train is not None else 1024


def kept(job: Job, source: Source | None) -> frozenset[str]:
    """The states of preparing whose result is there from before, so that a run of `job` is spared them."""
    place = _packed(job) or stage_cache() / f"corpus-{corpus_key(job, source)}"
    if not _holds(place):
        return frozenset()
    corpus, found = artifact.read(place, "corpus"), {str(State.READ)}
    if job.tokenizer is None or not _holds(
        place := stage_cache() / f"tokenizer-{tokenizer_key(job.tokenizer, corpus)}"
    ):
        return frozenset(found)
    found.add(State.TOKENISE)
    vocabulary = artifact.read(place, "tokenizer")
    if job.task is not None and _holds(stage_cache() / f"shards-{shards_key(job, corpus, vocabulary)}"):
        found.add(State.PACK)
    return frozenset(found)


def spared(session: Session) -> frozenset[str]:
    """The states of preparing whose result this session found ready."""
    return ready(session.job, session.stages)


def ready(job: Job, stages: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """The same of stages as their events tell them."""
    found = {str(PREPARING[facts["stage"]]) for facts in stages if facts["stage"] in PREPARING and facts.get("cached")}
    return frozenset(found | ({str(State.READ)} if _packed(job) else set()))


def _holds(place: Path) -> bool:
    return (place / artifact.MANIFEST).is_file()


def corpus_summary(corpus: Artifact) -> str:
    info = corpus.info
    parts = [f"{format_count(info['kept'])} of {format_count(info['read'])} samples kept"]
    if info["duplicates"]:
        parts.append(f"{format_count(info['duplicates'])} duplicates")
    if info.get("conflicting"):
        parts.append(f"{format_count(info['conflicting'])} with the inputs of another and a different label")
    if info["quarantined_count"]:
        first = info["quarantined"][0]
        parts.append(f"{info['quarantined_count']} quarantined (first: {first['id']}: {first['reason']})")
    return ", ".join([*parts, format_bytes(corpus.bytes)])


def _tokenizer(session: Session, corpus: Artifact) -> Artifact:
    section = session.job.tokenizer
    if section is None:
        raise InputError("no [tokenizer] section")
    with session.stage("tokenizer") as facts:
        folder = Path(section.folder or "")

        def build(out: Path) -> Artifact:
            if section.kind == "folder":
                return tokenizer.adopt(folder, out)
            return tokenizer.train(Shards(corpus).texts("train"), section, out, parents=(corpus,))

        vocabulary = session.cached("tokenizer", State.TOKENISE, facts, partial(tokenizer_key, section, corpus), build)
        facts["detail"] = f"{vocabulary.info['vocabulary_size']} tokens"
    return vocabulary


def _shards(session: Session, corpus: Artifact, vocabulary: Artifact) -> Artifact:
    job, length = session.job, _row_tokens(session.job)
    task = job.task
    if task is None:
        raise InputError("no [task] section")
    with session.stage("pack") as facts:
        shards = session.cached(
            "shards",
            State.PACK,
            facts,
            partial(shards_key, job, corpus, vocabulary),
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
