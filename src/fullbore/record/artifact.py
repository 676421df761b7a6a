"""Artifacts: what rooms hand each other. A folder with a `manifest.json` that names every file and where it came from.

manifest.json: {"kind", "schema", "files": {name: {"bytes", "xxh3"}}, "parents": [{"kind", "digest"}], "info": {...}}.
A file's checksum is its xxh3-64 in hex; the artifact's digest is the xxh3-128 of the canonical manifest, so it covers
all bytes below it and all of its ancestry.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from fullbore.base.errors import CorruptError, InputError
from fullbore.base.files import folder_atomic, write_atomic

MANIFEST = "manifest.json"
SCHEMA = 1
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Parent:
    kind: str
    digest: str


@dataclass(frozen=True)
class Artifact:
    """A finished artifact on disk; immutable."""

    folder: Path
    kind: str
    digest: str
    files: Mapping[str, Mapping[str, Any]]
    parents: tuple[Parent, ...]
    info: Mapping[str, Any]

    @property
    def bytes(self) -> int:
        return sum(int(entry["bytes"]) for entry in self.files.values())

    def path(self, name: str) -> Path:
        return self.folder / name

    def as_parent(self) -> Parent:
        return Parent(self.kind, self.digest)


@dataclass
class Draft:
    """An artifact being written: put files into `folder`, facts into `info`."""

    folder: Path
    info: dict[str, Any] = field(default_factory=dict)


def checksum(path: Path) -> str:
    """xxh3-64 of a file's bytes, in hex."""
    hasher = xxhash.xxh3_64()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            hasher.update(block)
    return hasher.hexdigest()


def _digest(manifest: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@contextmanager
def create(folder: Path, kind: str, parents: Iterable[Artifact] = ()) -> Iterator[Draft]:
    """Write an artifact: all of it appears at `folder`, checksummed and durable, or nothing does."""
    with folder_atomic(folder) as beside:
        draft = Draft(beside)
        yield draft
        seal(beside, kind, draft.info, parents)


def seal(folder: Path, kind: str, info: Mapping[str, Any], parents: Iterable[Artifact] = ()) -> None:
    """Write the manifest of the files that lie in `folder`."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    manifest = {
        "kind": kind,
        "schema": SCHEMA,
        "files": {
            name: {"bytes": (folder / name).stat().st_size, "xxh3": checksum(folder / name)}
            for name in names
            if name != MANIFEST
        },
        "parents": [asdict(parent.as_parent()) for parent in parents],
        "info": dict(info),
    }
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


def read(folder: Path, kind: str | None = None) -> Artifact:
    """Open an artifact by its manifest; sizes are compared, bytes are not read (`verify` does).

    Raises InputError if there is no artifact of that kind, CorruptError if a file is missing or cut short.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        files, found = manifest["files"], manifest["kind"]
        parents = tuple(Parent(p["kind"], p["digest"]) for p in manifest["parents"])
        info, schema = manifest["info"], manifest["schema"]
        sizes = {name: int(entry["bytes"]) for name, entry in files.items()}
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{folder}: no {MANIFEST}", hint="give the folder that fullbore wrote, or run it again"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(f"{path}: not a manifest ({error})", hint="remove the folder and run again") from None
    if schema != SCHEMA:
        raise InputError(
            f"{path}: schema {schema}, expected {SCHEMA}", hint="it was written by another version of fullbore"
        )
    if kind is not None and found != kind:
        raise InputError(f"{folder}: holds {found!r}, expected {kind!r}")
    for name, size in sizes.items():
        file = folder / name
        if not file.is_file():
            raise CorruptError(f"{file}: missing", hint="remove the folder and run again")
        if file.stat().st_size != size:
            raise CorruptError(
                f"{file}: {file.stat().st_size} bytes, expected {size} (truncated or overwritten)",
                hint="remove the folder and run again",
            )
    return Artifact(folder, found, _digest(manifest), files, parents, info)


def verify(artifact: Artifact) -> list[str]:
    """Read every byte; one line for each file that is missing, whose checksum differs or that the manifest lacks."""
    there = sorted(str(path.relative_to(artifact.folder)) for path in artifact.folder.rglob("*") if path.is_file())
    extra = [name for name in there if name != MANIFEST and name not in artifact.files]
    return [*_changed(artifact), *(f"{artifact.path(name)}: not in {MANIFEST}" for name in extra)]


def _changed(artifact: Artifact) -> Iterator[str]:
    for name, entry in artifact.files.items():
        path, expected = artifact.path(name), entry.get("xxh3")
        if not path.is_file():
            yield f"{path}: missing"
        elif (found := checksum(path)) != expected:
            yield f"{path}: xxh3 {found}, expected {expected} (its bytes were changed)"


def require_intact(artifact: Artifact) -> Artifact:
    """`artifact`, or CorruptError naming the files whose bytes were changed; what lies beside them does no harm."""
    problems = list(_changed(artifact))
    if problems:
        raise CorruptError("\n".join(problems), hint="remove the folder and run again")
    return artifact
