"""The worked numbers of docs/concepts/throughput.md are recomputed, its picture is redrawn, its links are followed."""

from __future__ import annotations

import doctest
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "concepts" / "throughput.md"
TEXT = PAGE.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", TEXT, re.DOTALL | re.M)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.splitlines()[0][4:44])
def test_a_worked_number_is_right(example: str) -> None:
    test = doctest.DocTestParser().get_doctest(example, {}, PAGE.name, str(PAGE), 0)
    said: list[str] = []
    outcome = doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert test.examples and outcome.failed == 0, "".join(said)


def test_every_formula_and_every_folklore_has_a_worked_number() -> None:
    sections = re.split(r"^###? ", TEXT.partition("## Where folklore")[0], flags=re.M)[1:]
    assert [part.splitlines()[0] for part in sections if "```python" not in part] == []
    folklore = TEXT.partition("## Where folklore goes wrong")[2].partition("## Sources")[0]
    claims = re.split(r"^(?=\*\*)", folklore, flags=re.M)[1:]
    assert len(claims) == 8 and all("```python" in claim for claim in claims)


def test_every_source_is_named_and_used() -> None:
    body, _, sources = TEXT.partition("## Sources")
    listed = set(re.findall(r"^(\d+)\. ", sources, re.M))
    assert set(re.findall(r"\[(\d+)\]", body)) == listed


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)", TEXT)
    assert links and [link for link in links if not (PAGE.parent / link).exists()] == []


def test_the_roofline_is_as_it_is_drawn() -> None:
    source = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert source is not None and source.loader is not None
    generate = importlib.util.module_from_spec(source)
    source.loader.exec_module(generate)
    drawn = (PAGE.parent / "roofline.svg").read_text(encoding="utf-8")
    assert drawn == generate.roofline(), "run: python docs/generate.py"
    assert "http" not in drawn.replace("http://www.w3.org/2000/svg", "")
