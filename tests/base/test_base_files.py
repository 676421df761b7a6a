"""Files and folders are whole or absent, whatever ends the writer."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fullbore.base import files
from fullbore.base.errors import RunFailed
from fullbore.base.files import folder_atomic, full_disk, link_tree, remove_drafts, write_atomic
from tests.base.killing import killed_before_every_line

Tree = dict[str, str]


def tree(folder: Path) -> Tree:
    """Every file below `folder` with its text; links are followed."""
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def fill(folder: Path, content: Tree) -> None:
    for name, text in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.parametrize("content", [b"", b"\x00\xff", "中文\n", "a" * 100_000], ids=["empty", "bytes", "text", "long"])
def test_what_is_written_is_there_and_nothing_beside_it(tmp_path: Path, content: bytes | str) -> None:
    target = tmp_path / "a b.json"
    target.write_text("old")
    write_atomic(target, content)
    assert target.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(tmp_path.iterdir()) == [target]


def test_a_write_that_fails_leaves_the_old_and_no_draft(tmp_path: Path) -> None:
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(OSError):
        write_atomic(tmp_path / "folder", "text")
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "absent" / "file", "text")
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


def test_a_disk_that_fills_leaves_the_old_and_no_draft(tmp_path: Path) -> None:
    target = tmp_path / "kept"
    target.write_text("old")
    code = (
        "import resource, sys; from pathlib import Path; from fullbore.base.files import write_atomic\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write_atomic(Path(sys.argv[1]), 'x' * 5000)\n"
        "except OSError as error: print(error.errno)\n"
    )
    told = subprocess.run([sys.executable, "-c", code, str(target)], capture_output=True, text=True, check=True).stdout
    assert int(told) == errno.EFBIG
    assert tree(tmp_path) == {"kept": "old"}


def test_a_reader_sees_one_whole_file_or_the_other(tmp_path: Path, no_sync: None) -> None:
    target = tmp_path / "file"
    contents = {letter * 20_000 for letter in "ab"}
    target.write_text("a" * 20_000)
    seen: set[str] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(target.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(200):
        write_atomic(target, "ab"[number % 2] * 20_000)
    done.set()
    reader.join()
    assert seen <= contents


def test_a_file_is_old_or_new_wherever_its_writer_is_killed(tmp_path: Path) -> None:
    places = killed_before_every_line(
        tmp_path / "killed",
        "from fullbore.base.files import write_atomic; (folder / 'file').write_text('old')",
        "write_atomic(folder / 'file', 'new' * 1000)",
    )
    found = [(place / "file").read_text() for place in places]
    assert set(found) == {"old", "new" * 1000}
    assert found == sorted(found, reverse=True), "once new, it stays new"
    for place in places:
        remove_drafts(place)
        assert [entry.name for entry in place.iterdir()] == ["file"]


OLD: Tree = {"one.txt": "old", "deep/er/two.txt": "old"}
NEW: Tree = {"one.txt": "new", "deep/er/three.txt": "new"}
FILL = f"""
from fullbore.base.files import folder_atomic, link_tree
def fill(place, content):
    for name, text in content.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
OLD, NEW = {OLD!r}, {NEW!r}
"""
WRITE = "with folder_atomic(folder / 'out') as draft: fill(draft, NEW)"


@pytest.mark.parametrize("older", [{}, OLD], ids=["nothing there", "an older one there"])
def test_a_folder_is_whole_or_as_before_wherever_its_writer_is_killed(tmp_path: Path, older: Tree) -> None:
    before = FILL + ("fill(folder / 'out', OLD)" if older else "")
    places = killed_before_every_line(tmp_path / "killed", before, WRITE)
    found = [tree(place / "out") for place in places]
    assert [content for content in found if content not in (older, NEW)] == []
    assert found.index(NEW) > 10
    assert all(content == NEW for content in found[found.index(NEW) :])
    for place, content in zip(places, found, strict=True):
        remove_drafts(place)
        assert tree(place) == {f"out/{name}": text for name, text in content.items()}


def test_a_folder_whose_block_raises_is_as_before(tmp_path: Path) -> None:
    for older in ({}, OLD):
        fill(tmp_path / "out", older)
        with pytest.raises(KeyboardInterrupt), folder_atomic(tmp_path / "out") as draft:
            fill(draft, NEW)
            raise KeyboardInterrupt
        assert tree(tmp_path) == {f"out/{name}": text for name, text in older.items()}


@pytest.mark.parametrize("exchange", [True, False], ids=["swapped in one step", "where the system cannot swap"])
def test_an_older_folder_or_file_is_replaced(
    tmp_path: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch, no_sync: None
) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda one, two: False)
    fill(tmp_path / "folder", OLD)
    (tmp_path / "file").write_text("old")
    (tmp_path / "empty").mkdir()
    for name in ("folder", "file", "empty", "in/a/new/place"):
        with folder_atomic(tmp_path / name) as draft:
            assert draft.parent == (tmp_path / name).parent
            fill(draft, NEW)
        assert tree(tmp_path / name) == NEW
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["empty", "file", "folder", "in"]


def test_a_folder_that_must_be_new_is_refused_where_one_is(tmp_path: Path) -> None:
    fill(tmp_path / "out", OLD)
    with pytest.raises(FileExistsError, match="out"), folder_atomic(tmp_path / "out", replace=False) as draft:
        fill(draft, NEW)
    assert tree(tmp_path) == {f"out/{name}": text for name, text in OLD.items()}


def test_processes_that_replace_one_folder_at_once_leave_one_whole_folder(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from fullbore.base.files import folder_atomic\n"
        "os.fsync = lambda descriptor: None\n"
        "workers = []\n"
        "for worker in 'abcd':\n"
        "    child = os.fork()\n"
        "    if child: workers.append(child); continue\n"
        "    for turn in range(25):\n"
        "        with folder_atomic(Path(sys.argv[1])) as draft:\n"
        "            for name in '12': (draft / name).write_text(f'{worker} {turn}')\n"
        "    os._exit(0)\n"
        "sys.exit(sum(os.waitpid(child, 0)[1] != 0 for child in workers))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=True)
    found = tree(tmp_path / "out")
    assert found["1"] == found["2"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_linked_files_are_the_same_files_and_the_names_are_their_own(tmp_path: Path) -> None:
    fill(tmp_path / "source", OLD)
    fill(tmp_path / "target", NEW)
    link_tree(tmp_path / "source", tmp_path / "target")
    assert tree(tmp_path / "target") == OLD
    for name in OLD:
        assert (tmp_path / "source" / name).samefile(tmp_path / "target" / name)
    (tmp_path / "source" / "one.txt").unlink()
    assert tree(tmp_path / "target") == OLD


def test_files_are_copied_where_they_cannot_be_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def another_file_system(source: str, target: str) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", another_file_system)
    fill(tmp_path / "source", OLD)
    link_tree(tmp_path / "source", tmp_path / "target")
    assert tree(tmp_path / "target") == OLD
    assert not (tmp_path / "source" / "one.txt").samefile(tmp_path / "target" / "one.txt")


def test_links_are_all_there_or_none_wherever_the_linking_is_killed(tmp_path: Path) -> None:
    places = killed_before_every_line(
        tmp_path / "killed", FILL + "fill(folder / 'source', OLD)", "link_tree(folder / 'source', folder / 'target')"
    )
    assert {str(tree(place / "target")) for place in places} == {str({}), str(dict(sorted(OLD.items())))}
    for place in places:
        assert tree(place / "source") == OLD
        remove_drafts(place)
        assert {entry.name for entry in place.iterdir()} <= {"source", "target"}


def test_a_draft_is_removed_once_its_process_is_dead_and_not_before(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from fullbore.base.files import folder_atomic\n"
        "with folder_atomic(Path(sys.argv[1])) as draft:\n"
        "    (draft / 'half').write_text('half'); print(draft, flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "out")], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        draft = Path(child.stdout.readline().strip())
        remove_drafts(tmp_path)
        assert (draft / "half").read_text() == "half"
        child.send_signal(signal.SIGKILL)
    assert draft.is_dir()
    remove_drafts(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_drafts_are_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    kept = ["notes", ".hidden", ".notes.tmp", ".old.tmp", f"notes.{dead.pid}.tmp", ".notes.²5.tmp", f".a.{dead.pid}"]
    drafts = [
        f".notes.{dead.pid}.tmp",
        f".v1.2.txt.{dead.pid}.tmp",
        f".notes.{dead.pid}.old.tmp",
        f".a.{os.getpid()}.tmp",
    ]
    for name in kept + drafts:
        (tmp_path / name).write_text("")
    (tmp_path / f".link.{dead.pid}.tmp").symlink_to(tmp_path / "notes")
    there = {entry.name for entry in tmp_path.iterdir()}
    remove_drafts(tmp_path, "a")
    assert there - {entry.name for entry in tmp_path.iterdir()} == {f".a.{os.getpid()}.tmp"}
    remove_drafts(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(kept)
    remove_drafts(tmp_path / "absent")


def test_a_full_disk_is_named_with_the_file_and_the_bytes(tmp_path: Path) -> None:
    device = Path("/dev/full")
    with (
        pytest.raises(
            RunFailed, match=r"absent/file: no space left \(1,000 bytes are needed, [\d,]+ bytes are free"
        ) as told,
        full_disk(tmp_path / "absent" / "file", 1000),
    ):
        device.write_text("text")
    assert told.value.hint is not None
    with pytest.raises(RunFailed, match=r"more is needed"), full_disk(tmp_path / "file"):
        device.write_text("text")


def test_another_error_than_a_full_disk_is_left_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), full_disk(tmp_path):
        (tmp_path / "absent").read_text()
    with full_disk(tmp_path):
        pass
