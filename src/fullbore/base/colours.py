"""One colour, one meaning, in the terminal, the report and the page.

Blues and greens work, oranges and reds wait, greys are the fixed cost of a run. The hues follow Okabe and Ito (2008),
Color Universal Design, so that the families stay apart for colour-blind readers and their members differ in lightness.
Every colour has a contrast of at least 3 : 1 against its background (WCAG 2.2, 1.4.11: white, and #14171a).
"""

from __future__ import annotations

from typing import Literal

Family = Literal["work", "wait", "fixed"]

_STATES: dict[str, tuple[Family, str, str]] = {
    "forward": ("work", "#2f8fd0", "#56b4e9"),
    "backward": ("work", "#0a5c99", "#2b8fd6"),
    "optimizer": ("work", "#6a7bd0", "#9fb0f0"),
    "evaluate": ("work", "#4b4fa3", "#7c83dc"),
    "read": ("work", "#0f7a6c", "#3fc1ad"),
    "tokenise": ("work", "#009e73", "#1fc795"),
    "pack": ("work", "#5c9a1f", "#8ccb4a"),
    "compress": ("work", "#3c7330", "#68a858"),
    "serve": ("work", "#1799a6", "#5fd3de"),
    "data wait": ("wait", "#c8440a", "#f0733a"),
    "copy": ("wait", "#b5821a", "#e0b04c"),
    "exposed communication": ("wait", "#d47c12", "#f5a742"),
    "pipeline bubble": ("wait", "#a8850f", "#f0dc5a"),
    "waiting for a straggler": ("wait", "#b0266b", "#e77bb2"),
    "start": ("fixed", "#6f757b", "#a4abb2"),
    "probe": ("fixed", "#7f858b", "#8f969d"),
    "compile": ("fixed", "#4f555b", "#c3c9cf"),
    "checkpoint": ("fixed", "#5f656b", "#b3bac1"),
    "report": ("fixed", "#8b9197", "#7c838a"),
    "other": ("fixed", "#2b2f33", "#e6e9ec"),
}

FAMILY: dict[str, Family] = {state: family for state, (family, _, _) in _STATES.items()}
"""State name → what kind of time it is."""

LIGHT: dict[str, str] = {state: light for state, (_, light, _) in _STATES.items()}
"""State name → hex colour on a white ground."""

DARK: dict[str, str] = {state: dark for state, (_, _, dark) in _STATES.items()}
"""State name → hex colour on a dark ground and in the terminal."""
