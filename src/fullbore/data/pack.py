"""From a corpus of text to token shards: tokenised on all cores, cut to what a model reads at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from fullbore.base.errors import InputError
from fullbore.base.files import full_disk, remove_drafts
from fullbore.data.columns import Column, Columns
from fullbore.data.shards import Shards, Writer
from fullbore.record import artifact
from fullbore.record.artifact import Artifact
from fullbore.record.ledger import State
from fullbore.record.progress import Progress
from fullbore.record.span import Recorder
from fullbore.spec.model import TaskSection

Tokens = NDArray[np.uint16] | NDArray[np.uint32]
_BATCH_CHARACTERS = 4 << 20


class Tokenizer(Protocol):
    """What packing needs of a tokenizer; `encode_batch` uses all cores by itself, and cuts a text to `limit` tokens."""

    @property
    def vocabulary_size(self) -> int: ...
    @property
    def end_of_text(self) -> int: ...
    @property
    def folder(self) -> Path: ...
    def encode_batch(self, texts: list[str], limit: int | None = None) -> list[Any]: ...


def pack(
    corpus: Artifact,
    tokenizer: Tokenizer,
    task: TaskSection,
    sequence_length: int,
    out: Path,
    *,
    recorder: Recorder,
    progress: Progress,
    shard_bytes: int,
) -> Artifact:
    """Write the `shards` that `task` trains on to `out`: all of them appear there, or nothing does.

    Language models: `tokens` [sequence_length + 1], cut from the documents joined by end_of_text; a row's last token is
    the next row's first, so that every token is a target once; what is left at a split's end is dropped. Other tasks:
    `tokens` of at most sequence_length beside the sample's label or target. uint16 where the vocabulary allows.
    Raises InputError (no text, a split too small for one row), RunFailed (disk full).
    """
    samples = Shards(corpus)
    if "text" not in samples.columns:
        raise InputError(f"{corpus.folder}: no text to tokenise, the columns are {', '.join(samples.columns)}")
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_drafts(out.parent, out.name)
    dtype = "uint16" if tokenizer.vocabulary_size < 2**16 else "uint32"
    is_lm = task.kind in ("causal_lm", "masked_lm")
    tokens = Column("tokens", dtype, (sequence_length + 1,) if is_lm else None)
    kept = {} if is_lm else {n: c for n, c in samples.columns.items() if c.kind in ("label", "target")}
    schema = {"tokens": tokens, **kept}
    counts: Counter[str] = Counter()
    with full_disk(out), artifact.create(out, "shards", parents=_parents(corpus, tokenizer)) as draft:
        entries = {}
        total = sum(samples.info["text_bytes"].values())
        for split in samples.info["splits"]:
            encoded = _encoded(samples, split, list(kept), tokenizer, None if is_lm else sequence_length, recorder)
            blocks = _rows(encoded, tokenizer.end_of_text, sequence_length) if is_lm else _samples(encoded)
            writer = Writer(draft.folder, split, schema, shard_bytes)
            for block, count, size in blocks:
                counts[split] += count
                counts["bytes"] += size
                with recorder.state(State.PACK):
                    writer.write(block)
                progress("pack", counts["bytes"], total, "B", detail=f"{counts[split]:,} tokens of {split}")
            with recorder.state(State.PACK):
                entries[split] = writer.finish()
            if counts[split] and not entries[split]:
                raise InputError(
                    f"{corpus.folder}: {split} has {counts[split]:,} tokens, less than a row of {sequence_length + 1}",
                    hint=f"give more text, lower train.sequence_length, or change the share of {split}",
                )
        draft.info.update(
            {
                **{key: value for key, value in samples.info.items() if key != "quarantined"},
                "splits": entries,
                "columns": {name: column.to_json() for name, column in schema.items()},
                "tokens": {split: counts[split] for split in entries},
                "sequence_length": sequence_length,
            }
        )
    return artifact.read(out, "shards")


def _parents(corpus: Artifact, tokenizer: Tokenizer) -> list[Artifact]:
    manifest = tokenizer.folder / artifact.MANIFEST
    return [corpus, artifact.read(tokenizer.folder)] if manifest.is_file() else [corpus]


def _encoded(
    samples: Shards, split: str, columns: list[str], tokenizer: Tokenizer, limit: int | None, recorder: Recorder
) -> Iterator[tuple[list[Tokens], Columns, int]]:
    """Documents as tokens with their other columns and their bytes of text, some million characters at a time."""
    held: list[Columns] = []
    texts: list[str] = []
    characters = 0

    def encode() -> tuple[list[Tokens], Columns, int]:
        with recorder.state(State.TOKENISE):
            tokens = tokenizer.encode_batch(texts, limit)
        others: Columns = {name: np.concatenate([cast(Any, block[name]) for block in held]) for name in columns}
        return tokens, others, sum(len(text.encode()) for text in texts)

    for block in samples.blocks(split, ["text", *columns]):
        held.append(block)
        texts += cast("list[str]", block["text"])
        characters += sum(map(len, block["text"]))
        if characters >= _BATCH_CHARACTERS:
            yield encode()
            held, texts, characters = [], [], 0
    if texts:
        yield encode()


def _rows(
    encoded: Iterator[tuple[list[Tokens], Columns, int]], end_of_text: int, length: int
) -> Iterator[tuple[Columns, int, int]]:
    """The stream of all documents in rows of length + 1, neighbours sharing a token."""
    rest: Any = None
    for documents, _, size in encoded:
        end = np.array([end_of_text], documents[0].dtype)
        parts = [part for document in documents for part in (document, end)]
        stream = np.concatenate(parts if rest is None else [rest, *parts])
        count = len(stream) - (0 if rest is None else len(rest))
        number = max(0, len(stream) - 1) // length
        rows = np.empty((number, length + 1), stream.dtype)
        rows[:, :length] = stream[: number * length].reshape(number, length)
        rows[:, length] = stream[length : number * length + 1 : length]
        rest = stream[number * length :]
        yield {"tokens": rows}, count, size


def _samples(encoded: Iterator[tuple[list[Tokens], Columns, int]]) -> Iterator[tuple[Columns, int, int]]:
    """A row a document, beside its label."""
    for documents, others, size in encoded:
        yield {"tokens": documents, **others}, sum(map(len, documents)), size
