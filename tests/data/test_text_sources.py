import gzip
import json
import os
import threading
from pathlib import Path

import pytest
import zstandard
from made_data import Prepare, everything

from fullbore.base.errors import InputError


def test_text_is_a_document_a_file(make: Prepare, tmp_path: Path) -> None:
    folder = tmp_path / "text"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("文章一")
    (folder / "deep" / "b.md").write_text("two")
    (folder / "latin.txt").write_bytes("café".encode("latin-1"))
    (folder / "empty.txt").write_text("")
    (folder / ".hidden.txt").write_text("not to be seen")
    (folder / "README.md").write_text("about")
    corpus = make(folder, "causal_lm", validation=0, error_budget="50%")
    assert everything(corpus) == {"id": ["README.md#1", "a.txt#1", "deep/b.md#1"], "text": ["about", "文章一", "two"]}
    info = corpus.info
    assert info["quarantined"] == [{"id": "latin.txt#1", "reason": "invalid UTF-8 at byte 3"}]
    assert (info["read"], info["kept"], info["too_short"], info["quarantined_count"]) == (5, 3, 1, 1)
    assert info["text_bytes"] == {"train": 17, "validation": 0, "test": 0}


@pytest.mark.parametrize(
    ("include", "exclude", "found"),
    [
        ([], ["deep"], ["a.txt", "b.py"]),
        (["*.txt"], [], ["a.txt", "deep/a.txt", "deep/er/c.txt"]),
        (["deep/*.txt"], [], ["deep/a.txt"]),
        (["deep/**/*.txt"], [], ["deep/a.txt", "deep/er/c.txt"]),
        (["**/[ab].*"], ["deep/"], ["a.txt", "b.py"]),
        (["?.py", "er"], [], ["b.py", "deep/er/c.txt"]),
    ],
)
def test_globs_choose_files(
    make: Prepare, tmp_path: Path, include: list[str], exclude: list[str], found: list[str]
) -> None:
    for name in ("a.txt", "b.py", "deep/a.txt", "deep/er/c.txt"):
        (tmp_path / "g" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "g" / name).write_text(name)
    corpus = make(tmp_path / "g", validation=0, include=include, exclude=exclude)
    assert everything(corpus)["id"] == [f"{name}#1" for name in found]


LINES = [
    b'{"text": "\xe4\xbd\xa0\xe5\xa5\xbd", "label": "b"}',
    b"",
    b'{"text": "two", "label": 10}',
    b'{"text": "cut',
    b'{"text": "caf\xe9", "label": "b"}',
    b'["text"]',
    b'{"body": "no text", "label": "b"}',
    b'{"text": "no label"}',
    b'{"text": "half \\ud83d", "label": "b"}',
    b'{"text": "nine", "label": 9}',
]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_jsonl_quarantines_what_is_malformed(make: Prepare, tmp_path: Path, suffix: str) -> None:
    content = b"\n".join(LINES)
    packed = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}[suffix](content)
    (tmp_path / f"mail.jsonl{suffix}").write_bytes(packed)
    source = tmp_path / f"mail.jsonl{suffix}"
    corpus = make(source, "classification", label="label", validation=0, error_budget="70%")
    assert everything(corpus)["text"] == ["你好", "two", "nine"]
    assert corpus.info["classes"] == ["9", "10", "b"]
    assert everything(corpus)["label"] == [2, 1, 0]
    assert corpus.info["class_counts"] == [1, 1, 1]
    reasons = {bad["id"].split("#")[1]: bad["reason"] for bad in corpus.info["quarantined"]}
    assert list(reasons) == ["4", "5", "6", "7", "8", "9"]
    assert reasons["4"].startswith("not JSON: Unterminated string")
    assert reasons["5"] == "invalid UTF-8 at byte 13 of the line"
    assert reasons["6"] == "found a JSON list, expected an object"
    assert reasons["7"] == "no text in field 'text' (fields: body, label)"
    assert reasons["8"] == "no label in field 'label'"
    assert reasons["9"] == "half a surrogate pair at character 5"


def test_many_frames_and_large_files_decompress(make: Prepare, tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"{n} " * 50}).encode() + b"\n" for n in range(3000)]
    frames = [zstandard.ZstdCompressor().compress(b"".join(lines[begin : begin + 1000])) for begin in (0, 1000, 2000)]
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(frames))
    assert make(tmp_path / "a.jsonl.zst").info["kept"] == 3000


def test_a_pipe_is_read_as_it_is_written(make: Prepare, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "slow.jsonl")

    def write() -> None:
        with open(tmp_path / "slow.jsonl", "w") as pipe:
            for number in range(500):
                print(json.dumps({"text": f"line {number}"}), file=pipe)

    writer = threading.Thread(target=write)
    writer.start()
    assert make(tmp_path / "slow.jsonl").info["kept"] == 500
    writer.join()


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_compressed_file_cut_short_is_named(make: Prepare, tmp_path: Path, suffix: str) -> None:
    content = b"".join(json.dumps({"text": f"line {n}"}).encode() + b"\n" for n in range(2000))
    packed = gzip.compress(content) if suffix == ".gz" else zstandard.ZstdCompressor().compress(content)
    (tmp_path / f"a.jsonl{suffix}").write_bytes(packed[:-30])
    with pytest.raises(InputError, match=rf"a\.jsonl{suffix}: compressed data is cut short or damaged"):
        make(tmp_path / f"a.jsonl{suffix}")
    assert not (tmp_path / "corpus").exists()


def test_regression_on_text_has_targets(make: Prepare, tmp_path: Path) -> None:
    lines = [{"text": f"t{n}", "score": n / 2} for n in range(4)] + [{"text": "bad", "score": "much"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    corpus = make(tmp_path / "a.jsonl", "regression", label="score", validation=0, error_budget=0.5)
    assert everything(corpus)["target"] == [0.0, 0.5, 1.0, 1.5]
    assert corpus.info["quarantined"] == [{"id": "a.jsonl#5", "reason": "label 'much' is not a number"}]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["a.csv", "README.md", "LICENSE.txt"], "csv"),
        (["a.txt"] + [f"m{n}.py" for n in range(20)] + ["icon.png"], "text"),
        (["a.jsonl.gz", "b.ndjson"], "jsonl"),
        (["x/a.jpg", "y/b.PNG"], "images"),
        (["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"], "idx"),
    ],
)
def test_the_format_is_told_by_the_files(tmp_path: Path, names: list[str], found: str) -> None:
    from fullbore.data.prepare import find
    from fullbore.spec.data import DataSection

    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find(DataSection(source=str(tmp_path))).format == found


@pytest.mark.parametrize(
    ("names", "settings", "said"),
    [
        (["a.csv", "b.csv", "a.txt"], {}, "cannot tell the format, found 2 .csv, 1 .txt"),
        (["a.bin", "b"], {}, "cannot tell the format, found 1 .bin, 1 without suffix"),
        (["a.txt"], {"format": "csv"}, "no csv files, found 1 .txt"),
        (["a.txt"], {"include": ["*.py"]}, "no files to read"),
        ([], {}, "no files to read"),
        (["a.txt"], {}, "the data set is empty (1 samples read, 1 of them too short)"),
        (["a.csv"], {}, "the data set is empty (0 samples read"),
        (["a.txt"], {"label": "x", "format": "jsonl", "include": ["*.txt"]}, "the data set is empty"),
    ],
)
def test_what_cannot_be_read_is_explained(
    make: Prepare, tmp_path: Path, names: list[str], settings: dict[str, object], said: str
) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    with pytest.raises(InputError) as raised:
        make(folder, **settings)
    assert said in raised.value.message
    assert raised.value.hint
    assert not (tmp_path / "corpus").exists()
