"""The picture of predicted beside measured: every trial is where its figures put it."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

from fullbore.ui.tuning import picture


def row(seconds: float, expected: float, predicted: float, **more: Any) -> dict[str, Any]:
    interval = [seconds * 0.98, seconds * 1.03]
    return {
        "label": "bf16 <1>", "status": "measured", "seconds": seconds, "expected_seconds": expected,
        "predicted_seconds": predicted, "interval": interval, "chosen": False, **more,
    }  # fmt: skip


ROWS = [row(0.1, 0.1, 0.05), row(0.2, 0.15, 0.08, chosen=True), row(1, 1, 1) | {"status": "out of memory"}]
TOLD = {"job": "mine & yours", "settings": 96, "chosen_label": "bf16", "trials": ROWS}


def test_a_prediction_that_holds_lies_on_the_diagonal_and_the_slower_is_higher() -> None:
    drawn = picture(TOLD)
    root = ElementTree.fromstring(drawn)
    dots = {
        circle.get("class"): (float(circle.get("cx") or 0), float(circle.get("cy") or 0))
        for circle in root.iter("{http://www.w3.org/2000/svg}circle")
        if circle.find("{http://www.w3.org/2000/svg}title") is not None
    }
    line = re.search(r'class="tn-line" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"', drawn)
    assert line is not None
    x1, y1, x2, y2 = map(float, line.groups())
    right, slow = dots["tn-dot"], dots["tn-chosen"]
    assert abs((right[0] - x1) / (x2 - x1) - (right[1] - y1) / (y2 - y1)) < 0.01
    assert slow[1] < right[1] and slow[0] > right[0], "it took longer, and was expected to"
    assert (slow[0] - x1) / (x2 - x1) < (slow[1] - y1) / (y2 - y1), "longer than expected: above the diagonal"


def test_what_is_written_on_it_is_escaped_and_counted() -> None:
    drawn = picture(TOLD)
    assert "mine &amp; yours: seconds of a step" in drawn and "bf16 &lt;1&gt;" in drawn
    assert "2 trials of 96 settings, 1 more failed; chosen: bf16" in drawn
    assert "200 ms" in drawn and drawn.count('class="tn-spread"') == 2


def test_one_trial_is_a_picture_too() -> None:
    drawn = picture(TOLD | {"trials": ROWS[:1]})
    assert ElementTree.fromstring(drawn).tag.endswith("svg") and drawn.count('class="tn-spread"') == 1
