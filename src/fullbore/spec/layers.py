"""What is written, before it is judged: a job file, those it extends and `--set`, as one table that knows its lines."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fullbore.base.errors import InputError, JobError, Problem
from fullbore.spec import lines

SET = "--set"


@dataclass(frozen=True)
class Layer:
    """Nested tables as TOML gives them, and where each key in them was written."""

    source: str
    """The file or function that was asked for."""
    data: dict[str, Any]
    where: dict[lines.Path, str]
    """Key path → `path:line`, `--set` or the function that made it."""

    def place(self, path: lines.Path) -> str:
        """Where `path` is written or, if it is not, the table around it."""
        for depth in range(len(path), 0, -1):
            if path[:depth] in self.where:
                return self.where[path[:depth]]
        return self.source

    def value(self, path: lines.Path) -> Any:
        """What is written at `path`; KeyError, IndexError or TypeError if nothing is."""
        found: Any = self.data
        for key in path:
            found = found[key]
        return found


def merge(base: Layer, over: Layer) -> Layer:
    """`over` on top of `base`: tables join key by key, all else replaces; a table of another `kind` replaces too."""
    where = dict(base.where)

    def joined(old: Any, new: Any, path: lines.Path) -> Any:
        tables = isinstance(old, dict) and isinstance(new, dict)
        if not tables or ("kind" in old and "kind" in new and old["kind"] != new["kind"]):
            for stale in [known for known in where if known[: len(path)] == path]:
                del where[stale]
            return new
        return {
            key: joined(old[key], new[key], (*path, key)) if key in old and key in new else new.get(key, old.get(key))
            for key in [*old, *(key for key in new if key not in old)]
        }

    data = joined(base.data, over.data, ())
    return Layer(over.source, data, {**where, **over.where})


def read_files(path: Path) -> Layer:
    """The job file at `path` on top of the files that it extends. Raises InputError, JobError."""
    return _read(path, ())


def _read(path: Path, above: tuple[Path, ...]) -> Layer:
    layer = _read_one(path)
    extends = layer.data.pop("extends", None)
    if extends is None:
        return layer
    where = layer.where[("extends",)]
    if not isinstance(extends, str):
        raise JobError([Problem(where, "extends", f"found {extends!r}, expected the path of one job file")])
    base = Path(os.path.normpath(path.parent / extends))
    chain = (*above, path)
    if base.resolve() in [file.resolve() for file in chain]:
        circle = " → ".join(str(file) for file in (*chain, base))
        raise JobError([Problem(where, "extends", f"goes in a circle: {circle}")])
    if not base.is_file():
        raise JobError([Problem(where, "extends", f"no such file: {base} (the path is relative to {path.parent}/)")])
    return merge(_read(base, chain), layer)


def _read_one(path: Path) -> Layer:
    try:
        text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file", hint=_near(path)) from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise JobError([Problem(f"{path}:{line}", "TOML", "not UTF-8 text")]) from None
    except ValueError as error:
        raise InputError(f"{str(path)!r}: no path of a file ({error})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise JobError([_syntax(path, text, str(error))]) from None
    where = {key: f"{path}:{line}" for key, line in lines.key_lines(text).items()}
    return Layer(str(path), data, where)


def _near(path: Path) -> str:
    beside = sorted(str(file) for file in path.parent.glob("*.toml"))
    close = difflib.get_close_matches(str(path), beside, n=1, cutoff=0.75)
    return f"did you mean {close[0]}?" if close else "fullbore init writes a job file to start from"


def _syntax(path: Path, text: str, message: str) -> Problem:
    at = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", message)
    if at is None:
        return Problem(str(path), "TOML", message)
    line = int(at[1]) if at[1] else text.count("\n") + 1
    column = f", column {at[2]}" if at[2] else ""
    return Problem(f"{path}:{line}", "TOML", f"{message[: at.start()].lower()}{column}")


def set_value(written: Any) -> Any:
    """What `--set` gives: TOML if it parses, else the text itself; what is not text is taken as it is."""
    if not isinstance(written, str):
        return written
    try:
        parsed = tomllib.loads(f"value = {written}")
    except tomllib.TOMLDecodeError:
        return written
    return parsed["value"] if set(parsed) == {"value"} else written


def override(layer: Layer, overrides: Mapping[str, Any]) -> Layer:
    """`layer` with dotted keys set. Raises JobError for a key that is not one."""
    problems = [
        Problem(SET, key, 'not a setting; expected a dotted key such as "train.budget"')
        for key in overrides
        if not all(key.split("."))
    ]
    if problems:
        raise JobError(problems)
    for dotted, written in overrides.items():
        path = tuple(dotted.split("."))
        data: Any = set_value(written)
        where: dict[lines.Path, str] = {path[: depth + 1]: SET for depth in range(len(path))}
        for key in reversed(path):
            data = {key: data}
        kept = {known: place for known, place in where.items() if known not in layer.where or known == path}
        layer = merge(layer, Layer(layer.source, data, kept))
    return layer
