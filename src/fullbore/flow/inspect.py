"""`inspect`: what an artifact or a run holds, and whether its bytes are what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fullbore.base.errors import CorruptError, InputError
from fullbore.base.paths import RunPaths
from fullbore.record import artifact
from fullbore.record.artifact import MANIFEST, Artifact
from fullbore.record.run import find


def inspect(target: str, *, verify: bool = False) -> dict[str, Any]:
    """Describe an artifact folder, or every artifact of a run (schema 1).

    With `verify` every byte is read; raises CorruptError naming each file that differs.
    """
    folders = _folders(target)
    found = [artifact.read(folder) for folder in folders]
    if verify:
        problems = [line for item in found for line in artifact.verify(item)]
        if problems:
            raise CorruptError("\n".join(problems), hint="remove the named folder; the next run makes it again")
    return {"schema": 1, "target": target, "verified": verify, "artifacts": [_describe(item) for item in found]}


def _folders(target: str) -> list[Path]:
    folder = Path(target)
    if (folder / MANIFEST).is_file():
        return [folder]
    if folder.exists() and not RunPaths(folder).environment.is_file():
        raise InputError(f"{target}: no {MANIFEST}", hint="give an artifact folder, a run folder or the name of a run")
    paths = find(target).paths
    folders = sorted(path.parent for path in paths.artifacts.glob(f"*/{MANIFEST}"))
    return folders + sorted(path.parent for path in paths.checkpoints.glob(f"*/{MANIFEST}"))


def _describe(item: Artifact) -> dict[str, Any]:
    return {
        "folder": str(item.folder),
        "kind": item.kind,
        "digest": item.digest,
        "bytes": item.bytes,
        "files": {name: dict(entry) for name, entry in item.files.items()},
        "parents": [{"kind": parent.kind, "digest": parent.digest} for parent in item.parents],
        "info": dict(item.info),
    }
