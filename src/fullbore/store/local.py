"""Folders of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fullbore.base.errors import InputError
from fullbore.base.files import write_atomic
from fullbore.store.interface import Entry


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror})", hint="check that it exists and who may read it"
        ) from None


class LocalStore:
    """A folder (or one file of it, `only`); folders called one of `skip` are not looked into."""

    def __init__(self, root: Path, *, only: str | None = None, skip: frozenset[str] = frozenset()) -> None:
        self.url = str(root / only) if only else str(root)
        self._root = root
        self._only = only
        self._skip = skip

    def list(self) -> list[Entry]:
        if self._only is not None:
            return [self._entry(self._root / self._only)]
        paths: list[Path] = []
        for folder, folders, names in os.walk(self._root, onerror=_refuse):
            folders[:] = [name for name in folders if name not in self._skip]
            paths += [Path(folder, name) for name in names]
        return sorted((self._entry(path) for path in paths), key=lambda entry: entry.path)

    def _entry(self, path: Path) -> Entry:
        with _named(path):
            status = path.stat()
        return Entry(path.relative_to(self._root).as_posix(), status.st_size, str(status.st_mtime_ns))

    def read(self, path: str) -> bytes:
        with _named(self._root / path):
            return (self._root / path).read_bytes()

    def read_range(self, path: str, start: int, end: int) -> bytes:
        with _named(self._root / path), open(self._root / path, "rb") as file:
            file.seek(start)
            return file.read(end - start)

    def stream(self, path: str) -> BinaryIO:
        with _named(self._root / path):
            return open(self._root / path, "rb")

    def write(self, path: str, content: bytes) -> None:
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, content)

    def local_path(self, path: str) -> Path | None:
        return self._root / path


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be read ({error.strerror})", hint="check who may read it") from None
