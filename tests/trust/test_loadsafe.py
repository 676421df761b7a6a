"""What weights may be read: formats that cannot execute, whole and well-formed."""

from __future__ import annotations

import json
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fullbore.base.errors import CorruptError, InputError
from fullbore.trust import loadsafe


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.mark,)  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt", "weights.pkl"])
def test_pickles_are_refused_with_the_way_to_convert(tmp_path: Path, name: str) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / name)
    with pytest.raises(InputError) as caught:
        loadsafe.weight_files(tmp_path)
    assert name in caught.value.message
    assert "save_file" in str(caught.value.hint)
    assert str(tmp_path / name) in str(caught.value.hint)


def test_the_conversion_that_is_proposed_works(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(4.0)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError) as caught:
        loadsafe.weight_files(tmp_path)
    command = str(caught.value.hint).split('python -c "', 1)[1].rstrip('"')
    subprocess.run([sys.executable, "-c", command], check=True)
    assert loadsafe.weight_files(tmp_path) == [tmp_path / "model.safetensors"]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_called_safetensors_is_refused_and_never_run(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "executed"
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(Bomb(mark), protocol))
    with pytest.raises(InputError, match="run code"):
        loadsafe.weight_files(tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize("second", range(6))
def test_a_header_length_that_begins_like_a_pickle_is_none(tmp_path: Path, second: int) -> None:
    """The header's length is 0x80 + 256 n bytes: the file begins with 80 0n, as pickles do."""
    length = 0x80 + 256 * second
    text = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode().ljust(length)
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + text + bytes(16))
    assert loadsafe.weight_files(tmp_path) == [path]


def test_a_torch_archive_called_safetensors_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="pickled"):
        loadsafe.weight_files(tmp_path)


def test_an_unnamed_pickle_is_found_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(pickle.dumps({"a": 1}, 4))
    with pytest.raises(InputError, match="pickled"):
        loadsafe.weight_files(tmp_path)


def test_pickles_beside_safetensors_are_left_alone(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    assert loadsafe.weight_files(tmp_path) == [tmp_path / "model.safetensors"]


def test_gguf_is_refused_with_the_way_to_convert(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(20))
    with pytest.raises(InputError) as caught:
        loadsafe.weight_files(tmp_path)
    assert "gguf_file='model.gguf'" in str(caught.value.hint)


def test_missing_folder_and_missing_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        loadsafe.weight_files(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no weights, expected model\.safetensors"):
        loadsafe.weight_files(tmp_path)


@pytest.mark.parametrize("kept", [0, 4, 8, 40, -1])
def test_a_file_cut_short_is_named(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(64)}, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CorruptError, match=r"model\.safetensors"):
        loadsafe.weight_files(tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        {"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 10**15]}},
        {"w": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}},
        {"w": {"dtype": "OBJECT", "shape": [4], "data_offsets": [0, 16]}},
        {"w": 3},
        [1, 2],
    ],
)
def test_headers_that_lie(tmp_path: Path, header: object) -> None:
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(16))
    with pytest.raises(CorruptError):
        loadsafe.weight_files(tmp_path)


def test_the_parts_of_a_sharded_model_are_read_in_order(tmp_path: Path) -> None:
    for part in ("b", "a"):
        save_file({part: torch.ones(2)}, tmp_path / f"{part}.safetensors")
    index = {"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [path.name for path in loadsafe.weight_files(tmp_path)] == ["a.safetensors", "b.safetensors"]
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(InputError, match=r"b\.safetensors: missing"):
        loadsafe.weight_files(tmp_path)


def test_an_index_cannot_reach_outside_its_folder(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    save_file({"w": torch.ones(2)}, tmp_path / "outside.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "../outside.safetensors"}}))
    with pytest.raises(InputError, match="missing"):
        loadsafe.weight_files(model)


def test_a_config_that_asks_for_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "x", "auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(InputError, match="auto_map"):
        loadsafe.read_config(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "\udc80"])
def test_a_config_that_is_not_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"config\.json"):
        loadsafe.read_config(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match=r"no config\.json"):
        loadsafe.read_config(tmp_path)
