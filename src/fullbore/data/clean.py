"""Cleaning: text made uniform, duplicates and short samples left out, every sample's split told by its inputs."""

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
    """Decides about samples one by one and counts what it decides.

    A duplicate has the inputs and the answer of a sample before it; the same inputs with another label are another
    sample, in the same split, and counted as conflicting. Holds 16 bytes a sample kept, and as many for its answer.
    """

    normalise: Normalise
    deduplicate: bool
    minimum_characters: int
    validation: float
    test: float
    seed: int = 0
    read: int = 0
    kept: int = 0
    duplicates: int = 0
    conflicting: int = 0
    too_short: int = 0
    quarantined_count: int = 0
    quarantined: list[dict[str, str]] = field(default_factory=list)
    text_bytes: Counter[str] = field(default_factory=Counter)
    _splits: dict[bytes, str] = field(default_factory=dict)
    """By the digest of inputs."""
    _answered: set[bytes] = field(default_factory=set)
    """Digests of inputs with their answer."""

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
            inputs, answer = _inputs(values), _answer(values)
        except UnicodeEncodeError as error:
            where = "" if error.object == values.get("text") else "label: "
            self.quarantine(Bad(sample.id, f"{where}half a surrogate pair at character {error.start}"))
            return None
        split = sample.split or self.split(inputs)
        if self.deduplicate:
            if self._repeats(inputs, answer):
                self.duplicates += 1
                return None
            self.conflicting += inputs in self._splits and "label" in values
            split = self._splits.setdefault(inputs, split)
        self.kept += 1
        self.text_bytes[split] += len(values["text"].encode()) if "text" in values else 0
        return split, Sample(sample.id, values, split)

    def _repeats(self, inputs: bytes, answer: bytes | None) -> bool:
        """Whether a sample like this one was kept before; from now on it was."""
        if answer is None:
            return inputs in self._splits
        known, whole = len(self._answered), xxhash.xxh3_128_digest(inputs + answer)
        self._answered.add(whole)
        return len(self._answered) == known

    def quarantine(self, bad: Bad) -> None:
        self.quarantined_count += 1
        if len(self.quarantined) < _NAMED:
            self.quarantined.append({"id": bad.id, "reason": bad.reason.encode("utf-8", "backslashreplace").decode()})

    def split(self, inputs: bytes) -> str:
        """The split of a digest: a function of it and the seed alone, whatever else is in the data."""
        place = xxhash.xxh3_64_intdigest(inputs, seed=self.seed) / 2**64
        if place < self.test:
            return "test"
        return "validation" if place < self.test + self.validation else "train"

    def counts(self) -> dict[str, Any]:
        return {
            "read": self.read,
            "kept": self.kept,
            "duplicates": self.duplicates,
            "conflicting": self.conflicting,
            "too_short": self.too_short,
            "quarantined": self.quarantined,
            "quarantined_count": self.quarantined_count,
            "text_bytes": {split: self.text_bytes[split] for split in SPLITS},
        }


def _inputs(values: dict[str, Any]) -> bytes:
    """xxh3-128 of what a model will read: the text, the pixels or the features. Raises UnicodeEncodeError."""
    if "text" in values:
        return xxhash.xxh3_128_digest(values["text"].encode())
    name = "pixels" if "pixels" in values else "features"
    return xxhash.xxh3_128_digest(np.ascontiguousarray(values[name]).data)


def _answer(values: dict[str, Any]) -> bytes | None:
    """What a model should say to them, if the data tell. Raises UnicodeEncodeError."""
    if "target" in values:
        return bytes(values["target"].tobytes())
    return str(values["label"]).encode() if "label" in values else None
