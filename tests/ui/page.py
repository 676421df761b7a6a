"""A report read back with the standard library's HTML parser."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

_VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Text by section id, attributes of all tags, and whether every tag is closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.sections: dict[str, str] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.shares: list[float] = []
        self.unbalanced: list[str] = []
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(path.read_text())
        self.close()
        self.unbalanced += [tag for tag, _ in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append((tag, dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1][0] != tag:
            self.unbalanced.append(f"/{tag}")
        else:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        section = next((found["id"] for tag, found in self._open if tag == "section"), None) or "page"
        self.sections[section] = self.sections.get(section, "") + data
        if any(found.get("class") == "share" for _, found in self._open):
            self.shares.append(float(data.removesuffix(" %")))

    def ids(self) -> list[str]:
        return [str(found["id"]) for tag, found in self.tags if tag == "section"]

    def drawn(self, what: str) -> list[dict[str, str | None]]:
        """Attributes of the SVG paths of a class."""
        return [found for tag, found in self.tags if tag == "path" and what in (found.get("class") or "").split()]
