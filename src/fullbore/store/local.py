"""Folders of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NoReturn

from fullbore.base.errors import InputError
from fullbore.base.files import write_atomic
from fullbore.store.interface import Entry


class LocalStore:
    """A folder (or one file of it, `only`); folders called one of `skip` are not looked into.

    Links are followed, to folders too, as `find -L` does: a folder inside itself is not entered again.
    """

    def __init__(self, root: Path, *, only: str | None = None, skip: frozenset[str] = frozenset()) -> None:
        self.url = _printable(root / only) if only else _printable(root)
        self._root = root
        self._only = only
        self._skip = skip
        self._odd: dict[str, Path] = {}
        """Files by their printable path, where that is not their name."""

    def list(self) -> list[Entry]:
        paths = self._files() if self._only is None else [self._root / self._only]
        return sorted((self._entry(path) for path in paths), key=lambda entry: entry.path)

    def _files(self) -> Iterator[Path]:
        around = {str(self._root): frozenset({_identity(self._root)})}
        for folder, folders, names in os.walk(self._root, onerror=_refuse, followlinks=True):
            above = around.pop(folder)
            inside = {name: _identity(Path(folder, name)) for name in folders if name not in self._skip}
            folders[:] = [name for name, identity in inside.items() if identity not in above]
            around |= {os.path.join(folder, name): above | {inside[name]} for name in folders}
            yield from (Path(folder, name) for name in names)

    def _entry(self, path: Path) -> Entry:
        inner = path.relative_to(self._root)
        name = _printable(inner)
        if name != inner.as_posix():
            self._odd[name] = path
        try:
            status = path.stat()
        except OSError as error:
            return Entry(name, 0, "", error.strerror)
        return Entry(name, status.st_size, str(status.st_mtime_ns))

    @contextmanager
    def _named(self, name: str) -> Iterator[Path]:
        try:
            yield self._odd.get(name, self._root / name)
        except OSError as error:
            raise InputError(
                f"{_printable(self._root)}/{name}: cannot be read ({error.strerror})",
                hint="check that it exists and who may read it",
            ) from None

    def read(self, path: str) -> bytes:
        with self._named(path) as file:
            return file.read_bytes()

    def stream(self, path: str) -> BinaryIO:
        with self._named(path) as file:
            return open(file, "rb")

    def write(self, path: str, content: bytes) -> None:
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, content)


def _printable(path: Path) -> str:
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = folder.stat()
    except OSError as error:
        _refuse(error)
    return status.st_dev, status.st_ino


def _refuse(error: OSError) -> NoReturn:
    raise InputError(
        f"{_printable(Path(error.filename))}: cannot be read ({error.strerror})", hint="check who may read it"
    ) from None
