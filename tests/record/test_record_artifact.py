"""Artifacts: all there or not there, and a single changed bit is named with its file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import xxhash

from fullbore.base.errors import CorruptError, InputError
from fullbore.base.files import remove_drafts
from fullbore.record import artifact
from fullbore.record.artifact import MANIFEST, Artifact, Parent
from tests.base.killing import killed_before_every_line

CONTENT = {"a.bin": b"\x00\x01\x02" * 20, "deep/er/数据.txt": "中文".encode() * 9, "empty": b"", ".hidden": b"x"}


def made(
    folder: Path, content: dict[str, bytes] = CONTENT, parents: tuple[Artifact, ...] = (), **info: Any
) -> Artifact:
    with artifact.create(folder, "corpus", parents) as draft:
        for name, data in content.items():
            (draft.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (draft.folder / name).write_bytes(data)
        draft.info |= info
    return artifact.read(folder, "corpus")


def test_the_manifest_names_every_file_with_its_bytes_and_checksum(tmp_path: Path) -> None:
    found = made(tmp_path / "a", rows=3, note="中文")
    manifest = json.loads((tmp_path / "a" / MANIFEST).read_text())
    assert manifest["files"] == found.files
    assert found.files == {
        name: {"bytes": len(data), "xxh3": xxhash.xxh3_64(data).hexdigest()} for name, data in CONTENT.items()
    }
    assert (manifest["kind"], manifest["schema"], manifest["parents"]) == ("corpus", 1, [])
    assert found.info == manifest["info"] == {"rows": 3, "note": "中文"}
    assert found.bytes == sum(len(data) for data in CONTENT.values())
    assert found.path("a.bin").read_bytes() == CONTENT["a.bin"]
    assert re.fullmatch(r"[0-9a-f]{32}", found.digest)
    assert artifact.verify(found) == []
    assert artifact.require_intact(found) is found
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_a_checksum_is_of_every_block(tmp_path: Path) -> None:
    data = bytes(range(256)) * 4096 * 2 + b"end"
    (tmp_path / "file").write_bytes(data)
    assert artifact.checksum(tmp_path / "file") == xxhash.xxh3_64(data).hexdigest()


def test_the_digest_covers_bytes_names_facts_and_all_ancestry_and_not_the_place(tmp_path: Path) -> None:
    parent = made(tmp_path / "parent")
    other = made(tmp_path / "other", {"a.bin": b"1"})
    one = made(tmp_path / "one", parents=(parent,), rows=1)
    assert one.parents == (Parent("corpus", parent.digest),) == (parent.as_parent(),)
    assert made(tmp_path / "two", parents=(parent,), rows=1).digest == one.digest
    different = [
        made(tmp_path / "3", parents=(other,), rows=1),
        made(tmp_path / "4", parents=(parent, other), rows=1),
        made(tmp_path / "5", parents=(parent,), rows=2),
        made(tmp_path / "6", {**CONTENT, "a.bin": CONTENT["a.bin"][:-1] + b"\x03"}, (parent,), rows=1),
        made(tmp_path / "7", {("b" if name == "empty" else name): data for name, data in CONTENT.items()}, (parent,)),
        made(tmp_path / "8", parents=(one,), rows=1),
    ]
    assert len({one.digest, *(found.digest for found in different)}) == 7
    grandchild = [made(tmp_path / name, parents=(found,)).digest for name, found in (("9", one), ("10", different[0]))]
    assert grandchild[0] != grandchild[1]


def test_any_flipped_byte_is_named_with_its_file(tmp_path: Path) -> None:
    found = made(tmp_path / "a")
    for name, data in CONTENT.items():
        for index in range(len(data)):
            flipped = bytearray(data)
            flipped[index] ^= 1 << index % 8
            found.path(name).write_bytes(flipped)
            [problem] = artifact.verify(artifact.read(tmp_path / "a"))
            assert problem.startswith(f"{found.path(name)}: xxh3 ")
        if data:
            with pytest.raises(CorruptError, match="bytes were changed"):
                artifact.require_intact(found)
        found.path(name).write_bytes(data)
    assert artifact.verify(found) == []


def test_any_flipped_bit_of_the_manifest_is_refused_or_changes_the_digest(tmp_path: Path) -> None:
    parent = made(tmp_path / "parent", {"p": b"1"})
    found = made(tmp_path / "a", {"a.bin": b"12", "b.bin": b"345"}, (parent,), rows=3)
    path = tmp_path / "a" / MANIFEST
    content = path.read_bytes()
    survived = refused = 0
    for index in range(len(content)):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[index] ^= 1 << bit
            path.write_bytes(flipped)
            try:
                other = artifact.require_intact(artifact.read(tmp_path / "a"))
            except InputError as error:
                assert str(tmp_path / "a") in str(error)
                refused += 1
            else:
                assert other.digest != found.digest
                survived += 1
    assert refused > survived


@pytest.mark.parametrize(
    "text",
    ["", "[]", "3", "null", "{}", '{"kind":"corpus"}', '{"kind":"corpus","schema":1,"files":[],"parents":[],"info":{}}',
     '{"kind":"corpus","schema":1,"files":{"a":1},"parents":[],"info":{}}',
     '{"kind":"corpus","schema":1,"files":{"a":{"bytes":"x"}},"parents":[],"info":{}}',
     '{"kind":"corpus","schema":1,"files":{},"parents":["a"],"info":{}}'],
)  # fmt: skip
def test_what_is_no_manifest_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(CorruptError, match=r"manifest\.json: not a manifest") as told:
        artifact.read(tmp_path)
    assert told.value.hint is not None


def test_a_manifest_cut_anywhere_is_named(tmp_path: Path) -> None:
    made(tmp_path / "a", {"a.bin": b"12"})
    path = tmp_path / "a" / MANIFEST
    content = path.read_bytes()
    for length in range(len(content.rstrip())):
        path.write_bytes(content[:length])
        with pytest.raises(CorruptError, match=r"manifest\.json: not a manifest"):
            artifact.read(tmp_path / "a")


def test_a_missing_a_cut_and_a_grown_file_are_named_before_a_byte_is_read(tmp_path: Path) -> None:
    found = made(tmp_path / "a")
    victim = found.path("deep/er/数据.txt")
    whole = victim.read_bytes()
    for content in (whole[:-1], b"", whole + b"1"):
        victim.write_bytes(content)
        with pytest.raises(CorruptError, match=rf"数据\.txt: {len(content)} bytes, expected {len(whole)} \(truncated"):
            artifact.read(tmp_path / "a")
        [problem] = artifact.verify(found)
        assert problem.startswith(f"{victim}: xxh3")
    victim.unlink()
    with pytest.raises(CorruptError, match=r"数据\.txt: missing"):
        artifact.read(tmp_path / "a")
    assert artifact.verify(found) == [f"{victim}: missing"]
    with pytest.raises(CorruptError, match=r"数据\.txt: missing"):
        artifact.require_intact(found)
    victim.mkdir()
    assert artifact.verify(found) == [f"{victim}: missing"]


def test_a_file_that_the_manifest_lacks_is_named_and_does_no_harm(tmp_path: Path) -> None:
    found = made(tmp_path / "a")
    (tmp_path / "a" / "deep" / "notes.txt").write_text("mine")
    assert artifact.read(tmp_path / "a") == found
    assert artifact.verify(found) == [f"{tmp_path / 'a' / 'deep' / 'notes.txt'}: not in {MANIFEST}"]
    assert artifact.require_intact(found) is found


def test_every_problem_is_named_in_one_pass(tmp_path: Path) -> None:
    found = made(tmp_path / "a")
    found.path("a.bin").write_bytes(b"1")
    found.path("empty").unlink()
    found.path("more").touch()
    problems = {line.split(": ")[0]: line.split(": ")[1].split()[0] for line in artifact.verify(found)}
    expected = {"a.bin": "xxh3", "empty": "missing", "more": "not"}
    assert problems == {str(found.path(name)): word for name, word in expected.items()}


def test_what_is_no_artifact_of_the_kind_is_refused(tmp_path: Path) -> None:
    made(tmp_path / "a")
    for place in (tmp_path / "absent", tmp_path, tmp_path / "a" / "a.bin"):
        with pytest.raises(InputError, match=r"no manifest\.json"):
            artifact.read(place)
    with pytest.raises(InputError, match="holds 'corpus', expected 'model'"):
        artifact.read(tmp_path / "a", "model")
    path = tmp_path / "a" / MANIFEST
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(InputError, match="schema 2, expected 1"):
        artifact.read(tmp_path / "a")


def test_a_draft_that_raises_leaves_what_was_there(tmp_path: Path) -> None:
    with pytest.raises(KeyError), artifact.create(tmp_path / "a", "corpus") as draft:
        (draft.folder / "half").touch()
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    found = made(tmp_path / "a")
    with pytest.raises(TypeError), artifact.create(tmp_path / "a", "corpus") as draft:
        draft.info["rows"] = {1, 2}  # no JSON
    assert artifact.verify(artifact.read(tmp_path / "a")) == []
    assert artifact.read(tmp_path / "a") == found
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("older", [False, True], ids=["nothing there", "an older one there"])
def test_an_artifact_is_whole_or_as_before_wherever_its_writer_is_killed(tmp_path: Path, older: bool) -> None:
    before = (
        "from fullbore.record import artifact\n"
        "def write(text):\n"
        "    with artifact.create(folder / 'a', 'corpus') as draft:\n"
        "        (draft.folder / 'deep').mkdir()\n"
        "        (draft.folder / 'deep' / 'one').write_text(text)\n"
        "        (draft.folder / text).write_text(text)\n"
        "        draft.info['text'] = text\n"
    ) + ("write('old')\n" if older else "")
    seen: list[str] = []
    for place in killed_before_every_line(tmp_path / "killed", before, "write('new')"):
        remove_drafts(place)
        if (place / "a").exists():
            found = artifact.read(place / "a", "corpus")
            assert artifact.verify(found) == []
            assert set(found.files) == {"deep/one", found.info["text"]}
            seen.append(found.info["text"])
        else:
            seen.append("nothing")
        assert {entry.name for entry in place.iterdir()} <= {"a"}
    assert list(dict.fromkeys(seen)) == ["old" if older else "nothing", "new"]
