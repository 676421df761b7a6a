"""Tokens to text while they come: no torn characters, no part of a stop string ever sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_TORN = "\ufffd"


class Detokeniser:
    """Text of a growing list of tokens; what it has given out never changes.

    A byte-level tokenizer's tokens may end within a UTF-8 character, which decodes to one U+FFFD at the end: that one
    is held back until the next token completes it. The last token before the held text is decoded again each time, so
    that tokenizers which join words by spaces join them here too.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._given = 0

    def push(self, token: int) -> str:
        """The text that `token` makes certain; may be empty."""
        self._window.append(token)
        text = self._decode(self._window)
        torn = text.endswith(_TORN)
        certain = text[: len(text) - torn]
        new, self._given = certain[self._given :], max(self._given, len(certain))
        if new and not torn:
            self._window = [token]
            self._given = len(self._decode(self._window))
        return new

    def finish(self) -> str:
        """What was held back, torn as it is."""
        rest = self._decode(self._window)[self._given :] if self._window else ""
        self._window, self._given = [], 0
        return rest


class StopFilter:
    """Text up to the first of `stops`; text that may become a stop string is held back until it is certain."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """The text that can be given out; `stopped` is set when a stop string was met."""
        held = self._held + text
        found = [place for stop in self._stops if (place := held.find(stop)) >= 0]
        if found:
            self._held, self.stopped = "", True
            return held[: min(found)]
        keep = max((_overlap(held, stop) for stop in self._stops), default=0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def finish(self) -> str:
        """What was held back and is no stop string after all."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
