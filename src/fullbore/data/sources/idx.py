"""IDX (http://yann.lecun.com/exdb/mnist), .gz too: pairs of …images-idx3-ubyte and …labels-idx1-ubyte.

Of the MNIST convention's four files the t10k pair is the test split. It is read last, so that a limit cuts it first.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from math import prod
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from fullbore.base.errors import InputError
from fullbore.data.decode import resize
from fullbore.data.sample import Bad, Sample
from fullbore.data.sources.read import Tally
from fullbore.data.sources.select import IDX
from fullbore.spec.data import DataSection
from fullbore.store import Entry, Store

_UBYTE = 8


def samples(store: Store, entries: list[Entry], section: DataSection, tally: Tally) -> Iterator[Sample | Bad]:
    for images, labels in _pairs(store, entries):
        pixels, classes = _read(store, images, (3, 4)), _read(store, labels, (1,))
        before, held = tally.done, images.bytes + labels.bytes
        if len(pixels) != len(classes):
            raise InputError(
                f"{store.url}: {len(pixels)} images in {images.path}, {len(classes)} labels in {labels.path}"
            )
        channels = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
        split = "test" if _for_testing(images) else None
        for row, (image, label) in enumerate(zip(channels, classes.tolist(), strict=True), 1):
            tally.done = before + held * row // len(classes)
            yield Sample(
                f"{images.path}#{row}", {"pixels": resize(image, section.image_size), "label": str(label)}, split
            )


def _pairs(store: Store, entries: list[Entry]) -> list[tuple[Entry, Entry]]:
    found: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        match = IDX.fullmatch(entry.path.removesuffix(".gz"))
        if match is None:
            raise InputError(f"{store.url}: {entry.path}: expected a name such as train-images-idx3-ubyte(.gz)")
        found[match[1], match[2]] = entry
    for prefix, what in found:
        other = "labels" if what == "images" else "images"
        if (prefix, other) not in found:
            raise InputError(f"{store.url}: {found[prefix, what].path} without its {other} file")
    pairs = [(entry, found[prefix, "labels"]) for (prefix, what), entry in found.items() if what == "images"]
    return sorted(pairs, key=lambda pair: _for_testing(pair[0]))


def _for_testing(images: Entry) -> bool:
    return PurePosixPath(images.path).name.startswith(("t10k", "test"))


def _read(store: Store, entry: Entry, dimensions: tuple[int, ...]) -> NDArray[np.uint8]:
    where = f"{store.url}: {entry.path}"
    content = store.read(entry.path)
    try:
        data = gzip.decompress(content) if entry.path.endswith(".gz") else content
        zeros, kind, rank = struct.unpack_from(">HBB", data)
        shape = struct.unpack_from(f">{rank}I", data, 4)
    except (EOFError, zlib.error, OSError, struct.error) as error:
        raise InputError(f"{where}: not a whole IDX file ({error})", hint="fetch it again") from None
    if zeros != 0 or kind != _UBYTE or rank not in dimensions:
        raise InputError(
            f"{where}: not IDX of unsigned bytes in {dimensions} dimensions (type {kind}, {rank} dimensions)"
        )
    found, expected = len(data) - 4 - 4 * rank, prod(shape)
    if found != expected:
        raise InputError(f"{where}: {found:,} bytes of data, expected {expected:,} (truncated)", hint="fetch it again")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)
