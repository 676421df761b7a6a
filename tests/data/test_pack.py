from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_data import Bytes, Prepare, everything

from fullbore.base.errors import InputError, RunFailed
from fullbore.data.pack import _rows, pack
from fullbore.data.shards import Shards
from fullbore.record import artifact
from fullbore.record.artifact import Artifact
from fullbore.record.ledger import State
from fullbore.record.progress import no_progress
from fullbore.record.span import Recorder
from fullbore.spec.model import TaskSection

END = Bytes.end_of_text


def packed(corpus: Artifact, out: Path, kind: str = "causal_lm", length: int = 16, **settings: object) -> Artifact:
    task = TaskSection.model_validate({"kind": kind})
    given = {"recorder": Recorder(), "progress": no_progress, "shard_bytes": 2000, **settings}
    return pack(corpus, Bytes(), task, length, out, **given)  # type: ignore[arg-type]


def stream(rows: np.ndarray) -> list[int]:
    """The tokens that rows sharing one token with their neighbours were cut from."""
    return [*rows[:, :-1].ravel().tolist(), int(rows[-1, -1])]


def test_rows_hold_the_documents_joined_by_end_of_text(make: Prepare, documents: Path, tmp_path: Path) -> None:
    corpus = make(documents, "causal_lm", validation=0.2)
    recorder = Recorder()
    shards = packed(corpus, tmp_path / "shards", recorder=recorder)
    assert len(shards.info["splits"]["train"]) > 3
    for split in ("train", "validation"):
        expected = [token for text in Shards(corpus).texts(split) for token in (*text.encode(), END)]
        rows = np.array(everything(shards, split)["tokens"])
        assert rows.dtype == np.uint16
        assert rows.shape[1] == 17
        assert stream(rows) == expected[: len(rows) * 16 + 1]
        assert len(expected) - len(rows) * 16 <= 16
        assert shards.info["tokens"][split] == len(expected)
    assert shards.info["text_bytes"] == corpus.info["text_bytes"]
    assert [parent.digest for parent in shards.parents] == [corpus.digest]
    assert {State.TOKENISE, State.PACK} <= set(recorder.ledger().seconds)


@given(
    batches=st.lists(
        st.lists(st.lists(st.integers(0, 255), max_size=12), min_size=1, max_size=5), min_size=1, max_size=6
    ),
    length=st.integers(1, 9),
)
def test_any_batches_of_documents_give_the_same_rows(batches: list[list[list[int]]], length: int) -> None:
    def rows_of(groups: list[list[list[int]]]) -> np.ndarray:
        encoded = (([np.array(d, np.uint16) for d in group], {}, 0) for group in groups)
        return np.concatenate([block["tokens"] for block, _, _ in _rows(encoded, END, length)])

    flat = [document for group in batches for document in group]
    expected = [token for document in flat for token in (*document, END)]
    rows = rows_of(batches)
    assert np.array_equal(rows, rows_of([flat]))
    assert len(rows) == max(0, len(expected) - 1) // length
    if len(rows):
        assert stream(rows) == expected[: len(rows) * length + 1]


def test_classifiers_keep_one_row_a_sample_with_its_label(make: Prepare, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,kind\n" + "".join(f"{'样本' * n} {n},k{n % 3}\n" for n in range(60)))
    corpus = make(tmp_path / "a.csv", "classification", label="kind", validation=0.2)
    shards = packed(corpus, tmp_path / "shards", "classification", 20)
    assert shards.info["classes"] == ["k0", "k1", "k2"]
    assert shards.info["class_counts"] == corpus.info["class_counts"]
    for split in ("train", "validation"):
        before, after = everything(corpus, split), everything(shards, split)
        assert after["label"] == before["label"]
        assert [t.tolist() for t in after["tokens"]] == [list(text.encode()[:20]) for text in before["text"]]


def test_large_vocabularies_take_four_bytes(make: Prepare, documents: Path, tmp_path: Path) -> None:
    class Large(Bytes):
        vocabulary_size = 70_000
        end_of_text = 69_999

        def encode_batch(self, texts: list[str], limit: int | None = None) -> list[np.ndarray]:
            return [tokens.astype(np.uint32) for tokens in super().encode_batch(texts, limit)]

    corpus, task = make(documents), TaskSection(kind="causal_lm")
    shards = pack(
        corpus, Large(), task, 16, tmp_path / "s", recorder=Recorder(), progress=no_progress, shard_bytes=10**6
    )
    tokens = np.array(everything(shards)["tokens"])
    assert tokens.dtype == np.uint32
    assert (tokens == 69_999).any()


def test_a_split_too_small_for_a_row_is_named(make: Prepare, documents: Path, tmp_path: Path) -> None:
    corpus = make(documents, validation=0.1)
    with pytest.raises(InputError, match=r"validation has [\d,]+ tokens, less than a row of 4097"):
        packed(corpus, tmp_path / "shards", length=4096)
    assert not list(tmp_path.glob("*shards*"))


def test_numbers_cannot_be_tokenised(make: Prepare, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="no text to tokenise, the columns are id, features"):
        packed(make(tmp_path / "a.csv", validation=0), tmp_path / "shards")


def test_a_full_disk_is_named_and_the_corpus_is_whole(make: Prepare, documents: Path, tmp_path: Path) -> None:
    from test_prepare import largest_file

    corpus = make(documents)
    with (
        largest_file(3000),
        pytest.raises(RunFailed, match=r"train-00000\.arrow: no space left \([\d,]+ bytes are needed"),
    ):
        packed(corpus, tmp_path / "shards", shard_bytes=10**6)
    assert artifact.verify(corpus) == []
    assert not list(tmp_path.glob("*shards*"))
    assert packed(corpus, tmp_path / "shards").kind == "shards"
