"""Colour and weight for terminals, or nothing at all."""

from __future__ import annotations

from dataclasses import dataclass

from fullbore.base.colours import DARK

_GOOD, _BAD, _DIM = "#1fc795", "#f0733a", "#8f969d"


@dataclass(frozen=True)
class Ink:
    """`colours`: bits of colour the terminal shows: 24, 8 or 0 for plain text."""

    colours: int = 0

    def _wrap(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colours and text else text

    def paint(self, text: str, hex_colour: str) -> str:
        red, green, blue = (int(hex_colour[at : at + 2], 16) for at in (1, 3, 5))
        if self.colours == 24:
            return self._wrap(f"38;2;{red};{green};{blue}", text)
        cube = 16 + 36 * round(red / 51) + 6 * round(green / 51) + round(blue / 51)
        return self._wrap(f"38;5;{cube}", text)

    def state(self, text: str, state: str) -> str:
        """In the colour that the ledger state `state` has everywhere."""
        return self.paint(text, DARK.get(state, DARK["other"]))

    def bold(self, text: str) -> str:
        return self._wrap("1", text)

    def dim(self, text: str) -> str:
        return self.paint(text, _DIM)

    def good(self, text: str) -> str:
        return self.paint(text, _GOOD)

    def bad(self, text: str) -> str:
        return self.paint(text, _BAD)
