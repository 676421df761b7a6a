"""How long work says how far it is: a callable that costs nothing when nobody looks."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    def __call__(
        self, stage: str, done: float, total: float | None, unit: str, *, detail: str = "", limit: str = ""
    ) -> None:
        """`stage` has done `done` of `total` (none: unknown) `unit`s; `limit` names what limits it now.

        Called from any thread, as often as convenient: who draws it decides how often to draw.
        """


def no_progress(stage: str, done: float, total: float | None, unit: str, *, detail: str = "", limit: str = "") -> None:
    """Progress that nobody watches."""
