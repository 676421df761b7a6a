"""Writing so that nothing is ever half written: write beside, fsync, rename."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fullbore.base.errors import RunFailed

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
_DRAFT = re.compile(r"\.(.+)\.([0-9]+)(\.old)?\.tmp", re.DOTALL)
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def sync_directory(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace `path` by `content`; a reader or a crash sees the old file or the new one, never a part."""
    data = content.encode() if isinstance(content, str) else content
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


@contextmanager
def folder_atomic(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Fill a folder beside `path` and, if the block succeeds, make it durable and move it to `path`.

    An older folder at `path` is replaced, or, without `replace`, kept: FileExistsError. If the block raises, the draft
    is removed and `path` is as before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        yield draft
        for root, _, names in os.walk(draft):
            for name in names:
                sync_file(Path(root, name))
            sync_directory(Path(root))
        _move(draft, path, replace)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    sync_directory(path.parent)


def _move(draft: Path, path: Path, replace: bool) -> None:
    """Put `draft` at `path`; where the system can swap names, one whole folder is there wherever a kill falls."""
    try:
        os.replace(draft, path)
        return
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        if not replace:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
    if _exchange(draft, path):
        _remove(draft)
        return
    old = path.with_name(f".{path.name}.{os.getpid()}.old.tmp")
    os.replace(path, old)
    os.replace(draft, path)
    _remove(old)


def _exchange(one: Path, two: Path) -> bool:
    """Swap two names in one step; False where the system cannot (Linux: renameat2(2))."""
    import ctypes

    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(two), _RENAME_EXCHANGE) == 0)


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        entry.unlink(missing_ok=True)


def remove_drafts(folder: Path, name: str | None = None) -> None:
    """Remove what interrupted `folder_atomic` and `write_atomic` calls of dead processes left in `folder`.

    `name`: only what they left of this file or folder, where others keep their own things beside it.
    """
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        match = _DRAFT.fullmatch(entry.name)
        if match is None or name not in (None, match[1]):
            continue
        if int(match[2]) == os.getpid() or not Path(f"/proc/{match[2]}").exists():
            _remove(entry)


def link_tree(source: Path, target: Path) -> None:
    """Make `target` a second name for the write-once files of `source`: hard links, copies across file systems."""

    def link(origin: str, copy: str) -> None:
        try:
            os.link(origin, copy)
        except OSError:
            shutil.copy2(origin, copy)

    with folder_atomic(target) as draft:
        shutil.copytree(source, draft, copy_function=link, dirs_exist_ok=True)


@contextmanager
def full_disk(path: Path, needed: int | None = None) -> Iterator[None]:
    """Where the block fails for want of space, raise RunFailed naming `path`, the bytes it needs and those there."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        folder = next(parent for parent in path.absolute().parents if parent.is_dir())
        wanted = f"{needed:,} bytes are needed" if needed is not None else "more is needed"
        raise RunFailed(
            f"{path}: no space left ({wanted}, {shutil.disk_usage(folder).free:,} bytes are free; {error.strerror})",
            hint="free some space or choose another disk, then run it again: what was there before is whole",
        ) from None
