import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullbore.base.errors import CorruptError, InputError
from fullbore.data.columns import Column
from fullbore.data.shards import Shards, Writer
from fullbore.record import artifact

SCHEMA = {
    "id": Column("id", "str", None),
    "text": Column("text", "str", None),
    "tokens": Column("tokens", "uint16", None),
    "pixels": Column("pixels", "uint8", (2, 3)),
    "label": Column("label", "int64"),
}


def write(folder: Path, rows: list[dict[str, Any]], shard_bytes: int = 1 << 20) -> Shards:
    with artifact.create(folder, "corpus") as draft:
        writer = Writer(draft.folder, "train", SCHEMA, shard_bytes)
        for row in rows:
            writer.write(
                {name: np.asarray([value]) if name in ("pixels", "label") else [value] for name, value in row.items()}
            )
        draft.info["splits"] = {"train": writer.finish(), "test": []}
        draft.info["columns"] = {name: column.to_json() for name, column in SCHEMA.items()}
    return Shards(folder)


def row(number: int, text: str, tokens: list[int]) -> dict[str, Any]:
    return {
        "id": f"a#{number}",
        "text": text,
        "tokens": np.array(tokens, np.uint16),
        "pixels": np.full((2, 3), number % 256, np.uint8),
        "label": number,
    }


def hundred(folder: Path, shard_bytes: int = 400) -> Shards:
    return write(folder, [row(n, f"文本 {n}", list(range(n % 5))) for n in range(100)], shard_bytes)


@given(
    cells=st.lists(
        st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.lists(st.integers(0, 65535), max_size=9)),
        min_size=1,
        max_size=30,
    ),
    shard_bytes=st.sampled_from([1, 200, 1 << 20]),
    data=st.data(),
)
def test_what_is_written_is_gathered_in_any_order(
    cells: list[tuple[str, list[int]]], shard_bytes: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shards = write(
        tmp_path_factory.mktemp("s") / "corpus", [row(n, *cell) for n, cell in enumerate(cells)], shard_bytes
    )
    ids = np.array(data.draw(st.lists(st.integers(0, len(cells) - 1), max_size=40)), np.int64)
    assert shards.rows("train") == len(cells)
    found = shards.gather("train", ids)
    assert list(found) == ["text", "tokens", "pixels", "label"]
    assert found["text"] == [cells[i][0] for i in ids]
    assert [tokens.tolist() for tokens in found["tokens"]] == [cells[i][1] for i in ids]
    assert np.array_equal(found["label"], ids)
    assert found["pixels"].shape == (len(ids), 2, 3)  # type: ignore[union-attr]
    assert list(shards.texts("train")) == [text for text, _ in cells]
    assert shards.gather("train", ids, ["id"]) == {"id": [f"a#{i}" for i in ids]}


def test_pyarrow_opens_a_shard_without_us(tmp_path: Path) -> None:
    shards = hundred(tmp_path / "corpus")
    entries = shards.info["splits"]["train"]
    assert len(entries) > 5
    tables = [pa.ipc.open_file(pa.memory_map(str(tmp_path / "corpus" / entry["file"]))).read_all() for entry in entries]
    assert [table.num_rows for table in tables] == [entry["rows"] for entry in entries]
    assert pa.concat_tables(tables)["text"].to_pylist() == [f"文本 {n}" for n in range(100)]
    assert sum(table["label"].to_pylist()[0] for table in tables[:1]) == 0


def test_the_same_rows_are_the_same_bytes(tmp_path: Path) -> None:
    assert hundred(tmp_path / "one").digest == hundred(tmp_path / "two").digest


def test_fixed_cells_are_read_in_place(tmp_path: Path) -> None:
    shards = hundred(tmp_path / "corpus", 1 << 20)
    view = shards._shard("train-00000.arrow")["pixels"]
    assert not view.values.flags.owndata
    assert not view.values.flags.writeable


def test_threads_gather_together(tmp_path: Path) -> None:
    shards = hundred(tmp_path / "corpus")
    ids = np.arange(100)
    found: list[bool] = []

    def work(step: int) -> None:
        for _ in range(20):
            taken = shards.gather("train", np.roll(ids, step))
            found.append(np.array_equal(taken["label"], np.roll(ids, step)))

    threads = [threading.Thread(target=work, args=(step,)) for step in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 80


def test_a_truncated_shard_is_named(tmp_path: Path) -> None:
    hundred(tmp_path / "corpus")
    victim = tmp_path / "corpus" / "train-00003.arrow"
    victim.write_bytes(victim.read_bytes()[:-20])
    with pytest.raises(CorruptError, match=r"train-00003\.arrow: \d+ bytes, expected \d+ \(truncated"):
        Shards(tmp_path / "corpus")


def test_a_shard_that_shrinks_after_opening_is_named(tmp_path: Path) -> None:
    shards = hundred(tmp_path / "corpus")
    victim = tmp_path / "corpus" / "train-00003.arrow"
    victim.write_bytes(victim.read_bytes()[:-20])
    with pytest.raises(CorruptError, match=r"train-00003\.arrow: not a whole shard"):
        shards.gather("train", np.arange(100))


def test_a_flipped_byte_is_named_with_its_shard(tmp_path: Path) -> None:
    shards = hundred(tmp_path / "corpus")
    victim = tmp_path / "corpus" / "train-00002.arrow"
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    [problem] = artifact.verify(Shards(tmp_path / "corpus").artifact)
    assert str(victim) in problem
    with pytest.raises(CorruptError, match=r"train-00002\.arrow: xxh3"):
        artifact.require_intact(shards.artifact)


def test_wrong_ids_splits_and_kinds_are_refused(tmp_path: Path) -> None:
    shards = hundred(tmp_path / "corpus")
    for ids in ([100], [-1]):
        with pytest.raises(IndexError):
            shards.gather("train", np.array(ids))
    assert shards.rows("test") == 0
    with pytest.raises(InputError, match="no split 'dev', there are train, test"):
        shards.rows("dev")
    with artifact.create(tmp_path / "model", "model"):
        pass
    with pytest.raises(InputError, match="a model holds no samples"):
        Shards(tmp_path / "model")
