"""Text: every file is one document in UTF-8."""

from __future__ import annotations

from collections.abc import Iterator

from fullbore.data.sample import Bad, Sample
from fullbore.data.sources.read import Tally, ahead
from fullbore.spec.data import DataSection
from fullbore.store import Entry, Store


def samples(store: Store, entries: list[Entry], section: DataSection, tally: Tally) -> Iterator[Sample | Bad]:  # noqa: ARG001
    return ahead(store, entries, tally, _document)


def _document(entry: Entry, content: bytes) -> Sample | Bad:
    try:
        return Sample(f"{entry.path}#1", {"text": content.decode()})
    except UnicodeDecodeError as error:
        return Bad(f"{entry.path}#1", f"invalid UTF-8 at byte {error.start}")
