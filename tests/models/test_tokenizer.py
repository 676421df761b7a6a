"""Tokenizers: every text comes back, equal texts give equal bytes, transformers agrees, foreign ones load."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from fullbore.base.errors import InputError
from fullbore.models import tokenizer
from fullbore.models.tokenizer import Tokenizer
from fullbore.record import artifact
from fullbore.spec.data import TokenizerSection

TEXTS = [
    "def add(first, second):\n    return first + second  # sum of both\n",
    "class Order:\n    def __init__(self, seed: int) -> None:\n        self.seed = seed\n",
    "我们今天学习自然语言处理。自然语言处理是人工智能的重要方向，语言模型学习语言。\n",
    "The quick brown fox jumps over the lazy dog, and it's 2024.\n",
] * 4
SECTION = TokenizerSection(vocabulary_size=420)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tokenizer.load(tokenizer.train(TEXTS, SECTION, tmp_path_factory.mktemp("tokenizer") / "made").folder)


@given(
    text=st.one_of(st.text(), st.text("我们学习é🙂👩‍👩‍👧 \t\r\n\x00\x1b'_09aZ語テ한\u200b\u0301\ufffd", max_size=60))
)
@settings(max_examples=300, deadline=None)
def test_any_text_comes_back(made: Tokenizer, text: str) -> None:
    assert made.decode(made.encode(text)) == text


@given(text=st.text("abzé我語ひ한 0123.,_'\n\t<|", max_size=40))
@settings(max_examples=200, deadline=None)
def test_pieces_cover_the_text_and_never_glue_han_to_others(text: str) -> None:
    split = pre_tokenizers.Split(Regex(tokenizer.SPLIT), "isolated")
    pieces = [piece for piece, _ in split.pre_tokenize_str(text)]
    assert "".join(pieces) == text
    for piece in pieces:
        cjk = [character in "我語ひ" for character in piece]
        assert all(cjk) or not any(cjk)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        (
            "def foo_bar(x):\n        return x+1",
            ["def", " foo", "_bar", "(x", "):\n", "       ", " return", " x", "+", "1"],
        ),
        (
            "我们hello世界，你好。 它是2024年",
            ["我们", "hello", "世界", "，", "你好", "。", " ", "它是", "202", "4", "年"],
        ),
        ("it's don't", ["it", "'s", " don", "'t"]),
        ("日本語テキスト です", ["日本語テキスト", " ", "です"]),
        ("한국어 텍스트", ["한국어", " 텍스트"]),
        ("a\n\n  b", ["a", "\n\n", " ", " b"]),
    ],
)
def test_how_text_is_split(text: str, pieces: list[str]) -> None:
    split = pre_tokenizers.Split(Regex(tokenizer.SPLIT), "isolated")
    assert [piece for piece, _ in split.pre_tokenize_str(text)] == pieces


def test_the_artifact_says_what_it_is(made: Tokenizer) -> None:
    found = artifact.read(made.folder, "tokenizer")
    assert found.info["vocabulary_size"] == made.vocabulary_size <= 420
    assert (found.info["end_of_text"], found.info["pad"], found.info["mask"]) == (0, 1, 2)
    assert found.info["training_bytes"] == sum(len(text.encode()) for text in TEXTS)
    assert made.specials == (0, 1, 2)
    assert artifact.verify(found) == []


def test_equal_texts_give_equal_bytes_in_another_process(made: Tokenizer, tmp_path: Path) -> None:
    program = (
        "import json, sys; from pathlib import Path; from fullbore.models import tokenizer;"
        "from fullbore.spec.data import TokenizerSection as S;"
        "tokenizer.train(json.loads(sys.argv[1]), S(vocabulary_size=420), Path(sys.argv[2]))"
    )
    for threads in ("1", "4"):
        out = tmp_path / threads
        subprocess.run(
            [sys.executable, "-c", program, json.dumps(TEXTS), str(out)],
            check=True, env={"RAYON_NUM_THREADS": threads, "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        assert (out / "tokenizer.json").read_bytes() == (made.folder / "tokenizer.json").read_bytes()
        assert artifact.read(out).digest == artifact.read(made.folder).digest


def test_transformers_gives_equal_ids(made: Tokenizer) -> None:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    texts = [*TEXTS[:4], "<|endoftext|> is text here", "🙂 é \x00", "我们 and them"]
    for door in (PreTrainedTokenizerFast, AutoTokenizer):
        theirs = door.from_pretrained(made.folder)
        assert [theirs.encode(text) for text in texts] == [ids.tolist() for ids in made.encode_batch(texts)]
        assert (theirs.eos_token_id, theirs.pad_token_id, theirs.mask_token_id) == (0, 1, 2)
        assert theirs.decode(made.encode(TEXTS[2])) == TEXTS[2]


def test_nothing_in_a_text_is_read_as_a_special_token(made: Tokenizer) -> None:
    ids = made.encode("a<|endoftext|><|pad|><|mask|>b")
    assert not set(ids.tolist()) & set(made.specials)
    assert made.decode([*ids.tolist(), made.end_of_text]) == "a<|endoftext|><|pad|><|mask|>b"


def test_ids_come_in_the_smallest_dtype(made: Tokenizer) -> None:
    assert {ids.dtype for ids in made.encode_batch(["a", "", "我"])} == {np.dtype(np.uint16)}
    assert len(made.encode("")) == 0


def test_common_words_became_one_token(made: Tokenizer) -> None:
    assert len(made.encode("语言")) == 1
    assert len(made.encode(" self")) == 1


def test_only_the_first_bytes_are_read(tmp_path: Path) -> None:
    section = TokenizerSection(vocabulary_size=300, training_bytes=100)
    asked: list[int] = []

    def texts() -> object:
        for index in range(1000):
            asked.append(index)
            yield "word " * 10

    made = tokenizer.train(texts(), section, tmp_path / "t")  # type: ignore[arg-type]
    assert made.info["training_bytes"] == 100
    assert len(asked) <= 3


def test_no_text_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no text"):
        tokenizer.train(["", ""], SECTION, tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


def test_a_limit_cuts_and_keeps_the_closing_token(made: Tokenizer, tmp_path: Path) -> None:
    whole = made.encode(TEXTS[0])
    assert made.encode_batch([TEXTS[0]], limit=4)[0].tolist() == whole[:4].tolist()
    bert = _bert(tmp_path)
    assert bert.encode_batch(["a b c d e"], limit=4)[0].tolist() == [2, 5, 6, 3]


def _bert(folder: Path) -> Tokenizer:
    from transformers import BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcde"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    (folder / "vocab.txt").unlink(missing_ok=True)
    return tokenizer.load(folder)


def test_a_foreign_tokenizer_is_read_and_adopted(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    bert = _bert(source)
    assert (bert.end_of_text, bert.pad, bert.mask) == (3, 0, 4)
    assert bert.encode("a b").tolist() == [2, 5, 6, 3]
    adopted = tokenizer.adopt(source, tmp_path / "adopted")
    shutil.rmtree(source)
    assert tokenizer.load(adopted.folder).encode("a b").tolist() == [2, 5, 6, 3]
    assert adopted.info["mask"] == 4


def test_a_bert_vocabulary_alone_is_enough(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcde"]))
    assert tokenizer.load(tmp_path).encode("A b").tolist() == [2, 5, 6, 3]


def test_what_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no tokenizer\.json"):
        tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        tokenizer.load(tmp_path)


def test_a_tokenizer_that_asks_for_code_is_refused(made: Tokenizer, tmp_path: Path) -> None:
    shutil.copytree(made.folder, tmp_path / "t")
    (tmp_path / "t/tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["evil.T", None]}}))
    with pytest.raises(InputError, match="auto_map"):
        tokenizer.load(tmp_path / "t")
