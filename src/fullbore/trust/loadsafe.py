"""What may be read from a model folder: safetensors, JSON and our own formats; nothing that can execute.

A pickle runs code when it is loaded, so pickled weights are refused with the command that converts them, whatever the
file is called; so is code that a config asks to import.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from fullbore.base.errors import CorruptError, InputError

_PICKLED = frozenset((".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib"))
_OTHER = {
    ".gguf": 'python -c "from transformers import AutoModelForCausalLM as M; '
    "M.from_pretrained('{folder}', gguf_file='{name}').save_pretrained('{folder}-safetensors')\"",
    ".h5": 'python -c "from transformers import AutoModel as M; '
    "M.from_pretrained('{folder}', from_tf=True).save_pretrained('{folder}-safetensors')\"",
    ".msgpack": 'python -c "from transformers import AutoModel as M; '
    "M.from_pretrained('{folder}', from_flax=True).save_pretrained('{folder}-safetensors')\"",
}
_CONVERT = (
    'python -c "import torch, safetensors.torch as s; s.save_file({{k: v.clone() for k, v in '
    "torch.load('{path}', map_location='cpu', weights_only=True).items()}}, '{target}')\""
)
_HEADER_LIMIT = 100_000_000
_DTYPES = frozenset(
    ("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2")
)


def pickle_like(head: bytes) -> bool:
    """Whether a file that begins so is a pickle: protocols 2 to 5, or torch's zip and legacy archives.

    The header length of some safetensors files begins like a pickle; the `{` behind it tells them apart.
    """
    if _safetensors_like(head):
        return False
    return (len(head) > 1 and head[0] == 0x80 and head[1] <= 5) or head.startswith((b"PK\x03\x04", b"\x89HDF"))


def _safetensors_like(head: bytes) -> bool:
    return head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= _HEADER_LIMIT


def _refuse(path: Path) -> InputError:
    target = path.with_name("model.safetensors")
    return InputError(
        f"{path}: pickled weights, which run code when they are loaded; expected safetensors",
        hint="if you trust where it comes from: " + _CONVERT.format(path=path, target=target),
    )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, in the order to read them, each checked by `require_safetensors`.

    Pickles that lie beside safetensors are never opened. Raises InputError where only formats that are not read lie
    there, with the command that converts them, and CorruptError where a file is not what its name says.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder", hint="give a folder with config.json and model.safetensors")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(read_json(index).get("weight_map", {}).values()))
        found = [folder / Path(name).name for name in names]
    else:
        found = [folder / "model.safetensors"] if (folder / "model.safetensors").is_file() else []
        found = found or [path for path in files if path.suffix == ".safetensors"]
    for path in found:
        require_safetensors(path)
    if found:
        return found
    for path in files:
        if path.suffix in _OTHER:
            raise InputError(
                f"{path}: {path.suffix[1:]} weights are not read, expected safetensors",
                hint="convert: " + _OTHER[path.suffix].format(folder=folder, name=path.name),
            )
        if path.suffix in _PICKLED or pickle_like(_head(path)):
            raise _refuse(path)
    raise InputError(
        f"{folder}: no weights, expected model.safetensors", hint=f"found {', '.join(p.name for p in files)}"
    )


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(16)


def require_safetensors(path: Path) -> Path:
    """`path`, if it is a well-formed safetensors file whose tensors lie inside it; only its header is read.

    Format: https://huggingface.co/docs/safetensors: little-endian u64 header length, JSON header, tensors.
    """
    if not path.is_file():
        raise InputError(f"{path}: missing, though the model's index names it", hint="fetch the model folder again")
    size, head = path.stat().st_size, _head(path)
    if pickle_like(head):
        raise _refuse(path)
    length = struct.unpack("<Q", head[:8])[0] if len(head) >= 8 else 0
    if not 2 <= length <= min(size - 8, _HEADER_LIMIT):
        raise CorruptError(f"{path}: not a safetensors file, or cut short ({size} bytes)", hint="fetch it again")
    with open(path, "rb") as file:
        file.seek(8)
        try:
            header = json.loads(file.read(length))
            end = _last_byte(header)
        except (ValueError, KeyError, TypeError, AttributeError, UnicodeDecodeError, RecursionError) as error:
            raise CorruptError(f"{path}: its safetensors header is damaged ({error})", hint="fetch it again") from None
    if 8 + length + end != size:
        raise CorruptError(f"{path}: {size} bytes, its header promises {8 + length + end}", hint="fetch it again")
    return path


def _last_byte(header: dict[str, Any]) -> int:
    end = 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, stop = entry["data_offsets"]
        if entry["dtype"] not in _DTYPES or not 0 <= begin <= stop:
            raise ValueError(f"tensor {name!r}: dtype {entry['dtype']!r} at {begin}..{stop}")
        end = max(end, stop)
    return end


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises InputError naming the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})", hint="fetch the model folder again") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: found {type(value).__name__}, expected a JSON object")
    return value


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder. Raises InputError if there is none, or if it asks to import code (`auto_map`)."""
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder}: no config.json", hint="give a folder that fullbore or transformers wrote")
    return require_no_code(read_json(path), path)


def require_no_code(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """`config`, unless it names code to import beside it."""
    if config.get("auto_map") or config.get("custom_pipelines"):
        key = "auto_map" if config.get("auto_map") else "custom_pipelines"
        raise InputError(
            f"{path} {key}: the model asks to execute code that came with it, which fullbore never does",
            hint=f"use an architecture that transformers itself contains, and remove {key} from config.json",
        )
    return config
