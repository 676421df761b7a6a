"""Files wherever they are: `store.open(url)` answers local folders, `python://stdlib` and S3 through one interface."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from fullbore.base.errors import InputError
from fullbore.store.interface import Entry, Store
from fullbore.store.local import LocalStore

__all__ = ["Entry", "Store", "open"]

_STDLIB_SKIP = frozenset({"site-packages", "dist-packages", "__pycache__"})


def open(url: str) -> Store:
    """The store at `url`: a folder, a file, `file://…`, `python://stdlib` (the standard library's source) or `s3://bucket/prefix`.

    Raises InputError if there is no such folder, file, protocol or bucket name.
    """
    if url.startswith("s3://"):
        from fullbore.store.s3 import S3Store

        return S3Store(url)
    if url == "python://stdlib":
        return LocalStore(Path(sysconfig.get_path("stdlib")), skip=_STDLIB_SKIP)
    if "://" in url and not url.startswith("file://"):
        raise InputError(f"{url}: no such protocol", hint="use a folder, a file, python://stdlib or s3://bucket/prefix")
    path = Path(url.removeprefix("file://")).expanduser()
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})", hint="check who may read it") from None
    if not exists:
        raise InputError(f"{path}: no such file or folder", hint=f"looked in {Path.cwd()}")
    return LocalStore(path) if is_folder else LocalStore(path.parent, only=path.name)
