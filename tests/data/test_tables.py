import gzip
from pathlib import Path

import numpy as np
import pytest
from made_data import Prepare, everything

from fullbore.base.errors import InputError


def test_csv_of_numbers_is_features(make: Prepare, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(
        b"\xef\xbb\xbfheight,kind,width\n1,cat,2\n3,dog,4e0\n5,cat\nx,dog,6\n7,,8\n"
        b"nan,dog,1\n9,c\xe9,10\n\n11, dog ,12\n"
    )
    corpus = make(tmp_path / "a.csv", "classification", label="kind", validation=0, error_budget=0.9)
    rows = everything(corpus)
    assert [row.tolist() for row in rows["features"]] == [[1, 2], [3, 4], [11, 12]]
    assert rows["label"] == [0, 1, 1]
    assert rows["id"] == ["a.csv#2", "a.csv#3", "a.csv#10"]
    assert corpus.info["classes"] == ["cat", "dog"]
    assert [(bad["id"], bad["reason"]) for bad in corpus.info["quarantined"]] == [
        ("a.csv#4", "2 columns, expected 3"),
        ("a.csv#5", "column 'height': 'x' is not a number"),
        ("a.csv#6", "no label in column 'kind'"),
        ("a.csv#7", "column 'height': 'nan' is not a number"),
        ("a.csv#8", "invalid UTF-8"),
    ]


@pytest.mark.parametrize(
    ("label", "classes", "first"),
    [("first", ["1", "3"], [2, 0]), ("last", ["0", "1"], [1, 2]), ("1", ["2", "4"], [1, 0])],
)
def test_csv_without_header_counts_its_columns(
    make: Prepare, tmp_path: Path, label: str, classes: list[str], first: list[int]
) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"1,2,0\n3,4,1\n"))
    corpus = make(tmp_path / "a.csv.gz", "classification", label=label, header=False, validation=0)
    assert corpus.info["classes"] == classes
    assert everything(corpus)["features"][0].tolist() == first


def test_csv_with_a_text_column_is_text(make: Prepare, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,标题,body\n1,好,"two\nlines, ""quoted"""\n2,坏,other\n')
    corpus = make(tmp_path / "a.csv", "classification", label="标题", text="body", validation=0)
    assert everything(corpus)["text"] == ['two\nlines, "quoted"', "other"]
    assert everything(corpus)["id"] == ["a.csv#3", "a.csv#4"]
    assert corpus.info["classes"] == ["坏", "好"]


def test_standardised_columns_have_the_statistics_of_training(make: Prepare, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal([5, -3, 100], [2, 0.1, 30], (400, 3)).round(3)
    body = "\n".join(f"{a},{b},7,{c}" for a, b, c in values)
    (tmp_path / "a.csv").write_text("a,b,constant,target\n" + body)
    source, settings = tmp_path / "a.csv", {"label": "target", "validation": 0.3, "test": 0.2}
    plain = {s: everything(make(source, "regression", **settings), s) for s in ("train", "test")}
    corpus = make(source, "regression", **settings, standardise=True, shard_bytes=2000)
    assert len(corpus.info["splits"]["train"]) > 2
    statistics = corpus.info["statistics"]
    train = everything(corpus)
    features, targets = np.array(train["features"]), np.array(train["target"])
    assert np.allclose(features.mean(0), 0, atol=1e-5)
    assert np.allclose(features.std(0), [1, 1, 0], atol=1e-5)
    assert np.allclose([targets.mean(), targets.std()], [0, 1], atol=1e-5)
    assert statistics["deviation"][2] == 1
    test = everything(corpus, "test")
    assert test["id"] == plain["test"]["id"]
    back = np.array(test["features"]) * statistics["deviation"] + statistics["mean"]
    assert np.allclose(back, plain["test"]["features"], atol=1e-4)
    back = np.array(test["target"]) * statistics["target_deviation"] + statistics["target_mean"]
    assert np.allclose(back, plain["test"]["target"], rtol=1e-4, atol=1e-3)


def test_rows_with_equal_inputs_and_other_targets_are_all_kept(make: Prepare, tmp_path: Path) -> None:
    source = tmp_path / "a.csv"
    source.write_text("x,y\n" + "\n".join(f"{row % 5},{row}" for row in range(200)) + "\n3,3\n")
    corpus = make(source, "regression", label="y", validation=0.3, test=0.3)
    assert (corpus.info["kept"], corpus.info["duplicates"], corpus.info["conflicting"]) == (200, 1, 0)
    splits = {split: {row[0] for row in everything(corpus, split)["features"]} for split in corpus.info["splits"]}
    assert sum(map(len, splits.values())) == 5
    assert set.union(*splits.values()) == set(range(5))


@pytest.mark.parametrize("standardise", [False, True])
def test_labels_of_no_known_use_are_classes_and_numbers_targets_too(
    make: Prepare, tmp_path: Path, standardise: bool
) -> None:
    source, settings = tmp_path / "a.csv", {"label": "y", "validation": 0, "standardise": standardise}
    source.write_text("x,y\n" + "\n".join(f"{row},{(row * 7 % 10) / 2}" for row in range(40)))
    corpus = make(source, **settings)
    classes, rows = corpus.info["classes"], everything(corpus)
    assert classes == [str(value / 2) for value in range(10)]
    assert [float(classes[label]) for label in rows["label"]] == [row * 7 % 10 / 2 for row in range(40)]
    statistics = corpus.info["statistics"]
    known = make(source, "regression", **settings)
    assert statistics == known.info["statistics"]
    assert rows["target"] == everything(known)["target"]
    source.write_text("x,y\n1,2\n3,much\n")
    corpus = make(source, **settings)
    assert corpus.info["classes"] == ["2", "much"] and "target" not in corpus.info["columns"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"label": "targt"}, "data.label: no column 'targt', the columns are a, target\nhint: did you mean 'target'?"),
        ({}, "no labels for task.kind = 'regression'"),
    ],
)
def test_a_wrong_label_is_explained(make: Prepare, tmp_path: Path, settings: dict[str, str], said: str) -> None:
    (tmp_path / "a.csv").write_text("a,target\n1,2\n")
    with pytest.raises(InputError) as raised:
        make(tmp_path / "a.csv", "regression", **settings)
    assert said in str(raised.value)


def test_csv_files_must_agree(make: Prepare, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "a.csv").write_text("a,b\n1,2\n")
    (tmp_path / "c" / "b.csv").write_text("a,c\n1,2\n")
    with pytest.raises(InputError, match=r"b\.csv: columns a, c, expected a, b as in a\.csv"):
        make(tmp_path / "c")


def table(path: Path, labels: list[str]) -> Path:
    path.write_text("a,answer\n" + "\n".join(f"{row},{label}" for row, label in enumerate(labels)))
    return path


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([f"{50 + 3 * (row % 211)}.0" for row in range(442)], "found 211 distinct values in 442 samples (50.0, 53.0"),
        ([f"{row % 30}.5" for row in range(3000)], "found 30 distinct values in 3,000 samples (0.5, 1.5, 2.5"),
        (["cat"] * 9, "found one class, 'cat', expected at least two"),
    ],
)
def test_labels_that_are_no_classes_are_refused(make: Prepare, tmp_path: Path, labels: list[str], said: str) -> None:
    with pytest.raises(InputError, match=r"^data\.label: ") as raised:
        make(table(tmp_path / "a.csv", labels), "classification", label="last")
    assert said in raised.value.message
    assert raised.value.hint and ('task.kind = "regression"' in raised.value.hint or "cat" in labels)
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize(
    "labels",
    [
        [str(row % 150) for row in range(300)],
        [str(1000 * (row % 25)) for row in range(300)],
        [f"v{row / 7:.3f}" for row in range(300)],
        [str(row % 20 / 2) for row in range(100)],
    ],
    ids=["ids", "codes", "names", "half stars"],
)
def test_numbers_may_name_classes(make: Prepare, tmp_path: Path, labels: list[str]) -> None:
    corpus = make(table(tmp_path / "a.csv", labels), "classification", label="last")
    assert len(corpus.info["classes"]) == len(set(labels))


def test_a_part_of_a_source_may_hold_one_class(make: Prepare, tmp_path: Path) -> None:
    source = table(tmp_path / "a.csv", ["cat"] * 9 + ["dog"])
    assert make(source, "classification", label="last", limit=9).info["classes"] == ["cat"]
    with pytest.raises(InputError, match="one class"):
        make(table(tmp_path / "b.csv", ["cat"] * 9), "classification", label="last", limit=9)
