"""Corpora and shards made for tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fullbore.data.columns import Column, Columns
from fullbore.data.shards import Shards, Writer
from fullbore.record import artifact
from fullbore.record.artifact import Artifact

Prepare = Callable[..., Artifact]


class Bytes:
    """A tokenizer whose tokens are the bytes of UTF-8."""

    vocabulary_size = 257
    end_of_text = 256
    folder = Path("/nowhere")

    def encode_batch(self, texts: list[str], limit: int | None = None) -> list[np.ndarray]:
        return [np.frombuffer(text.encode()[:limit], np.uint8).astype(np.uint16) for text in texts]


def to_tensors(columns: Columns, places: np.ndarray) -> dict[str, Any]:
    """Numbers as tensors, anything else as it is."""
    return {n: torch.from_numpy(block) if isinstance(block, np.ndarray) else block for n, block in columns.items()}


def everything(corpus: Artifact, split: str = "train") -> dict[str, list]:
    """All columns of a split, every row in order."""
    shards = Shards(corpus)
    names = list(shards.columns)
    return {n: list(v) for n, v in shards.gather(split, np.arange(shards.rows(split)), names).items()}


def labelled(folder: Path, rows: int, shard_bytes: int = 1 << 20, tokens: bool = False) -> Shards:
    """Rows of features; row n has the label n."""
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
