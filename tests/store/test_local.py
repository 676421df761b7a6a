import os
from pathlib import Path

import pytest

from fullbore import store
from fullbore.base.errors import InputError


def fill(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def test_lists_reads_and_streams_whatever_the_names_are(tmp_path: Path) -> None:
    files = {"b.txt": b"two", "a/中文 文件.txt": b"one", "a/x*y[1]#%20.txt": b"three", "空.txt": b""}
    fill(tmp_path, files)
    place = store.open(str(tmp_path))
    assert [(entry.path, entry.bytes) for entry in place.list()] == sorted((n, len(c)) for n, c in files.items())
    for name, content in files.items():
        assert place.read(name) == content
        with place.stream(name) as stream:
            assert stream.read() == content


def test_names_that_are_not_utf8_are_printable_and_read(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    odd = os.path.join(os.fsencode(tmp_path), b"a", b"\xd6\xd0.txt")
    with open(odd, "wb") as file:
        file.write(b"content")
    place = store.open(str(tmp_path))
    assert [entry.path for entry in place.list()] == [r"a/\xd6\xd0.txt"]
    assert place.read(r"a/\xd6\xd0.txt") == b"content"
    with place.stream(r"a/\xd6\xd0.txt") as stream:
        assert stream.read() == b"content"
    Path(os.fsdecode(odd)).unlink()
    with pytest.raises(InputError, match=r"a/\\xd6\\xd0\.txt: cannot be read"):
        place.read(r"a/\xd6\xd0.txt")


def test_links_to_folders_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    fill(tmp_path, {"root/a.txt": b"1", "root/deep/b.txt": b"2", "away/c.txt": b"3", "away/more/d.txt": b"4"})
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "away")
    (tmp_path / "root" / "again").symlink_to(tmp_path / "away")
    (tmp_path / "root" / "deep" / "up").symlink_to("..")
    (tmp_path / "away" / "more" / "self").symlink_to(".")
    paths = [entry.path for entry in store.open(str(tmp_path / "root")).list()]
    assert paths == [
        "a.txt", "again/c.txt", "again/more/d.txt", "deep/b.txt", "linked/c.txt", "linked/more/d.txt",
    ]  # fmt: skip


def test_a_version_changes_with_the_content(tmp_path: Path) -> None:
    fill(tmp_path, {"a.txt": b"one"})
    place = store.open(str(tmp_path))
    before = place.list()
    os.utime(tmp_path / "a.txt", ns=(1, 1))
    assert place.list() != before


def test_a_single_file_is_a_store_of_one(tmp_path: Path) -> None:
    fill(tmp_path, {"a.csv": b"1", "b.csv": b"2"})
    place = store.open(f"file://{tmp_path}/a.csv")
    assert [entry.path for entry in place.list()] == ["a.csv"]
    assert place.read("a.csv") == b"1"


def test_writes_whole_files_and_leaves_nothing_beside_them(tmp_path: Path) -> None:
    place = store.open(str(tmp_path))
    place.write("deep/er/file.bin", b"1" * 1000)
    place.write("deep/er/file.bin", b"2")
    assert place.read("deep/er/file.bin") == b"2"
    assert [entry.path for entry in place.list()] == ["deep/er/file.bin"]


def test_the_standard_library_is_a_store() -> None:
    paths = [entry.path for entry in store.open("python://stdlib").list()]
    assert {"json/decoder.py", "os.py"} <= set(paths)
    assert not any("site-packages" in path or "__pycache__" in path for path in paths)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("/nowhere/at/all", "no such file or folder"),
        ("hdfs://host/path", "no such protocol"),
        ("s3:///prefix", "no bucket"),
        ("x" * 300, "cannot be read"),
    ],
)
def test_what_is_not_there_is_named(url: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as raised:
        store.open(url)
    assert url in raised.value.message
    assert raised.value.hint


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    (tmp_path / "lost.txt").symlink_to("nowhere")
    problems = {entry.path: entry.problem for entry in store.open(str(tmp_path)).list()}
    assert problems == {"loop.txt": "Too many levels of symbolic links", "lost.txt": "No such file or directory"}
    with pytest.raises(InputError, match=r"gone\.txt: cannot be read \(No such file"):
        store.open(str(tmp_path)).read("gone.txt")
