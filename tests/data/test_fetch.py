import csv
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from made_data import Prepare

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module")
def fetch() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fetch", RECIPES / "fetch.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_digits_and_diabetes_come_from_scikit_learn_without_importing_it(
    fetch: ModuleType, make: Prepare, tmp_path: Path
) -> None:
    before = "sklearn" in sys.modules
    digits = make(fetch.fetch("digits", tmp_path / "data"), "classification", label="label", format="csv")
    assert (digits.info["kept"], len(digits.info["classes"])) == (1797, 10)
    assert digits.info["columns"]["features"]["shape"] == [64]
    diabetes = make(fetch.fetch("diabetes", tmp_path / "data"), "regression", label="progression", standardise=True)
    assert diabetes.info["kept"] == 442
    assert diabetes.info["statistics"]["target_mean"] == pytest.approx(152, abs=8)
    with open(tmp_path / "data" / "diabetes" / "diabetes.csv") as file:
        rows = list(csv.reader(file))
    assert rows[0] == list(fetch.DIABETES)
    assert rows[1] == ["59", "2", "32.1", "101.0", "157", "93.2", "38.0", "4.0", "4.8598", "87", "151.0"]
    assert ("sklearn" in sys.modules) == before


def test_a_set_that_is_there_is_left_alone(fetch: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "digits").mkdir()
    assert fetch.fetch("digits", tmp_path) == tmp_path / "digits"
    assert list((tmp_path / "digits").iterdir()) == []


def test_a_wrong_hash_names_both_and_leaves_nothing(
    fetch: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = fetch.SHA256["digits.csv.gz"]
    monkeypatch.setitem(fetch.SHA256, "digits.csv.gz", "0" * 64)
    monkeypatch.setattr(sys, "argv", ["fetch.py", "digits", "diabetes", "--into", str(tmp_path)])
    assert fetch.main() == 4
    said = capsys.readouterr()
    assert said.err == f"digits: digits.csv.gz: its SHA-256 is {found}, expected {'0' * 64}\n"
    assert said.out == f"{tmp_path}/diabetes: 1 files\n"
    assert [path.name for path in tmp_path.iterdir()] == ["diabetes"]


def test_missing_tools_are_named(fetch: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(fetch.CannotFetch, match="npm is not here: install Node"):
        fetch.fetch("spam", tmp_path / "data")
    with pytest.raises(fetch.CannotFetch, match="apt-get is not here: fetching manpages-zh needs Debian"):
        fetch.fetch("chinese", tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_e_mails_become_subject_and_words(fetch: ModuleType) -> None:
    plain = "From a@b Thu\nSubject: Re: =?\nContent-Type: text/plain; charset=gb2312\n\n  one   two\n\n\n\nthree\n"
    assert fetch.message_text(plain) == "Re: =?\n\none two\n\nthree"
    marked = (
        "Subject: Offer\nContent-Type: text/html\n\n<html><style>b {x}</style><body><p>Buy &amp; <b>save</b> 5 < 6"
        "<!-- hidden --><script>evil()</script></body></html>"
    )
    assert fetch.message_text(marked) == "Offer\n\nBuy & save 5 < 6"
    both = (
        'Subject: two\nMIME-Version: 1.0\nContent-Type: multipart/alternative; boundary="x"\n\n'
        "--x\nContent-Type: text/plain\n\nwords\n--x\nContent-Type: text/html\n\n<b>words</b>\n--x--\n"
    )
    assert fetch.message_text(both) == "two\n\nwords"
    assert fetch.message_text("Subject: odd\nContent-Type: text/plain; charset=no-such\n\ncafé") == "odd\n\ncafé"


def test_manual_pages_become_text(fetch: ModuleType) -> None:
    page = (
        '.\\" a comment\n.TH LS 1 2022\n.de XX\nmacro\n..\n.SH 名称\nls \\- 列出目录内容\n.PP\n'
        "\\fB\\-\\-all\\fP 显示\\(lq全部\\(rq\n"
        '.TP\n.BR "cp" " (1)"\n\\fI\\,选项\\/\\fP\\&... C:\\\\dir\n'
    )
    assert fetch.roff_text(page) == "名称\nls - 列出目录内容\n\n--all 显示“全部”\ncp  (1)\n选项... C:\\dir\n"


@pytest.mark.real
def test_every_set_is_fetched_and_read(fetch: ModuleType, make: Prepare, tmp_path: Path) -> None:
    for name in fetch.SETS:
        fetch.fetch(name, tmp_path / "data")
    fashion = make(tmp_path / "data" / "fashion", "classification", validation=0.08)
    assert fashion.info["class_counts_by_split"]["test"] == [1000] * 10
    assert fashion.info["read"] == 70_000
    spam = make(tmp_path / "data" / "spam", "classification", label="label", normalise="nfkc")
    assert (spam.info["read"], spam.info["classes"]) == (6046, ["ham", "spam"])
    chinese = make(tmp_path / "data" / "chinese", "causal_lm", normalise="nfkc")
    assert chinese.info["kept"] > 650
    assert sum(chinese.info["text_bytes"].values()) > 3_000_000
    config = json.loads((tmp_path / "data" / "minilm" / "config.json").read_text())
    assert config["hidden_size"] == 384
    assert (tmp_path / "data" / "minilm" / "model.safetensors").stat().st_size == 90_868_376
