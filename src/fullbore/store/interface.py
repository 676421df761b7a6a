"""What every store can do, whatever protocol is behind it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a store: its path below the store's root, with `/`; `version` changes when its content does."""

    path: str
    bytes: int
    version: str


class Store(Protocol):
    """A folder of files. Every method raises InputError, naming the file, when it is missing or unreadable."""

    url: str

    def list(self) -> list[Entry]:
        """All files below the root, sorted by path."""

    def read(self, path: str) -> bytes: ...

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Bytes `start` to `end` (exclusive); fewer where the file ends before."""

    def stream(self, path: str) -> BinaryIO:
        """The file from its first byte on, read as it is consumed."""

    def write(self, path: str, content: bytes) -> None:
        """Replace a file: readers see the old content or the new, never a part."""

    def local_path(self, path: str) -> Path | None:
        """Where the file lies on this machine, so that it can be mapped into memory; none if it does not."""
