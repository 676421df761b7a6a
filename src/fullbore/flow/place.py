"""Where a verb may put an artifact that its user asked for."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from fullbore.base.errors import UsageError
from fullbore.base.refusals import about
from fullbore.record.artifact import MANIFEST


def place(out: str) -> Path:
    """The absolute path of `out`, where an artifact can be written, seen before there is any work to lose.

    Raises UsageError if something lies there that is no artifact, OSError if nothing can be written there.
    """
    target = Path(out).absolute()
    with about(target):
        if target.exists() and not (target / MANIFEST).is_file() and (not target.is_dir() or any(target.iterdir())):
            raise UsageError(f"{out} exists and was not written by fullbore", hint="give a new folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target.parent):
            return target
