"""Cleaning: text made uniform, duplicates and short samples left out, every sample's split told by its content."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import xxhash

from fullbore.data.sample import Bad, Sample

Normalise = Literal["none", "nfc", "nfkc"]
SPLITS = ("train", "validation", "test")
_NAMED = 100
_NEWLINES = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u200b\u2060\ufeff\ufff9-\ufffb\ufffe\uffff]")


def clean(text: str, normalise: Normalise) -> str:
    """`text` in one Unicode form, with `\\n` as the only line end, without control characters and zero-width spaces.

    nfc composes (é of e and ´) and keeps full-width forms; nfkc also folds widths and compatibility forms:
    ＡＢＣ to ABC, ｶﾞ to ガ, ， to a comma, the ideographic space to a space. Joiners of scripts and emoji stay.
    "none" changes nothing at all.
    """
    if normalise == "none":
        return text
    return unicodedata.normalize("NFKC" if normalise == "nfkc" else "NFC", _CONTROLS.sub("", _NEWLINES.sub("\n", text)))


@dataclass
class Sieve:
    """Decides about samples one by one and counts what it decides; holds 16 bytes a sample kept."""

    normalise: Normalise
    deduplicate: bool
    minimum_characters: int
    validation: float
    test: float
    seed: int = 0
    read: int = 0
    kept: int = 0
    duplicates: int = 0
    too_short: int = 0
    quarantined_count: int = 0
    quarantined: list[dict[str, str]] = field(default_factory=list)
    text_bytes: Counter[str] = field(default_factory=Counter)
    _seen: set[bytes] = field(default_factory=set)

    def keep(self, sample: Sample | Bad) -> tuple[str, Sample] | None:
        """The split and the cleaned sample, or none if it is left out."""
        self.read += 1
        if isinstance(sample, Bad):
            self.quarantine(sample)
            return None
        values = sample.values
        if "text" in values:
            text = clean(values["text"], self.normalise)
            if len(text.strip()) < self.minimum_characters:
                self.too_short += 1
                return None
            values = {**values, "text": text}
        try:
            digest = content_digest(values)
        except UnicodeEncodeError as error:
            self.quarantine(Bad(sample.id, f"half a surrogate pair at character {error.start}"))
            return None
        if self.deduplicate:
            if digest in self._seen:
                self.duplicates += 1
                return None
            self._seen.add(digest)
        split = sample.split or self.split(digest)
        self.kept += 1
        self.text_bytes[split] += len(values["text"].encode()) if "text" in values else 0
        return split, Sample(sample.id, values, split)

    def quarantine(self, bad: Bad) -> None:
        self.quarantined_count += 1
        if len(self.quarantined) < _NAMED:
            self.quarantined.append({"id": bad.id, "reason": bad.reason})

    def split(self, digest: bytes) -> str:
        """The split of a content: a function of it and the seed alone, whatever else is in the data."""
        place = xxhash.xxh3_64_intdigest(digest, seed=self.seed) / 2**64
        if place < self.test:
            return "test"
        return "validation" if place < self.test + self.validation else "train"

    def counts(self) -> dict[str, Any]:
        return {
            "read": self.read,
            "kept": self.kept,
            "duplicates": self.duplicates,
            "too_short": self.too_short,
            "quarantined": self.quarantined,
            "quarantined_count": self.quarantined_count,
            "text_bytes": {split: self.text_bytes[split] for split in SPLITS},
        }


def content_digest(values: dict[str, Any]) -> bytes:
    """xxh3-128 of what makes a sample: its text, its pixels, or its features and label. Raises UnicodeEncodeError."""
    if "text" in values:
        return xxhash.xxh3_128_digest(values["text"].encode())
    if "pixels" in values:
        return xxhash.xxh3_128_digest(np.ascontiguousarray(values["pixels"]).data)
    return xxhash.xxh3_128_digest(values["features"].tobytes() + str(values.get("label", "")).encode())
