"""From a source to a corpus: read, cleaned, deduplicated, split, written as shards."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from fullbore import store
from fullbore.base.errors import InputError
from fullbore.base.files import full_disk, remove_drafts
from fullbore.base.units import format_share
from fullbore.data.clean import SPLITS, Sieve
from fullbore.data.columns import Column, Columns, Schema
from fullbore.data.labels import require_classes
from fullbore.data.sample import Bad, Sample
from fullbore.data.shards import Writer, open_shard, write_shard
from fullbore.data.sources import csv, idx, images, jsonl, text
from fullbore.data.sources.read import Tally
from fullbore.data.sources.select import detect, of_format, select
from fullbore.record import artifact
from fullbore.record.artifact import Artifact
from fullbore.record.ledger import State
from fullbore.record.progress import Progress
from fullbore.record.span import Recorder
from fullbore.spec.data import DataSection
from fullbore.spec.model import TaskSection

VERSION = 3
_SOURCES: dict[str, Callable[..., Iterator[Sample | Bad]]] = {
    "text": text.samples,
    "jsonl": jsonl.samples,
    "csv": csv.samples,
    "images": images.samples,
    "idx": idx.samples,
}
_SHAPED = ("features", "pixels")
_TOLD_EVERY = 256


@dataclass(frozen=True)
class Source:
    """The files that a section asks for, and the format they are read as."""

    place: store.Store
    entries: list[store.Entry]
    format: str


def find(section: DataSection) -> Source:
    """Look at the source without reading a file. Raises InputError: nothing there, or no telling what it is."""
    try:
        place = store.open(section.source)
        entries = select(place.list(), section.include, section.exclude)
        if not entries:
            raise InputError(
                f"{section.source}: no files to read", hint="check data.source, data.include and data.exclude"
            )
        form = section.format if section.format != "auto" else detect(entries, section.source)
        chosen = of_format(entries, form, section.source, bool(section.include))
        for entry in chosen:
            if entry.problem is not None:
                raise InputError(
                    f"{section.source}: {entry.path}: cannot be read ({entry.problem})",
                    hint="check where it leads and who may read it, or leave it out with data.exclude",
                )
        return Source(place, chosen, form)
    except InputError as error:
        raise InputError(f"data.source: {error.message}", hint=error.hint) from None


def fingerprint(section: DataSection, source: Source | None = None) -> str:
    """A key that changes when a file's name, size or version does, or a setting; no file is read.

    `source`: what `find` saw, if it was asked already.
    """
    found = source or find(section)
    files = [(entry.path, entry.bytes, entry.version) for entry in found.entries]
    key = [VERSION, section.model_dump(mode="json"), found.format, files]
    return xxhash.xxh3_128_hexdigest(json.dumps(key, sort_keys=True).encode())


def prepare(
    section: DataSection,
    task: TaskSection | None,
    out: Path,
    *,
    recorder: Recorder,
    progress: Progress,
    seed: int = 0,
    source: Source | None = None,
    sample_bytes: float = math.inf,
) -> Artifact:
    """Write the corpus that `section` asks for to `out`: all of it appears there, or nothing does.

    `source`: what `find` saw, if it was asked already. `sample_bytes`: stop once so many bytes of it were read; the
    corpus's `bytes_read` of its `source_bytes` say how much that was.
    Raises InputError (nothing to read, damaged files, more bad samples than the error budget, no training sample,
    labels that are no classes), RunFailed (disk full).
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_drafts(out.parent, out.name)
    with recorder.state(State.READ):
        found = source or find(section)
        with full_disk(out), artifact.create(out, "corpus") as draft:
            corpus = _Corpus(section, task, draft.folder, seed)
            tally = Tally(sum(entry.bytes for entry in found.entries))
            samples = _SOURCES[found.format](found.place, found.entries, section, tally)
            for number, sample in enumerate(itertools.islice(samples, section.limit)):
                corpus.add(sample)
                if tally.done >= sample_bytes:
                    break
                if number % _TOLD_EVERY == 0:
                    progress("read", tally.done, tally.total or None, "B", detail=f"{corpus.sieve.kept:,} samples kept")
            with recorder.state(State.PACK):
                draft.info.update(corpus.finish(whole=next(samples, None) is None))
                draft.info.update(source_format=found.format, source_bytes=tally.total, bytes_read=tally.done)
            progress("read", tally.done, tally.done, "B", detail=f"{corpus.sieve.kept:,} samples kept")
    return artifact.read(out, "corpus")


class _Corpus:
    """Samples on their way into the shards of their splits."""

    def __init__(self, section: DataSection, task: TaskSection | None, folder: Path, seed: int) -> None:
        self.sieve = Sieve(
            section.normalise, section.deduplicate, section.minimum_characters, section.validation, section.test, seed
        )
        self._section, self._task, self._folder = section, task, folder
        self._schema: dict[str, Column] = {}
        self._writers: dict[str, Writer] = {}
        self._classes: dict[str, int] = {}
        self._class_counts: Counter[tuple[str, int]] = Counter()

    def add(self, sample: Sample | Bad) -> None:
        found = self.sieve.keep(self._checked(sample))
        if found is None:
            return
        split, kept = found
        block: Columns = {"id": [kept.id]}
        for name, value in kept.values.items():
            if name == "label":
                index = self._classes.setdefault(value, len(self._classes))
                self._class_counts[split, index] += 1
                block["label"] = np.array([index], np.int64)
            else:
                block[name] = [value] if isinstance(value, str) else np.asarray(value)[None]
        self._writers[split].write(block)

    def _checked(self, sample: Sample | Bad) -> Sample | Bad:
        """The sample with its target, if it has the same columns and shapes as the first one."""
        if isinstance(sample, Bad):
            return sample
        values = sample.values
        if self._task is not None and self._task.kind == "regression" and "label" in values:
            try:
                target = float(values["label"])
            except ValueError:
                target = math.nan
            if not math.isfinite(target):
                return Bad(sample.id, f"label {values['label'][:40]!r} is not a number")
            rest = {name: value for name, value in values.items() if name != "label"}
            values = {**rest, "target": np.float32(target)}
        if not self._schema:
            self._begin(values)
        for name in _SHAPED:
            if name in values and values[name].shape != self._schema[name].shape:
                expected, found = self._schema[name].shape or (), values[name].shape
                hint = " (data.image_size brings them to one size)" if name == "pixels" else ""
                return Bad(sample.id, f"{name} {_by(found)}, expected {_by(expected)} as the first{hint}")
        return Sample(sample.id, values, sample.split)

    def _begin(self, values: dict[str, Any]) -> None:
        self._require(values)
        self._schema = {"id": Column("id", "str", None)}
        for name, value in values.items():
            match name:
                case "text":
                    self._schema[name] = Column("text", "str", None)
                case "label":
                    self._schema[name] = Column("label", "int64")
                case "target":
                    self._schema[name] = Column("target", "float32")
                case "features":
                    self._schema[name] = Column("features", "float32", value.shape)
                case _:
                    self._schema[name] = Column("pixels", "uint8", value.shape)
        self._writers = {
            split: Writer(self._folder, split, self._schema, self._section.shard_bytes) for split in SPLITS
        }

    def _require(self, values: dict[str, Any]) -> None:
        kind = self._task.kind if self._task is not None else None
        where = self._section.source
        if kind in ("classification", "regression") and not {"label", "target"} & values.keys():
            raise InputError(
                f"{where}: no labels for task.kind = {kind!r}", hint="say which column or field holds them: data.label"
            )
        if kind in ("causal_lm", "masked_lm") and "text" not in values:
            raise InputError(
                f"{where}: no text for task.kind = {kind!r}, found {', '.join(values)}",
                hint="say which column or field holds it: data.text",
            )
        if self._section.standardise and "features" not in values:
            raise InputError(f"{where}: data.standardise is for numeric columns, found {', '.join(values)}")

    def finish(self, *, whole: bool) -> dict[str, Any]:
        """Write what is left; the corpus's info. `whole`: the source holds no more samples than were added."""
        self._require_good()
        if self._task is not None and self._task.kind == "classification":
            require_classes(self._totals(), whole=whole)
        splits = {split: writer.finish() for split, writer in self._writers.items()}
        if not splits["train"]:
            raise InputError(
                f"{self._section.source}: none of {self.sieve.kept:,} samples is for training",
                hint="give more data, or lower data.validation and data.test",
            )
        names = sorted(self._classes, key=_natural)
        self._settle(splits, names)
        statistics = _statistics(self._folder, self._schema, splits["train"]) if self._section.standardise else None
        if statistics is not None:
            for entry in itertools.chain.from_iterable(splits.values()):
                entry.update(_rewrite(self._folder / entry["file"], self._schema, partial(_scaled, statistics)))
        counts = {split: [self._class_counts[split, self._classes[name]] for name in names] for split in SPLITS}
        return {
            "splits": splits,
            "columns": {name: column.to_json() for name, column in self._schema.items()},
            "classes": names or None,
            "class_counts": counts["train"] if names else None,
            "class_counts_by_split": counts if names else None,
            "statistics": statistics,
            **self.sieve.counts(),
        }

    def _settle(self, splits: dict[str, list[dict[str, Any]]], names: list[str]) -> None:
        """Number the classes in the order of `names`; without a task to say what they are for, numbers among them
        become targets, too."""
        ranks = np.zeros(len(names), np.int64)
        for rank, name in enumerate(names):
            ranks[self._classes[name]] = rank
        values = np.array([_natural(name)[1] for name in names], np.float32)
        numbers = self._task is None and names and all(_natural(name)[0] == 0 for name in names)
        if not numbers and np.array_equal(ranks, np.arange(len(ranks))):
            return

        def settled(block: Any) -> Columns:
            label = ranks[block["label"]]
            return {**block, "label": label, **({"target": values[label]} if numbers else {})}

        before = dict(self._schema)
        if numbers:
            self._schema["target"] = Column("target", "float32")
        for entry in itertools.chain.from_iterable(splits.values()):
            entry.update(_rewrite(self._folder / entry["file"], before, settled, self._schema))

    def _totals(self) -> dict[str, int]:
        """Samples by class, in all splits together."""
        return {
            name: sum(self._class_counts[split, index] for split in SPLITS) for name, index in self._classes.items()
        }

    def _require_good(self) -> None:
        sieve, where = self.sieve, self._section.source
        bad = [f"{entry['id']}: {entry['reason']}" for entry in sieve.quarantined[:5]]
        if sieve.quarantined_count > self._section.error_budget * sieve.read:
            more = (
                f"\n  … and {sieve.quarantined_count - len(bad):,} more" if sieve.quarantined_count > len(bad) else ""
            )
            raise InputError(
                f"{where}: {sieve.quarantined_count:,} of {sieve.read:,} samples cannot be used, more than the error "
                f"budget of {format_share(self._section.error_budget)}:\n  " + "\n  ".join(bad) + more,
                hint="mend them, leave them out with data.exclude, or raise data.error_budget",
            )
        if not sieve.kept:
            raise InputError(
                f"{where}: the data set is empty ({sieve.read:,} samples read, {sieve.too_short:,} of them too short)",
                hint="check data.source, data.include and data.minimum_characters",
            )


def _by(shape: tuple[int, ...]) -> str:
    return "×".join(str(side) for side in shape)


def _natural(name: str) -> tuple[int, float, str]:
    """Numbers by value and before words."""
    try:
        value = float(name)
    except ValueError:
        return 1, 0.0, name
    return (0, value, name) if math.isfinite(value) else (1, 0.0, name)


def _statistics(folder: Path, schema: Schema, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and deviation of the training split, in float64 and two passes; constant columns keep a deviation of 1."""
    columns = [name for name in ("features", "target") if name in schema]
    shards = [open_shard(folder / entry["file"], schema) for entry in entries]
    rows = sum(int(entry["rows"]) for entry in entries)
    means = {c: sum(shard[c].values.sum(0, np.float64) for shard in shards) / rows for c in columns}
    squares = {c: sum(((shard[c].values - means[c]) ** 2).sum(0) for shard in shards) / rows for c in columns}
    deviations = {c: np.where(square > 0, np.sqrt(square), 1.0) for c, square in squares.items()}
    return {
        "mean": means["features"].tolist(),
        "deviation": deviations["features"].tolist(),
        "target_mean": float(means["target"]) if "target" in schema else None,
        "target_deviation": float(deviations["target"]) if "target" in schema else None,
    }


def _rewrite(
    path: Path, schema: Schema, change: Callable[[Columns], Columns], become: Schema | None = None
) -> dict[str, Any]:
    """Write a shard again with its columns changed, in the schema that they `become`; its new entry."""
    views = open_shard(path, schema)
    rows = np.arange(views["id"].rows)
    beside = path.with_suffix(".next")
    entry = write_shard(beside, become or schema, [change({name: view.take(rows) for name, view in views.items()})])
    os.replace(beside, path)
    return {**entry, "file": path.name}


def _scaled(statistics: dict[str, Any], block: Any) -> Columns:
    """Features, and a target, standardised."""
    scaled = {"features": (block["features"] - np.array(statistics["mean"])) / np.array(statistics["deviation"])}
    if "target" in block:
        scaled["target"] = (block["target"] - statistics["target_mean"]) / statistics["target_deviation"]
    return {**block, **scaled}
