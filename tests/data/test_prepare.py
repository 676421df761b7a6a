import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from made_data import Prepare, everything
from pydantic import ValidationError

from fullbore import store
from fullbore.base.errors import InputError, RunFailed
from fullbore.data.prepare import fingerprint
from fullbore.data.shards import Shards
from fullbore.record import artifact
from fullbore.spec.data import DataSection


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process can grow beyond `size` bytes: writing fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_everything_is_counted_and_whole(make: Prepare, documents: Path) -> None:
    (documents / "copy.txt").write_bytes((documents / "003.txt").read_bytes())
    corpus = make(documents, "causal_lm", validation=0.1, test=0.1, shard_bytes=2000)
    info = corpus.info
    rows = {split: sum(entry["rows"] for entry in entries) for split, entries in info["splits"].items()}
    assert (info["read"], info["kept"], info["duplicates"]) == (201, 200, 1)
    assert sum(rows.values()) == 200
    assert len(info["splits"]["train"]) > 3
    texts = {split: list(Shards(corpus).texts(split)) for split in rows}
    assert {split: sum(len(t.encode()) for t in found) for split, found in texts.items()} == info["text_bytes"]
    assert artifact.verify(corpus) == []
    assert not any(path.name.startswith(".") for path in corpus.folder.parent.iterdir())


def test_the_same_source_is_the_same_artifact(make: Prepare, documents: Path) -> None:
    assert make(documents, shard_bytes=3000).digest == make(documents, shard_bytes=3000).digest


def test_splits_are_stable_when_files_are_added_and_renamed(make: Prepare, documents: Path) -> None:
    def by_text(source: Path) -> dict[str, str]:
        corpus = make(source, validation=0.2, test=0.1)
        return {text: split for split in corpus.info["splits"] for text in Shards(corpus).texts(split)}

    before = by_text(documents)
    for number in range(100):
        (documents / f"0{number}-new.txt").write_text(f"new document {number}")
    (documents / "000.txt").rename(documents / "zzz.txt")
    after = by_text(documents)
    assert len(after) == 300
    assert before.items() <= after.items()


def test_limit_reads_no_further(make: Prepare, documents: Path) -> None:
    corpus = make(documents, limit=7, validation=0)
    assert everything(corpus)["id"] == [f"{number:03d}.txt#1" for number in range(7)]


def test_a_fingerprint_changes_with_files_and_settings(documents: Path) -> None:
    def of(**settings: object) -> str:
        return fingerprint(DataSection.model_validate({"source": str(documents), **settings}))

    first = of()
    assert of() == first
    assert of(normalise="nfkc") != first
    assert of(exclude=["003.txt"]) != first
    (documents / "003.txt").write_text("changed")
    second = of()
    assert second != first
    (documents / "new.txt").write_text("new")
    assert of() != second


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_object_store_is_only_another_place(make: Prepare, documents: Path, bucket: str) -> None:
    before = {split: everything(make(documents, validation=0.2), split) for split in ("train", "validation")}
    place = store.open("s3://training/documents")
    for path in documents.iterdir():
        place.write(path.name, path.read_bytes())
    first = fingerprint(DataSection(source="s3://training/documents"))
    corpus = make("s3://training/documents", validation=0.2)
    assert {split: everything(corpus, split) for split in ("train", "validation")} == before
    place.write("000.txt", b"changed")
    assert fingerprint(DataSection(source="s3://training/documents")) != first


def test_a_full_disk_is_named_and_nothing_is_lost(make: Prepare, documents: Path, tmp_path: Path) -> None:
    before = make(documents)
    with largest_file(5000), pytest.raises(RunFailed) as raised:
        make(documents, minimum_characters=2)
    message = raised.value.message
    assert "train-00000.arrow: no space left" in message
    needed = int(message.split("(")[1].split(" bytes")[0].replace(",", ""))
    assert needed > 5000
    assert raised.value.hint
    assert artifact.read(tmp_path / "corpus").digest == before.digest
    assert artifact.verify(before) == []
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())


def test_too_many_bad_samples_stop_with_the_first_ones_and_write_nothing(make: Prepare, documents: Path) -> None:
    for number in range(9):
        (documents / f"bad{number}.txt").write_bytes(b"ok \xff")
    with pytest.raises(InputError) as raised:
        make(documents)
    lines = raised.value.message.splitlines()
    assert lines[0].endswith("9 of 209 samples cannot be used, more than the error budget of 1.0 %:")
    assert lines[1:] == [*(f"  bad{n}.txt#1: invalid UTF-8 at byte 3" for n in range(5)), "  … and 4 more"]
    assert not list(documents.parent.glob("*corpus*"))
    assert make(documents, error_budget="5%").info["quarantined_count"] == 9


def test_a_link_that_leads_nowhere_matters_only_where_it_is_read(make: Prepare, documents: Path) -> None:
    (documents / "lost.txt").symlink_to("nowhere")
    (documents / "lost.bin").symlink_to("nowhere")
    assert make(documents, exclude=["lost.txt"]).info["kept"] == 200
    assert make(documents, include=["00?.txt"]).info["kept"] == 10
    with pytest.raises(InputError, match=r"lost\.txt: cannot be read \(No such file or directory\)") as raised:
        make(documents)
    assert raised.value.hint and "data.exclude" in raised.value.hint


def test_names_and_labels_that_are_not_utf8(make: Prepare, tmp_path: Path) -> None:
    folder = tmp_path / "gbk"
    folder.mkdir()
    for name, content in ((b"\xd6\xd0.txt", b"good"), (b"\xce\xc4.txt", b"bad \xff")):
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(content)
    corpus = make(folder, validation=0, error_budget=0.5)
    assert everything(corpus) == {"id": [r"\xd6\xd0.txt#1"], "text": ["good"]}
    assert [bad["id"] for bad in corpus.info["quarantined"]] == [r"\xce\xc4.txt#1"]
    (tmp_path / "a.jsonl").write_text(
        '{"text": "a", "label": "x"}\n{"text": "b", "label": "\\ud800"}\n{"\\ud800": "no text"}\n'
        '{"text": "c", "label": ' + "9" * 5000 + "}\n" + "[" * 100_000
    )
    corpus = make(tmp_path / "a.jsonl", label="label", validation=0, error_budget=0.9)
    reasons = [bad["reason"] for bad in corpus.info["quarantined"]]
    assert (corpus.info["kept"], corpus.info["classes"]) == (1, ["x"])
    assert reasons[:2] == ["label: half a surrogate pair at character 0", r"no text in field 'text' (fields: \ud800)"]
    assert reasons[2].startswith("not JSON: Exceeds the limit") and reasons[3].startswith("not JSON: ")


def test_column_names_that_are_not_utf8_are_explained(make: Prepare, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("标题,值\n一,1\n".encode("gb18030"))
    with pytest.raises(InputError, match=r"a\.csv: the column names are not UTF-8") as raised:
        make(tmp_path / "a.csv", label="值")
    assert raised.value.hint and "iconv" in raised.value.hint


def test_contradictions_are_explained(make: Prepare, documents: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.standardise is for numeric columns, found text"):
        make(documents, standardise=True)
    (tmp_path / "a.csv").write_text("a,b\n1,2\n3,4\n")
    with pytest.raises(InputError, match=r"no text for task\.kind = 'causal_lm', found features"):
        make(tmp_path / "a.csv", "causal_lm")
    with pytest.raises(InputError, match="none of 2 samples is for training"):
        make(tmp_path / "a.csv", validation=1.0)


def test_leftovers_of_dead_processes_are_removed(make: Prepare, documents: Path, tmp_path: Path) -> None:
    dead = 2**22 + 1
    for name in (f".corpus.{dead}.tmp", f".corpus.{dead}.old.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train-00000.arrow").write_bytes(b"half")
    mine = [
        tmp_path / name for name in (".mine.tmp", ".corpus.tmp", f".other.{dead}.tmp", f".corpus.{os.getppid()}.tmp")
    ]
    for path in mine:
        path.write_text("not of fullbore, of another artifact, or of a process that lives")
    make(documents)
    assert sorted(tmp_path.glob(".*")) == sorted(mine)
    shutil.rmtree(tmp_path / "corpus")


def test_large_numbers_of_samples_hold_16_bytes_each(make: Prepare, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 1000, (3000, 3))
    (tmp_path / "a.csv").write_text("a,b,c\n" + "\n".join(",".join(map(str, row)) for row in rows))
    corpus = make(tmp_path / "a.csv", label="c", validation=0, shard_bytes=4096)
    assert corpus.info["kept"] + corpus.info["duplicates"] == 3000
    assert len(corpus.info["splits"]["train"]) > 10
    classes = [int(name) for name in corpus.info["classes"]]
    assert classes == sorted(classes)
    assert sum(corpus.info["class_counts"]) == corpus.info["kept"]


@pytest.mark.parametrize("written", [0, "0 MB", "1e999", "1e308 TB"])
def test_a_shard_holds_at_least_a_byte_and_at_most_what_can_be_counted(written: object) -> None:
    with pytest.raises(ValidationError, match="expected a size such as"):
        DataSection.model_validate({"source": ".", "shard_bytes": written})
