"""JSON lines, .gz and .zst too: an object a line, with a field of text and perhaps one of a label."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from fullbore.data.sample import Bad, Sample
from fullbore.data.sources.read import Tally, opened
from fullbore.spec.data import DataSection
from fullbore.store import Entry, Store


def samples(store: Store, entries: list[Entry], section: DataSection, tally: Tally) -> Iterator[Sample | Bad]:
    for entry in entries:
        with opened(store, entry, tally) as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield _sample(f"{entry.path}#{number}", line, section)


def _sample(name: str, line: bytes, section: DataSection) -> Sample | Bad:
    try:
        found: Any = json.loads(line.decode("utf-8-sig").strip())
    except UnicodeDecodeError as error:
        return Bad(name, f"invalid UTF-8 at byte {error.start} of the line")
    except (ValueError, RecursionError) as error:
        return Bad(name, f"not JSON: {error}")
    if not isinstance(found, dict):
        return Bad(name, f"found a JSON {type(found).__name__}, expected an object")
    text = found.get(section.text)
    if not isinstance(text, str):
        there = ", ".join(list(found)[:8]) or "none"
        return Bad(name, f"no text in field {section.text!r} (fields: {there})")
    if section.label is None:
        return Sample(name, {"text": text})
    label = found.get(section.label)
    if not isinstance(label, str | int | float):
        return Bad(name, f"no label in field {section.label!r}")
    return Sample(name, {"text": text, "label": str(label)})
