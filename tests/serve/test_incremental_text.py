"""Streams of tokens to text: whole characters, the same text as decoding all at once, no part of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as some

from fullbore.serve.text import Detokeniser, StopFilter

VOCABULARY = [bytes([byte]) for byte in range(256)] + ["中文".encode(), "é".encode(), b"\xe4\xb8", b"ab", b"\xad\xe6"]


def decode(tokens: Sequence[int]) -> str:
    return b"".join(VOCABULARY[token] for token in tokens).decode(errors="replace")


def streamed(tokens: Sequence[int]) -> list[str]:
    detokeniser = Detokeniser(decode)
    return [*(detokeniser.push(token) for token in tokens), detokeniser.finish()]


@given(some.lists(some.integers(0, len(VOCABULARY) - 1), max_size=60))
def test_pieces_join_to_the_whole_text(tokens: list[int]) -> None:
    assert "".join(streamed(tokens)) == decode(tokens)


@given(some.text(max_size=30))
def test_valid_text_is_never_torn(text: str) -> None:
    pieces = streamed(list(text.encode()))
    assert "".join(pieces) == text
    assert sum(piece.count("\ufffd") for piece in pieces) == text.count("\ufffd")


def test_a_character_comes_whole() -> None:
    assert streamed(list("a中b".encode())) == ["a", "", "", "中", "b", ""]


def test_words_joined_by_spaces_keep_them() -> None:
    words = ["the", "cat", "sat"]
    detokeniser = Detokeniser(lambda tokens: " ".join(words[token] for token in tokens))
    assert [detokeniser.push(0), detokeniser.push(1), detokeniser.push(2)] == ["the", " cat", " sat"]


def stop_all(stops: Sequence[str], pieces: Sequence[str]) -> tuple[str, bool]:
    stop = StopFilter(stops)
    given = []
    for piece in pieces:
        given.append(stop.push(piece))
        if stop.stopped:
            return "".join(given), True
    return "".join(given) + stop.finish(), False


@given(
    some.lists(some.text("abc", min_size=1, max_size=4), max_size=3),
    some.lists(some.text("abc", max_size=3), max_size=12),
)
def test_text_ends_before_the_first_stop_string(stops: list[str], pieces: list[str]) -> None:
    whole = "".join(pieces)
    text, stopped = stop_all(stops, pieces)
    first = min((place for stop in stops if (place := whole.find(stop)) >= 0), default=None)
    assert stopped == (first is not None)
    if stopped:
        assert whole.startswith(text)
        assert not any(stop in text for stop in stops)
    else:
        assert text == whole


def test_what_may_become_a_stop_is_held_back() -> None:
    stop = StopFilter(["\n\n"])
    assert [stop.push("a\n"), stop.push("b"), stop.push("\n"), stop.push("\nc")] == ["a", "\nb", "", ""]
    assert stop.stopped
