"""The page on tuning: its code is run as it stands, its promises are compared."""

from __future__ import annotations

import re
import sys

import pytest

from fullbore.flow import trials, tune, tuning
from fullbore.perf.plan.space import KEYS
from fullbore.spec.load import load
from tests.docs.test_readme import ROOT, Reader, blocks, reader

__all__ = ["reader"]

PAGE = ROOT / "docs" / "tune.md"


@pytest.mark.soak
def test_the_page_of_tune(reader: Reader) -> None:
    for block in blocks(PAGE.read_text()):
        if block.language == "toml":
            (reader.folder / "lm.toml").write_text(block.text)
        elif block.language == "sh":
            for line in block.text.splitlines():
                reader.type(line)
        else:
            said = reader.call([sys.executable, "-c", block.text])
    assert "going on from" in "".join(reader.said) or said
    assert re.search(r" thread.* job as it stands.* [\d.]+", said.replace("\n", " "))
    tuned = load(reader.folder / "lm.tuned.toml").job.train
    before = load(reader.folder / "lm.toml").job.train
    assert tuned is not None and before is not None and "auto" not in (tuned.precision, tuned.attention)
    same = ("global_batch_size", "sequence_length", "optimizer", "seed", "budget")
    assert all(getattr(tuned, name) == getattr(before, name) for name in same)


def test_the_page_names_what_there_is() -> None:
    page = PAGE.read_text()
    named = set(re.findall(r"`(train\.\w+)`", page.split("## How")[0]))
    assert named == {*KEYS.values(), "train.checkpoint_every"}
    worth, little = (f"{100 * share:g} %" for share in (tuning.WORTH, tuning.LITTLE))
    assert f"more than {worth}" in page and f"more than {little}" in page
    assert (trials._STEPS, trials._SECONDS) == (3, 0.6) and "three steps or 0.6 s" in page
    assert (tune._NEAR, tune._FINALISTS, tuning._MOST_ROUNDS) == (0.05, 3, 20) and "within 5 %" in page
