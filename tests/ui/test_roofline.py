"""The roofline stands by itself, holds every point, and points lie under their roofs."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from example_run import ROOFLINE

from fullbore.ui.labels import apart
from fullbore.ui.roofline import picture

SPACE = "{http://www.w3.org/2000/svg}"


def test_the_picture_is_whole_and_asks_nobody() -> None:
    drawn = picture(ROOFLINE, "calm <otter>")
    tree = ElementTree.fromstring(drawn)
    assert "http" not in drawn.replace("http://www.w3.org/2000/svg", "")
    texts = [element.text or "" for element in tree.iter(f"{SPACE}text")]
    assert "calm <otter> under its roofline" in texts and "FLOP a byte" in texts
    assert "bf16 2.07 TFLOP/s" in texts and "memory 34 GB/s" in texts
    assert "55 % of the time, 44 % of its roof" in texts
    assert len(list(tree.iter(f"{SPACE}circle"))) == len(ROOFLINE["points"])  # type: ignore[arg-type]


def test_a_point_stands_below_its_roof_by_what_it_lacks() -> None:
    drawn = picture(ROOFLINE, "run")
    gaps = {name: (float(roof), float(at)) for name, roof, at in re.findall(
        r'class="rl-gap rl-(\w+)" d="M[\d.]+ ([\d.]+)V([\d.]+)"', drawn)}  # fmt: skip
    assert set(gaps) == {"products", "elementwise", "optimizer", "attention"}
    decade = (350.0 - 58.0) / 4
    for point in ROOFLINE["points"]:  # type: ignore[attr-defined]
        roof, at = gaps[point["name"]]
        lacking = 0 if point["rate"] == point["roof"] else math.log10(point["roof"] / point["rate"])
        assert at - roof == pytest.approx(decade * lacking, abs=0.3)


def test_labels_are_moved_apart_and_keep_their_order() -> None:
    found = apart([100.0, 101.0, 102.0, 300.0], 30, 0, 310)
    assert found == [100.0, 130.0, 160.0, 300.0]
    low = apart([300.0, 305.0], 30, 0, 310)
    assert low == [280.0, 310.0] and all(two - one >= 30 for one, two in pairwise(low))
