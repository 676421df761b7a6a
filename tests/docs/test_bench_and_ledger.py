"""The pages on comparing and on one's own loop: their code is run as it stands, their promises are compared."""

from __future__ import annotations

import json
import re
import sys

import pytest

from fullbore.cli.main import VERBS
from fullbore.perf.measure.ledger import LoopLedger
from tests.docs.test_readme import ROOT, Reader, blocks, reader

__all__ = ["reader"]

BENCH, LEDGER = (ROOT / "docs" / name for name in ("bench.md", "ledger.md"))


@pytest.mark.slow
def test_the_page_of_bench(reader: Reader) -> None:
    for block in blocks(BENCH.read_text()):
        if named := re.match(r"# (\w+\.\w+)\n", block.text):
            (reader.folder / named[1]).write_text(block.text)
        elif block.language == "python":
            reader.call([sys.executable, "-c", block.text])
        elif block.language == "sh":
            for line in block.text.splitlines():
                reader.type(line)
    said = "".join(reader.said)
    assert "x as fast as A (95 % interval " in said and "noise: two runs of the same differ by" in said
    assert "sum.numbers_per_second" in said and "tokens_per_second" in said and "cpu_seconds" in said
    assert json.loads((reader.folder / "sums.json").read_text())["pairs_measured"] >= 1
    assert not (reader.folder / "runs").exists()


@pytest.mark.slow
def test_the_page_of_the_ledger(reader: Reader) -> None:
    [code] = [block.text for block in blocks(LEDGER.read_text()) if block.language == "python"]
    said = reader.call([sys.executable, "-c", code]).splitlines()
    assert said[0].startswith("data wait") and "limited by waiting for data" in said[-1]
    assert said[-2].startswith("10 steps, median ")
    assert [line.split()[-1] for line in said if line.startswith("total")] == ["100.0%"]


def test_the_pages_name_what_there_is() -> None:
    page = LEDGER.read_text()
    named = set(re.findall(r"ledger\.(\w+)", page)) - {"md"}
    assert named <= set(dir(LoopLedger)) and {"data", "data_wait", "state", "step", "busy", "table"} <= named
    assert "bench" in VERBS and all(f"`{option}" in BENCH.read_text() for option in ("--out", "--rounds", "--keep"))
