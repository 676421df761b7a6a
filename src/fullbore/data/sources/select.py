"""Which files of a source are read, and as what."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath

from fullbore.base.errors import InputError
from fullbore.store import Entry

IDX = re.compile(r"(.*)(images|labels)[.-]idx\d-ubyte")
_PACKED = (".gz", ".zst")
_FORMATS = {
    "jsonl": {".jsonl", ".ndjson"},
    "csv": {".csv", ".tsv"},
    "images": {".jpg", ".jpeg", ".png"},
    "text": {
        ".txt", ".text", ".md", ".rst", ".tex", ".html", ".htm", ".xml",
        ".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".hpp", ".rs", ".go", ".java", ".js", ".ts", ".rb", ".sh", ".sql",
        ".toml", ".yaml", ".yml", ".ini", ".cfg", ".css",
    },
}  # fmt: skip
_ASIDE = re.compile(r"(readme|licen[cs]e|copying|notice|changelog)\b.*", re.IGNORECASE)
_SURE = 0.9


def file_format(path: str) -> str | None:
    """The format that a file's name promises, or none."""
    name = PurePosixPath(path)
    if IDX.fullmatch(name.name.removesuffix(".gz")):
        return "idx"
    suffix = name.suffix.lower()
    packed = suffix in _PACKED
    suffix = name.with_suffix("").suffix.lower() if packed else suffix
    found = next((kind for kind, suffixes in _FORMATS.items() if suffix in suffixes), None)
    return None if packed and found not in ("jsonl", "csv") else found


def select(entries: Iterable[Entry], include: tuple[str, ...], exclude: tuple[str, ...]) -> list[Entry]:
    """The entries that `include` names (none: all) and `exclude` does not; hidden files never.

    A pattern with a slash is relative to the source, one without matches a name at any depth; a folder's name means all
    below it. `**` stands for any number of folders.
    """
    wanted = [_pattern(glob) for glob in include]
    unwanted = [_pattern(glob) for glob in exclude]
    return [
        entry
        for entry in entries
        if not any(part.startswith(".") for part in entry.path.split("/"))
        and (not wanted or any(pattern.fullmatch(entry.path) for pattern in wanted))
        and not any(pattern.fullmatch(entry.path) for pattern in unwanted)
    ]


def _pattern(glob: str) -> re.Pattern[str]:
    inner = glob.strip("/")
    tokens = re.split(r"(\*\*/|\*\*|\*|\?|\[[^]]+\])", inner)
    meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    body = "".join(
        meaning.get(token) or (token.replace("[!", "[^") if re.fullmatch(r"\[[^]]+\]", token) else re.escape(token))
        for token in tokens
    )
    return re.compile(("" if "/" in inner else "(?:.*/)?") + body + "(?:/.*)?")


def of_format(entries: list[Entry], form: str, where: str, chosen_by_name: bool) -> list[Entry]:
    """The entries to read as `form`; all of them if the user named them. Raises InputError when none are left."""
    found = [entry for entry in entries if chosen_by_name or file_format(entry.path) == form]
    if not found:
        raise InputError(
            f"{where}: no {form} files, found {summary(entries)}",
            hint="check data.source, data.format, data.include and data.exclude",
        )
    return found


def detect(entries: list[Entry], where: str) -> str:
    """The format of nine in ten files, README and its like left aside. Raises InputError listing what is there."""
    counts = Counter(
        form
        for entry in entries
        if (form := file_format(entry.path)) and not _ASIDE.fullmatch(PurePosixPath(entry.path).name)
    )
    if counts:
        best, number = counts.most_common(1)[0]
        if number >= _SURE * counts.total():
            return best
    raise InputError(
        f"{where}: cannot tell the format, found {summary(entries)}",
        hint='say which it is, such as data.format = "text", or narrow it with data.include',
    )


def summary(entries: list[Entry]) -> str:
    """`1,687 .py, 12 .txt, 3 .csv`."""
    counts = Counter(PurePosixPath(entry.path).suffix.lower() or "without suffix" for entry in entries)
    return ", ".join(f"{count:,} {suffix}" for suffix, count in counts.most_common(6)) or "nothing"
