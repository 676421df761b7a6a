from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullbore.data.clean import Sieve, clean
from fullbore.data.sample import Bad, Sample


@pytest.mark.parametrize(
    ("text", "nfc", "nfkc"),
    [
        ("one\r\ntwo\rthree\u2028four\x85five\x0csix", "one\ntwo\nthree\nfour\nfive\nsix", None),
        ("\ufeffbegin\x00 \x1b[0m\tend\x7f", "begin [0m\tend", None),
        ("cafe\u0301", "café", None),
        ("ＡＢＣ１２３", "ＡＢＣ１２３", "ABC123"),
        ("你好，世界！（真的？）", "你好，世界！（真的？）", "你好,世界!(真的?)"),
        ("中文。「引号」、《书名》", "中文。「引号」、《书名》", "中文。「引号」、《书名》"),
        ("ｶﾞｷﾞ", "ｶﾞｷﾞ", "ガギ"),
        ("全角　空格", "全角　空格", "全角 空格"),
        ("がぎ", "がぎ", None),
        ("한글", "한글", None),
        ("豈", "豈", None),
        ("零\u200b宽", "零宽", None),
        ("👩\u200d👩\u200d👧 क्\u200dष", "👩\u200d👩\u200d👧 क्\u200dष", None),
    ],
)
def test_text_is_made_uniform(text: str, nfc: str, nfkc: str | None) -> None:
    assert clean(text, "nfc") == nfc
    assert clean(text, "nfkc") == (nfc if nfkc is None else nfkc)
    assert clean(text, "none") == text


@given(st.text())
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    for form in ("nfc", "nfkc"):
        once = clean(text, form)
        assert clean(once, form) == once
        assert "\r" not in once


def sieve(**settings: object) -> Sieve:
    values = {"normalise": "nfc", "deduplicate": True, "minimum_characters": 1, "validation": 0.2, "test": 0.1}
    return Sieve(**{**values, **settings})  # type: ignore[arg-type]


def text(content: str) -> Sample:
    return Sample("a.txt#1", {"text": content})


def test_duplicates_are_told_by_their_cleaned_content() -> None:
    one = sieve()
    kept = [one.keep(text(content)) for content in ("a\nb", "a\r\nb", "cafe\u0301", "café", "other")]
    assert [found is not None for found in kept] == [True, False, True, False, True]
    assert (one.read, one.kept, one.duplicates) == (5, 3, 2)
    assert all(sieve(deduplicate=False).keep(text("a")) for _ in range(2))


@pytest.mark.parametrize(
    "inputs", [{"text": "same"}, {"pixels": np.ones((1, 2, 2), np.uint8)}, {"features": np.ones(3, np.float32)}]
)
def test_the_same_inputs_with_another_label_are_another_sample_of_the_same_split(inputs: dict[str, Any]) -> None:
    one = sieve(validation=0.5, test=0.0)
    labels = ["a", "b", "a", "b", "c"]
    found = [one.keep(Sample(f"#{number}", {**inputs, "label": label})) for number, label in enumerate(labels)]
    assert [entry and entry[1].id for entry in found] == ["#0", "#1", None, None, "#4"]
    assert len({entry[0] for entry in found if entry}) == 1
    assert (one.kept, one.duplicates, one.conflicting) == (3, 2, 2)


def test_measuring_the_same_twice_is_no_conflict() -> None:
    one, features = sieve(), np.ones(3, np.float32)
    found = [one.keep(Sample("#", {"features": features, "target": np.float32(target)})) for target in (1, 2, 1)]
    assert [entry is not None for entry in found] == [True, True, False]
    assert (one.kept, one.duplicates, one.conflicting) == (2, 1, 0)


def test_equal_inputs_never_land_in_two_splits_whatever_the_source_says() -> None:
    one, pixels = sieve(), np.ones((1, 2, 2), np.uint8)
    first = one.keep(Sample("train#1", {"pixels": pixels, "label": "a"}, "train"))
    other = one.keep(Sample("test#1", {"pixels": pixels, "label": "b"}, "test"))
    assert first is not None and other is not None
    assert (first[0], other[0], other[1].split) == ("train", "train", "train")


def test_short_texts_are_counted_in_characters_of_any_script() -> None:
    one = sieve(minimum_characters=4)
    assert [one.keep(text(t)) is not None for t in ("四个汉字", "三个字", "  abc \n", "abcd")] == [
        True,
        False,
        False,
        True,
    ]
    assert one.too_short == 2


def test_half_a_surrogate_pair_and_the_unreadable_are_quarantined() -> None:
    one = sieve()
    assert one.keep(text("\ud83d half")) is None
    assert one.keep(Bad("b.txt#7", "broken")) is None
    assert one.keep(Sample("c.jsonl#1", {"text": "whole", "label": "x\ud800"})) is None
    assert one.quarantined == [
        {"id": "a.txt#1", "reason": "half a surrogate pair at character 0"},
        {"id": "b.txt#7", "reason": "broken"},
        {"id": "c.jsonl#1", "reason": "label: half a surrogate pair at character 1"},
    ]


def test_a_split_depends_on_content_alone_and_keeps_its_share() -> None:
    contents = [f"document {n}" for n in range(5000)]
    alone = {content: sieve().keep(text(content)) for content in contents[:100]}
    together = sieve()
    splits = {content: together.keep(text(content)) for content in reversed(contents)}
    assert all(splits[content] is not None and alone[content][0] == splits[content][0] for content in alone)  # type: ignore[index]
    counts = [
        sum(found is not None and found[0] == split for found in splits.values())
        for split in ("train", "validation", "test")
    ]
    assert counts[0] == pytest.approx(3500, abs=150)
    assert counts[1] == pytest.approx(1000, abs=120)
    assert counts[2] == pytest.approx(500, abs=90)
    assert together.text_bytes["validation"] == sum(len(c) for c, f in splits.items() if f and f[0] == "validation")
