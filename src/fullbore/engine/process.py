"""What a process that computes wants of its host: memory that stays, compiled code that is kept."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

from fullbore.base.paths import machine_cache

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_LARGE = 1 << 30
_PAD = 64 << 20


def settle() -> None:
    """Let freed memory stay with this process, and kernels that torch compiles stay on this machine.

    glibc takes blocks above 32 MiB from the kernel and gives them back when they are freed: a training step, which
    allocates the same blocks again and again, then pays for the same pages again and again (mallopt(3)).
    `benchmarks/steps.py` measures what that is worth (`unsettled`).
    """
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        for parameter, value in ((_MMAP_THRESHOLD, _LARGE), (_TRIM_THRESHOLD, _LARGE), (_TOP_PAD, _PAD)):
            library.mallopt(parameter, value)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(machine_cache() / "compiled"))
