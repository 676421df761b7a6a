"""What the operating system refuses, as errors that name the file, the reason and the way out."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fullbore.base.errors import DoesNotFit, FullboreError, InputError, MachineLacks, RunFailed

_Refusal = tuple[type[FullboreError], str]

_PLACE: _Refusal = (InputError, "make its folder first, or name another place")
_IN_THE_WAY: _Refusal = (InputError, "a file is where a folder is needed: move it, or name another place")
_FORBIDDEN: _Refusal = (InputError, "name a place that you may write to, or have its permissions changed")
_UNFIT: _Refusal = (InputError, "name another file")
_FULL: _Refusal = (RunFailed, "free some space or choose another disk, then do it again")
_TOO_MANY: _Refusal = (MachineLacks, "raise the limit of open files (ulimit -n), then do it again")
_BROKEN: _Refusal = (RunFailed, "look after the disk, or choose another, then do it again")

_REFUSALS: dict[int, _Refusal] = {
    errno.ENOENT: _PLACE,
    errno.EEXIST: _IN_THE_WAY,
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EISDIR: (InputError, "it is a folder: name a file"),
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.EROFS: _FORBIDDEN,
    errno.ENAMETOOLONG: _UNFIT,
    errno.ELOOP: _UNFIT,
    errno.EINVAL: _UNFIT,
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: _FULL,
    errno.EMFILE: _TOO_MANY,
    errno.ENFILE: _TOO_MANY,
    errno.ENOMEM: (DoesNotFit, "free some memory, then do it again"),
    errno.EIO: _BROKEN,
    errno.ESTALE: _BROKEN,
}


def refusal(error: OSError) -> FullboreError | None:
    """`error` as one of ours; none if it is neither about a file nor about the limits of the machine."""
    if error.errno not in _REFUSALS:
        return None
    kind, hint = _REFUSALS[error.errno]
    named = f"{error.filename}: " if error.filename is not None else ""
    made = kind(f"{named}{error.strerror}", hint=hint)
    made.__cause__ = error
    return made


_NO_MEMORY = ("not enough memory", "can't allocate memory", "cannot allocate memory", "bad alloc", "out of memory")


def outgrown(error: Exception) -> DoesNotFit | None:
    """`error` as one of ours if it says that no memory was left, as Python, torch and its kernels do; else none."""
    told = str(error).strip().partition("\n")[0]
    if not isinstance(error, MemoryError | RuntimeError) or isinstance(error, FullboreError):
        return None
    if not isinstance(error, MemoryError) and not any(words in told.lower() for words in _NO_MEMORY):
        return None
    hint = (
        "a smaller train.micro_batch_size, train.sequence_length or model, or train.recompute=true, needs less; "
        "a run that is resumed keeps its plan: run the job again"
    )
    made = DoesNotFit(f"out of memory{f': {told}' if told else ''}", hint=hint)
    made.__cause__ = error
    return made


@contextmanager
def about(path: Path) -> Iterator[None]:
    """An OSError of the block is one about `path`, not about a draft beside it, nor about no file at all."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
