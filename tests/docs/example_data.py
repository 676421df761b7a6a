"""Small data under the names that docs/own-data.md uses: what a reader has instead."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import numpy as np
from PIL import Image

WORDS = "the a river stone light field walks opens under over quiet bright morning evening house garden".split()


def make(folder: Path) -> None:
    chance = random.Random(0)
    essays(folder / "essays", chance)
    messages(folder / "messages.jsonl", chance)
    houses(folder / "houses.csv", chance)
    pictures(folder / "pictures")
    clothes(folder / "clothes")


def sentence(chance: random.Random) -> str:
    return " ".join(chance.choices(WORDS, k=12))


def essays(folder: Path, chance: random.Random) -> None:
    folder.mkdir()
    for number in range(60):
        (folder / f"{number}.txt").write_text("\n".join(sentence(chance) for _ in range(30)))


def messages(path: Path, chance: random.Random) -> None:
    endings = {"ham": "see you", "spam": "buy now"}
    labels = chance.choices(sorted(endings), k=200)
    lines = [{"text": f"{sentence(chance)} {endings[label]}", "label": label} for label in labels]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def houses(path: Path, chance: random.Random) -> None:
    with open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("rooms", "area", "age", "price"))
        for _ in range(200):
            rooms, area, age = chance.randint(1, 6), chance.uniform(30, 150), chance.uniform(0, 60)
            rows.writerow((rooms, round(area, 1), round(age, 1), round(10 * rooms + 2 * area - age, 1)))


def pictures(folder: Path) -> None:
    noise = np.random.default_rng(0)
    for kind, brightness in (("cat", 60), ("dog", 180)):
        (folder / kind).mkdir(parents=True)
        for number in range(30):
            pixels = noise.integers(brightness - 40, brightness + 40, (48, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / kind / f"{number}.jpg")


def clothes(folder: Path) -> None:
    folder.mkdir()
    noise = np.random.default_rng(0)
    for split, count in (("train", 100), ("t10k", 20)):
        labels = noise.integers(0, 10, count, dtype=np.uint8)
        images = noise.integers(0, 25, (count, 28, 28), dtype=np.uint8) + 20 * labels[:, None, None]
        idx(folder / f"{split}-labels-idx1-ubyte", labels)
        idx(folder / f"{split}-images-idx3-ubyte", images)


def idx(path: Path, values: np.ndarray) -> None:
    path.write_bytes(bytes((0, 0, 8, values.ndim)) + np.array(values.shape, ">u4").tobytes() + values.tobytes())
