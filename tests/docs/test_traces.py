"""What docs/traces.md says is done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.docs.test_readme import ROOT, Reader


@pytest.mark.slow
def test_the_example_of_a_trace(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    reader.follow((ROOT / "docs" / "traces.md").read_text())
    drawn, spoken = reader.said[-2:]
    assert "Where the time went (trace.json, main thread)" in drawn
    answer = json.loads(spoken)
    [rank] = answer["ranks"]
    assert sum(item["share"] for item in rank["partition"].values()) == pytest.approx(1)
    assert rank["partition"]["operators"]["share"] > 0.02
