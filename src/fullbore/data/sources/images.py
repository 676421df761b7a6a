"""Images in folders named for their class; a first folder called train, validation, val or test says the split."""

from __future__ import annotations

from collections.abc import Iterator

from fullbore.base.errors import InputError
from fullbore.data.decode import decode
from fullbore.data.sample import Bad, Sample
from fullbore.data.sources.read import Tally, ahead
from fullbore.spec.data import DataSection
from fullbore.store import Entry, Store

_SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}


def samples(store: Store, entries: list[Entry], section: DataSection, tally: Tally) -> Iterator[Sample | Bad]:
    loose = [entry.path for entry in entries if "/" not in entry.path]
    if loose:
        raise InputError(
            f"{store.url}: {loose[0]} lies in no class folder", hint="put every image into a folder named for its class"
        )

    def sample(entry: Entry, content: bytes) -> Sample | Bad:
        folders = entry.path.split("/")[:-1]
        split = _SPLITS.get(folders[0]) if len(folders) > 1 else None
        try:
            pixels = decode(content, section.image_size)
        except ValueError as error:
            return Bad(f"{entry.path}#1", str(error))
        return Sample(f"{entry.path}#1", {"pixels": pixels, "label": folders[-1]}, split)

    return ahead(store, entries, tally, sample)
