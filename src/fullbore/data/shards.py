"""Shards: Arrow IPC files of samples by split, each one record batch, beside a manifest that says rows, bytes and xxh3.

pyarrow, polars and duckdb open them without us. Reading maps the files into memory: a shard is opened at its first use,
and a row is found by its number in the split alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fullbore.base.errors import CorruptError, InputError
from fullbore.base.files import full_disk
from fullbore.data.columns import Column, Columns, Schema, View, size, to_arrow
from fullbore.record import artifact
from fullbore.record.artifact import Artifact

_LARGEST = 1 << 30


def write_shard(path: Path, schema: Schema, blocks: Sequence[Columns]) -> dict[str, Any]:
    """Write one shard; its entry for the manifest. Raises RunFailed when the disk is full."""
    batch = to_arrow(schema, blocks)
    with (
        full_disk(path, batch.nbytes),
        pa.OSFile(str(path), "wb") as file,
        pa.ipc.new_file(file, batch.schema) as writer,
    ):
        writer.write_batch(batch)
    return {"file": path.name, "rows": batch.num_rows, "bytes": path.stat().st_size}


class Writer:
    """Collects rows of one split and writes a shard whenever about `shard_bytes` have come together."""

    def __init__(self, folder: Path, split: str, schema: Schema, shard_bytes: int) -> None:
        self.entries: list[dict[str, Any]] = []
        self._folder, self._split, self._schema = folder, split, schema
        self._limit = min(shard_bytes, _LARGEST)
        self._blocks: list[Columns] = []
        self._bytes = 0

    def write(self, block: Columns) -> None:
        """Add rows; a block larger than the room left in a shard goes on in the next."""
        rows = len(next(iter(block.values())))
        each = sum(size(column) for column in block.values()) / max(1, rows)
        begin = 0
        while begin < rows:
            end = min(rows, begin + max(1, int((self._limit - self._bytes) / max(1.0, each))))
            self._blocks.append({name: column[begin:end] for name, column in block.items()})
            self._bytes += int(each * (end - begin))
            begin = end
            if self._bytes + each > self._limit:
                self._flush()

    def finish(self) -> list[dict[str, Any]]:
        """Write what is left; the entries of all shards."""
        if self._blocks:
            self._flush()
        return self.entries

    def _flush(self) -> None:
        path = self._folder / f"{self._split}-{len(self.entries):05d}.arrow"
        self.entries.append(write_shard(path, self._schema, self._blocks))
        self._blocks, self._bytes = [], 0


def open_shard(path: Path, schema: Schema) -> dict[str, View]:
    """A shard's columns, mapped into memory. Raises CorruptError naming the shard."""
    try:
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        return {name: View.of(column, batch.column(name)) for name, column in schema.items()}
    except (pa.ArrowInvalid, OSError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CorruptError(f"{path}: not a whole shard ({reason})", hint="remove the folder and run again") from None


@dataclass(frozen=True)
class _Split:
    files: tuple[str, ...]
    begins: NDArray[np.int64]
    """First row of each shard, and the number of rows at the end."""


class Shards:
    """A `corpus` or `shards` artifact, open for reading by any number of threads."""

    def __init__(self, source: Artifact | Path | str) -> None:
        self.artifact = source if isinstance(source, Artifact) else artifact.read(Path(source))
        self.info = self.artifact.info
        if "splits" not in self.info or "columns" not in self.info:
            raise InputError(
                f"{self.artifact.folder}: a {self.artifact.kind} holds no samples, expected corpus or shards"
            )
        self.columns: Schema = {name: Column.from_json(value) for name, value in self.info["columns"].items()}
        self._splits = {
            split: _Split(
                tuple(entry["file"] for entry in entries),
                np.concatenate([[0], np.cumsum([entry["rows"] for entry in entries], dtype=np.int64)]).astype(np.int64),
            )
            for split, entries in self.info["splits"].items()
        }
        self._open: dict[str, dict[str, View]] = {}
        self._lock = threading.Lock()

    @property
    def digest(self) -> str:
        return self.artifact.digest

    def rows(self, split: str) -> int:
        return int(self._split(split).begins[-1])

    def gather(self, split: str, ids: NDArray[np.int64], columns: Sequence[str] | None = None) -> Columns:
        """The rows `ids` (int64 [n], in [0, rows)) of a split, in that order; all columns but the ids unless named."""
        found = self._split(split)
        ids = np.asarray(ids, np.int64)
        if len(ids) and (ids.min() < 0 or ids.max() >= found.begins[-1]):
            raise IndexError(f"ids {ids.min()}..{ids.max()} of {found.begins[-1]} rows in {split}")
        names = columns if columns is not None else [n for n, column in self.columns.items() if column.kind != "id"]
        homes = np.searchsorted(found.begins, ids, "right") - 1
        result = {name: _empty(self.columns[name], len(ids)) for name in names}
        for home in np.unique(homes).tolist():
            places = np.flatnonzero(homes == home)
            views = self._shard(found.files[home])
            for name in names:
                _place(result[name], places, views[name].take(ids[places] - found.begins[home]))
        return result

    def texts(self, split: str) -> Iterator[str]:
        """The text of every sample of a split, in order."""
        for block in self.blocks(split, ["text"]):
            yield from cast("list[str]", block["text"])

    def blocks(self, split: str, columns: Sequence[str] | None = None, rows: int = 256) -> Iterator[Columns]:
        """All rows of a split in order, at most `rows` at a time."""
        total = self.rows(split)
        for begin in range(0, total, rows):
            yield self.gather(split, np.arange(begin, min(begin + rows, total)), columns)

    def _split(self, split: str) -> _Split:
        if split not in self._splits:
            raise InputError(f"{self.artifact.folder}: no split {split!r}, there are {', '.join(self._splits)}")
        return self._splits[split]

    def _shard(self, name: str) -> dict[str, View]:
        views = self._open.get(name)
        if views is None:
            with self._lock:
                views = self._open.get(name)
                if views is None:
                    views = self._open[name] = open_shard(self.artifact.path(name), self.columns)
        return views


def _empty(column: Column, rows: int) -> Any:
    if column.is_text or column.shape is None:
        return [None] * rows
    return np.empty((rows, *column.shape), column.dtype)


def _place(result: Any, places: NDArray[np.int64], cells: Any) -> None:
    if isinstance(result, np.ndarray):
        result[places] = cells
        return
    for place, cell in zip(places.tolist(), cells, strict=True):
        result[place] = cell
