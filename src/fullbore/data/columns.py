"""Columns of samples: what they hold, and their way into Arrow and out of it without copying."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Kind = Literal["id", "text", "label", "target", "features", "pixels", "tokens"]
Block = NDArray[Any] | list[NDArray[Any]] | list[str]
Columns = dict[str, Block]
"""Rows by column: fixed-size cells as one array [rows, ...], others as a list of arrays, text as a list of str."""


@dataclass(frozen=True)
class Column:
    """One column. `dtype`: a numpy name, or `str`. `shape`: of one cell; () is a number, none a list of any length."""

    kind: Kind
    dtype: str
    shape: tuple[int, ...] | None = ()

    @property
    def is_text(self) -> bool:
        return self.dtype == "str"

    def arrow(self) -> pa.DataType:
        if self.is_text:
            return pa.large_string()
        item = pa.from_numpy_dtype(np.dtype(self.dtype))
        if self.shape is None:
            return pa.large_list(item)
        return pa.list_(item, prod(self.shape)) if self.shape else item

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "dtype": self.dtype, "shape": None if self.shape is None else list(self.shape)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Column:
        shape = value["shape"]
        return cls(value["kind"], value["dtype"], None if shape is None else tuple(shape))


Schema = Mapping[str, Column]


def arrow_schema(schema: Schema) -> pa.Schema:
    return pa.schema([pa.field(name, column.arrow(), nullable=False) for name, column in schema.items()])


def size(block: Block) -> int:
    """Bytes that a block takes on disk."""
    if isinstance(block, np.ndarray):
        return block.nbytes
    return sum(len(cell) + 8 if isinstance(cell, str) else cell.nbytes + 8 for cell in block)


def to_arrow(schema: Schema, blocks: Sequence[Columns]) -> pa.RecordBatch:
    """One record batch of all the rows in `blocks`."""
    arrays = [_array(column, [block[name] for block in blocks]) for name, column in schema.items()]
    return pa.RecordBatch.from_arrays(arrays, schema=arrow_schema(schema))


def _array(column: Column, blocks: Sequence[Block]) -> pa.Array:
    if column.is_text:
        return pa.array([cell for block in blocks for cell in block], column.arrow())
    if column.shape is None:
        cells = [cell for block in blocks for cell in block]
        offsets = np.zeros(len(cells) + 1, np.int64)
        np.cumsum([len(cell) for cell in cells], out=offsets[1:])
        values = np.concatenate([np.empty(0, column.dtype), *cells])
        return pa.LargeListArray.from_arrays(offsets, pa.array(values), type=column.arrow())
    flat = np.concatenate([np.asarray(block, column.dtype).reshape(-1) for block in blocks])
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), type=column.arrow()) if column.shape else pa.array(flat)


@dataclass(frozen=True)
class View:
    """A column of a record batch as numpy views of its buffers."""

    column: Column
    values: NDArray[Any]
    offsets: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, column: Column, array: pa.Array) -> View:
        if column.is_text:
            _, offsets, data = array.buffers()
            values = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
            return cls(column, values, np.frombuffer(offsets, np.int64)[array.offset :][: len(array) + 1])
        if column.shape is None:
            return cls(column, array.values.to_numpy(), array.offsets.to_numpy())
        flat = array.values if column.shape else array
        return cls(column, flat.to_numpy().reshape(len(array), *column.shape))

    @property
    def rows(self) -> int:
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    def take(self, rows: NDArray[np.int64]) -> Block:
        """The cells at `rows`: a copy of fixed-size ones, views of the others, text decoded."""
        if self.offsets is None:
            taken: NDArray[Any] = self.values[rows]
            return taken
        begins, ends = self.offsets[rows].tolist(), self.offsets[rows + 1].tolist()
        cells = [self.values[begin:end] for begin, end in zip(begins, ends, strict=True)]
        return [cell.tobytes().decode() for cell in cells] if self.column.is_text else cells
