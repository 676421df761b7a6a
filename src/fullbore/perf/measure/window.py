"""JSON that is larger than memory, read through a window: values one after another, cut or damaged ones told apart.

The standard decoder does the work; what streams JSON in C elsewhere (ijson on yajl) was measured no faster on traces.
"""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from io import BufferedReader
from typing import Any, cast

_CHUNK = 1 << 18
_LONGEST = 1 << 26
"""Characters of the longest value that is not read element by element."""
_GAP = re.compile(r"[\s,]*")
_OBJECT = re.compile(r'\{\s*"(?:ph|name|cat)"\s*:')
"""How an event of a trace begins: where to go on after one that is malformed."""
_scan = json.JSONDecoder(strict=False).raw_decode


class Window:
    """The part of a text that is being read; it grows while a value is not whole and slides on when it is."""

    def __init__(self, file: BufferedReader) -> None:
        zipped = file.peek(2)[:2] == b"\x1f\x8b"
        self._source = gzip.GzipFile(fileobj=file) if zipped else file
        self._decode = codecs.getincrementaldecoder("utf-8-sig")("replace").decode
        self.text = ""
        self.at = 0
        self.ended = False
        self.broken: str | None = None
        """Why it ended before its end."""
        self.malformed = 0
        """Elements that were no JSON and were left out."""

    def more(self) -> bool:
        """Let go of what was read and add a chunk; False at the end."""
        if self.ended:
            return False
        try:
            chunk = self._source.read1(_CHUNK)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            chunk, self.broken = b"", f"its gzip stream is cut or damaged ({error})"
        self.ended = not chunk
        self.text, self.at = self.text[self.at :] + self._decode(chunk, self.ended), 0
        return not self.ended

    def peek(self) -> str:
        """The next character that is neither space nor comma; empty at the end."""
        while True:
            self.at = cast(re.Match[str], _GAP.match(self.text, self.at)).end()
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def value(self) -> Any:
        """The next JSON value. Raises EOFError if the text ends within it, ValueError if it is none."""
        while True:
            self.peek()
            try:
                found, after = _scan(self.text, self.at)
                if after < len(self.text) or isinstance(found, dict) or not self.more():
                    self.at = after
                    return found
            except (json.JSONDecodeError, RecursionError) as error:
                if self._wrong(error):
                    raise ValueError(str(error)) from None
                if len(self.text) - self.at > _LONGEST:
                    raise ValueError(f"a value of more than {_LONGEST:,} characters") from None
                if not self.more():
                    raise EOFError from None

    def _wrong(self, error: BaseException) -> bool:
        """Whether more text would not mend it: the fault lies before the end of what is here."""
        if isinstance(error, json.JSONDecodeError):
            return not error.msg.startswith("Unterminated") and error.pos < len(self.text) - len("-Infinity")
        return True

    def _resume(self) -> bool:
        """Go on where the next element seems to begin; False if none does."""
        self.at += 1
        while (match := _OBJECT.search(self.text, self.at)) is None:
            self.at = max(self.at, len(self.text) - 80)
            if not self.more():
                return False
        self.at = match.start()
        return True

    def elements(self) -> Iterator[Any]:
        """The elements of an array after its `[`, up to and with its `]`; what is no JSON between them is left out.

        Raises EOFError if the text ends before the array does.
        """
        while True:
            yield from self._run()
            mark = self.peek()
            if mark == "]":
                self.at += 1
                return
            if not mark:
                raise EOFError
            try:
                found = self.value()
            except ValueError:
                self.malformed += 1
                if not self._resume():
                    raise EOFError from None
                continue
            yield found

    def _run(self) -> Iterator[dict[str, Any]]:
        """The objects that lie whole in the window, up to the first thing that is something else."""
        text, at = self.text, self.at
        try:
            while text[at] == "{":
                found, after = _scan(text, at)
                yield found
                self.at = at = cast(re.Match[str], _GAP.match(text, after)).end()
        except (json.JSONDecodeError, RecursionError, IndexError):
            return
