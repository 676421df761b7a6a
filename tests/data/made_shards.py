"""Shards made for tests: row n has the label n."""

from pathlib import Path

import numpy as np

from fullbore.data.columns import Column, Columns
from fullbore.data.shards import Shards, Writer
from fullbore.record import artifact


def labelled(folder: Path, rows: int, shard_bytes: int = 1 << 20, tokens: bool = False) -> Shards:
    schema = {"features": Column("features", "float32", (4,)), "label": Column("label", "int64")}
    if tokens:
        schema["tokens"] = Column("tokens", "uint16", None)
    with artifact.create(folder, "corpus") as draft:
        writer = Writer(draft.folder, "train", schema, shard_bytes)
        for number in range(rows):
            block: Columns = {
                "features": np.random.default_rng(number).normal(size=(1, 4)).astype(np.float32),
                "label": np.array([number]),
            }
            if tokens:
                block["tokens"] = [np.arange(number, dtype=np.uint16)]
            writer.write(block)
        draft.info["splits"] = {"train": writer.finish(), "validation": []}
        draft.info["columns"] = {name: column.to_json() for name, column in schema.items()}
    return Shards(folder)
