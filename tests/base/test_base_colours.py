"""Every state has a colour of its own that can be told from the ground."""

from __future__ import annotations

import re

import pytest

from fullbore.base.colours import DARK, FAMILY, LIGHT
from fullbore.record.ledger import State


def luminance(colour: str) -> float:
    """WCAG 2.2: relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, two: str) -> float:
    dark, light = sorted((luminance(one), luminance(two)))
    return (light + 0.05) / (dark + 0.05)


def test_every_state_has_a_colour_and_every_colour_a_state() -> None:
    states = [str(state) for state in State]
    assert sorted(FAMILY) == sorted(LIGHT) == sorted(DARK) == sorted(states)


@pytest.mark.parametrize(("colours", "ground"), [(LIGHT, "#ffffff"), (DARK, "#14171a")], ids=["light", "dark"])
def test_no_two_states_share_a_colour_and_all_stand_out(colours: dict[str, str], ground: str) -> None:
    assert all(re.fullmatch(r"#[0-9a-f]{6}", colour) for colour in colours.values())
    assert len(set(colours.values())) == len(colours)
    assert {state: ratio for state, colour in colours.items() if (ratio := contrast(colour, ground)) < 3} == {}
