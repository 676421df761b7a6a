"""What every store can do, whatever protocol is behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO, Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a store: its path below the store's root, with `/`; `version` changes when its content does."""

    path: str
    """Printable: bytes of a name that are no UTF-8 are written as `\\xd6`."""
    bytes: int
    version: str
    problem: str | None = None
    """Why it cannot be read, where listing it shows so."""


class Store(Protocol):
    """A folder of files. Every method raises InputError, naming the file, when it is missing or unreadable."""

    url: str

    def list(self) -> list[Entry]:
        """All files below the root, sorted by path; those that cannot be read say so."""

    def read(self, path: str) -> bytes: ...

    def stream(self, path: str) -> BinaryIO:
        """The file from its first byte on, read as it is consumed."""

    def write(self, path: str, content: bytes) -> None:
        """Replace a file: readers see the old content or the new, never a part."""
