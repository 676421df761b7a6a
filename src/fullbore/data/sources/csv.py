"""CSV (comma) and TSV (tab), .gz and .zst too: a column of text, or numeric columns as features; perhaps a label."""

from __future__ import annotations

import csv
import difflib
import io
import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fullbore.base.errors import InputError
from fullbore.data.sample import Bad, Sample
from fullbore.data.sources.read import Tally, opened
from fullbore.spec.data import DataSection
from fullbore.store import Entry, Store

_LARGEST_FIELD = 2**31 - 1
_INVALID = re.compile("[\udc80-\udcff]")
"""Bytes that are not UTF-8, as surrogateescape reads them."""


@dataclass(frozen=True)
class Layout:
    """Where things stand in a row: the label's column, the text's column, else the columns of features."""

    names: tuple[str, ...]
    label: int | None
    text: int | None
    features: tuple[int, ...]


def samples(store: Store, entries: list[Entry], section: DataSection, tally: Tally) -> Iterator[Sample | Bad]:
    csv.field_size_limit(_LARGEST_FIELD)
    first: Layout | None = None
    for entry in entries:
        with opened(store, entry, tally) as stream:
            text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
            rows = csv.reader(text, delimiter="\t" if ".tsv" in entry.path else ",")
            begun = _layout(rows, section, f"{store.url}: {entry.path}")
            if begun is None:
                continue
            layout, begin = begun
            first = first or layout
            if layout.names != first.names:
                raise InputError(
                    f"{store.url}: {entry.path}: columns {', '.join(layout.names)}, "
                    f"expected {', '.join(first.names)} as in {entries[0].path}",
                    hint="give files with the same columns, or narrow them with data.include",
                )
            yield from _rows(itertools.chain(begin, _numbered(rows)), layout, entry.path)


def _numbered(rows: Iterator[list[str]]) -> Iterator[tuple[int, list[str] | str]]:
    """Rows with the number of their last line; a row that is not CSV as the reason."""
    while True:
        try:
            row: list[str] | str = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            row = str(error)
        yield rows.line_num, row  # type: ignore[attr-defined]


def _layout(
    rows: Iterator[list[str]], section: DataSection, where: str
) -> tuple[Layout, list[tuple[int, list[str] | str]]] | None:
    """The layout by the first row, and that row again if it is one of data; none if the file is empty."""
    first = next((found for found in _numbered(rows) if found[1]), None)
    if first is None:
        return None
    row = first[1]
    if isinstance(row, str):
        raise InputError(f"{where}: not CSV: {row}")
    if section.header and _invalid(row):
        raise InputError(
            f"{where}: the column names are not UTF-8", hint="convert the file: iconv -f GB18030 -t UTF-8, for example"
        )
    names = tuple(name.strip() for name in row) if section.header else tuple(str(n) for n in range(len(row)))
    label = None if section.label is None else _column(section.label, names, where)
    text = names.index(section.text) if section.text in names else None
    features = tuple(n for n in range(len(names)) if n != label)
    return Layout(names, label, text, features), ([] if section.header else [first])


def _invalid(row: list[str]) -> bool:
    return any(not cell.isascii() and _INVALID.search(cell) for cell in row)


def _column(label: str, names: tuple[str, ...], where: str) -> int:
    if label in names:
        return names.index(label)
    if label in ("first", "last"):
        return 0 if label == "first" else len(names) - 1
    close = difflib.get_close_matches(label, names, 1)
    raise InputError(
        f"{where}: data.label: no column {label!r}, the columns are {', '.join(names[:20])}",
        hint=f"did you mean {close[0]!r}?" if close else 'name one of them, or say "first" or "last"',
    )


def _rows(rows: Iterator[tuple[int, list[str] | str]], layout: Layout, path: str) -> Iterator[Sample | Bad]:
    for number, row in rows:
        name = f"{path}#{number}"
        if isinstance(row, str):
            yield Bad(name, f"not CSV: {row}")
        elif not row:
            continue
        elif len(row) != len(layout.names):
            yield Bad(name, f"{len(row)} columns, expected {len(layout.names)}")
        elif _invalid(row):
            yield Bad(name, "invalid UTF-8")
        else:
            yield _sample(name, row, layout)


def _sample(name: str, row: list[str], layout: Layout) -> Sample | Bad:
    values: dict[str, object] = {}
    if layout.label is not None:
        values["label"] = row[layout.label].strip()
        if not values["label"]:
            return Bad(name, f"no label in column {layout.names[layout.label]!r}")
    if layout.text is not None:
        return Sample(name, {"text": row[layout.text], **values})
    numbers = []
    for column in layout.features:
        try:
            number = float(row[column])
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            return Bad(name, f"column {layout.names[column]!r}: {row[column][:40]!r} is not a number")
        numbers.append(number)
    return Sample(name, {"features": np.array(numbers, np.float32), **values})
