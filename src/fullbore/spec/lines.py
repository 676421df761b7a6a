"""Where each key of a TOML text is written: tomllib gives values, this gives their lines."""

from __future__ import annotations

import re
import tomllib

Path = tuple[str | int, ...]

_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""")
_STRING = re.compile(
    r'''"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*\'''',
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\r\n]+")


def key_lines(text: str) -> dict[Path, int]:
    """Lines, from 1, of every table, key and array element of `text`, which tomllib must accept."""
    return _Reader(text).read()


class _Reader:
    """One pass over valid TOML 1.0: only where things are matters, so values are skipped, not read."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._lines: dict[Path, int] = {}
        self._arrays: dict[Path, int] = {}
        """Arrays of tables: how many have begun."""

    def read(self) -> dict[Path, int]:
        table: Path = ()
        while self._skip(_BLANK) < len(self._text):
            if self._text.startswith("[", self._at):
                table = self._header()
            else:
                self._pair(table)
        return self._lines

    def _skip(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self._text, self._at)
        if match is not None:
            self._at = match.end()
        return self._at

    def _take(self, token: str) -> bool:
        found = self._text.startswith(token, self._at)
        if found:
            self._at += len(token)
        return found

    def _mark(self, path: Path, position: int) -> None:
        line = self._text.count("\n", 0, position) + 1
        for depth in range(1, len(path) + 1):
            self._lines.setdefault(path[:depth], line)

    def _header(self) -> Path:
        begin = self._at
        many = self._take("[[")
        if not many:
            self._take("[")
        path: Path = ()
        keys = self._dotted()
        for position, key in enumerate(keys):
            path = (*path, key)
            if path in self._arrays and not (many and position == len(keys) - 1):
                path = (*path, self._arrays[path] - 1)
        self._take("]]" if many else "]")
        if many:
            self._arrays[path] = self._arrays.get(path, 0) + 1
            path = (*path, self._arrays[path] - 1)
        self._mark(path, begin)
        return path

    def _dotted(self) -> list[str]:
        keys: list[str] = []
        while True:
            self._skip(_SPACE)
            begin = self._at
            written = self._text[begin : self._skip(_KEY)]
            keys.append(written if written[0] not in "\"'" else next(iter(tomllib.loads(f"{written} = 0"))))
            self._skip(_SPACE)
            if not self._take("."):
                return keys

    def _pair(self, table: Path) -> None:
        begin = self._at
        path = (*table, *self._dotted())
        self._take("=")
        self._mark(path, begin)
        self._skip(_SPACE)
        self._value(path)

    def _value(self, path: Path) -> None:
        if self._take("["):
            index = 0
            while self._skip(_BLANK) >= 0 and not self._take("]"):
                self._mark((*path, index), self._at)
                self._value((*path, index))
                self._skip(_BLANK)
                self._take(",")
                index += 1
        elif self._take("{"):
            while self._skip(_BLANK) >= 0 and not self._take("}"):
                self._pair(path)
                self._skip(_BLANK)
                self._take(",")
        elif self._text[self._at] in "\"'":
            self._skip(_STRING)
        else:
            self._skip(_SCALAR)
