import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from made_data import Prepare, everything
from PIL import Image

from fullbore.base.errors import InputError
from fullbore.data.decode import decode


def picture(size: tuple[int, int], seed: int, form: str) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)
    if form == "jpeg":
        return simplejpeg.encode_jpeg(pixels, 90)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "png")
    return out.getvalue()


def test_corrupt_images_are_quarantined_among_good_ones(make: Prepare, tmp_path: Path) -> None:
    folder = tmp_path / "pets"
    for number in range(12):
        kind, form = ("cat", "jpeg") if number % 2 else ("dog", "png")
        path = folder / kind / f"{number:02d}.{form}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture((24, 32), number, form))
    jpeg, png = folder / "cat" / "03.jpeg", folder / "dog" / "04.png"
    jpeg.write_bytes(jpeg.read_bytes()[:-200])
    png.write_bytes(png.read_bytes()[:-200])
    (folder / "dog" / "06.png").write_bytes(b"not an image at all")
    (folder / "dog" / "08.png").write_bytes(b"")
    corpus = make(folder, "classification", validation=0, error_budget="40%", image_size=16)
    assert {bad["id"] for bad in corpus.info["quarantined"]} == {
        "cat/03.jpeg#1", "dog/04.png#1", "dog/06.png#1", "dog/08.png#1",
    }  # fmt: skip
    assert corpus.info["class_counts"] == [5, 3]
    assert corpus.info["columns"]["pixels"]["shape"] == [3, 16, 16]
    assert everything(corpus)["pixels"][0].shape == (3, 16, 16)
    with pytest.raises(
        InputError, match=r"(?s)4 of 12 samples cannot be used, more than the error budget of 1\.0 %.*cat/03\.jpeg#1: "
    ):
        make(folder, "classification", image_size=16)


def test_images_of_other_sizes_are_told_from_the_first(make: Prepare, tmp_path: Path) -> None:
    for number, size in enumerate([(8, 8), (8, 8), (9, 8)]):
        (tmp_path / "p" / "train" / "x").mkdir(parents=True, exist_ok=True)
        (tmp_path / "p" / "train" / "x" / f"{number}.png").write_bytes(picture(size, number, "png"))
    (tmp_path / "p" / "val" / "y").mkdir(parents=True)
    (tmp_path / "p" / "val" / "y" / "0.png").write_bytes(picture((8, 8), 9, "png"))
    corpus = make(tmp_path / "p", "classification", error_budget=0.5)
    [bad] = corpus.info["quarantined"]
    assert bad["reason"] == "pixels 3×9×8, expected 3×8×8 as the first (data.image_size brings them to one size)"
    assert {s: sum(e["rows"] for e in entries) for s, entries in corpus.info["splits"].items()} == {
        "train": 2, "validation": 1, "test": 0,
    }  # fmt: skip


def test_images_need_class_folders(make: Prepare, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.png").write_bytes(picture((8, 8), 0, "png"))
    with pytest.raises(InputError, match=r"a\.png lies in no class folder"):
        make(tmp_path / "p")


@pytest.mark.parametrize("size", [None, 64])
def test_sixteen_bits_are_scaled_to_eight(size: int | None) -> None:
    ramp = np.linspace(0, 65535, 256 * 256).round().astype(np.uint16).reshape(256, 256)
    content = io.BytesIO()
    Image.fromarray(ramp).save(content, "PNG")
    pixels = decode(content.getvalue(), size)
    assert np.array_equal(pixels[0], pixels[2])
    if size is None:
        assert np.abs(pixels[0] - ramp / 257).max() <= 0.5
    assert pixels.min() <= 3 and pixels.max() >= 252 and len(np.unique(pixels)) >= 64


def test_decoding_keeps_colours_and_order() -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, :30, 0], pixels[:, 30:, 2] = 250, 250
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "png")
    for content in (simplejpeg.encode_jpeg(pixels, 95), out.getvalue()):
        for size in (None, 8, 100):
            found = decode(content, size)
            assert found.shape == ((3, 40, 60) if size is None else (3, size, size))
            assert found.flags.c_contiguous
            left, right = found[:, :, : found.shape[2] // 4], found[:, :, -found.shape[2] // 4 :]
            assert left.mean((1, 2)) == pytest.approx([250, 0, 0], abs=6)
            assert right.mean((1, 2)) == pytest.approx([0, 0, 250], abs=6)
    grey = io.BytesIO()
    Image.fromarray(pixels[:, :, 0]).save(grey, "jpeg")
    assert decode(grey.getvalue()).shape == (3, 40, 60)
    inks = io.BytesIO()
    Image.fromarray(pixels).convert("CMYK").save(inks, "jpeg")
    assert decode(inks.getvalue()).shape == (3, 40, 60)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def fashion(folder: Path, packed: bool) -> np.ndarray:
    folder.mkdir()
    rng = np.random.default_rng(0)
    train = rng.integers(0, 255, (60, 6, 5), np.uint8)
    for prefix, images in (("train", train), ("t10k", rng.integers(0, 255, (10, 6, 5), np.uint8))):
        labels = (np.arange(len(images)) % 3 + 9).astype(np.uint8)
        for name, array in ((f"{prefix}-images-idx3-ubyte", images), (f"{prefix}-labels-idx1-ubyte", labels)):
            (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    return train


@pytest.mark.parametrize("packed", [True, False])
def test_idx_keeps_its_own_test_split(make: Prepare, tmp_path: Path, packed: bool) -> None:
    images = fashion(tmp_path / "f", packed)
    corpus = make(tmp_path / "f", "classification", validation=0.2)
    train = everything(corpus)
    assert corpus.info["classes"] == ["9", "10", "11"]
    assert corpus.info["columns"]["pixels"]["shape"] == [1, 6, 5]
    assert len(everything(corpus, "test")["label"]) == 10
    assert 0 < len(everything(corpus, "validation")["label"]) < 30
    for name, pixels, label in zip(train["id"], train["pixels"], train["label"], strict=True):
        row = int(name.split("#")[1]) - 1
        assert np.array_equal(pixels[0], images[row])
        assert label == row % 3
    by_split = corpus.info["class_counts_by_split"]
    assert sum(map(sum, by_split.values())) == 70
    assert by_split["train"] == corpus.info["class_counts"]


def test_a_limit_cuts_the_test_split_of_idx_first(make: Prepare, tmp_path: Path) -> None:
    fashion(tmp_path / "f", packed=False)
    corpus = make(tmp_path / "f", "classification", validation=0.2, limit=50)
    assert sum(len(everything(corpus, split)["label"]) for split in ("train", "validation", "test")) == 50
    assert len(everything(corpus, "train")["label"]) > 20
    assert all(name.startswith("train-") for name in everything(corpus, "train")["id"])
    assert not any(name.startswith("t10k-") for name in everything(corpus, "test")["id"])


def test_damaged_idx_is_named(make: Prepare, tmp_path: Path) -> None:
    fashion(tmp_path / "f", False)
    images, labels = tmp_path / "f" / "train-images-idx3-ubyte", tmp_path / "f" / "train-labels-idx1-ubyte"
    whole = images.read_bytes()
    images.write_bytes(whole[:-7])
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte: 1,793 bytes of data, expected 1,800 \(truncated\)"):
        make(tmp_path / "f")
    images.write_bytes(b"\x1f\x8b" + whole[2:])
    with pytest.raises(InputError, match="not IDX of unsigned bytes"):
        make(tmp_path / "f")
    images.write_bytes(whole)
    labels.write_bytes(idx(np.zeros(59, np.uint8)))
    with pytest.raises(InputError, match="60 images in train-images-idx3-ubyte, 59 labels"):
        make(tmp_path / "f")
    labels.unlink()
    with pytest.raises(InputError, match="train-images-idx3-ubyte without its labels file"):
        make(tmp_path / "f")
