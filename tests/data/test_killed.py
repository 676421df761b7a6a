"""SIGKILL at any moment of prepare and pack, and a disk that is really full."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fullbore.base.errors import InputError
from fullbore.record import artifact

pytestmark = pytest.mark.slow

WORK = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from made_data import Bytes
from fullbore.base.errors import FullboreError
from fullbore.data.pack import pack
from fullbore.data.prepare import prepare
from fullbore.record.progress import no_progress
from fullbore.record.span import Recorder
from fullbore.spec.data import DataSection
from fullbore.spec.model import TaskSection

source, out = sys.argv[1], Path(sys.argv[2])
section, task = DataSection(source=source, shard_bytes=int(sys.argv[4])), TaskSection(kind="causal_lm")
common = {"recorder": Recorder(), "progress": no_progress}
print("ready", flush=True)
try:
    corpus = prepare(section, task, out / "corpus", **common)
    shards = pack(corpus, Bytes(), task, 64, out / "shards", shard_bytes=int(sys.argv[4]), **common)
except FullboreError as error:
    sys.exit(str(error))
print(corpus.digest, shards.digest, flush=True)
"""


def command(source: Path, out: Path, shard_bytes: int = 20_000) -> list[str]:
    return [sys.executable, "-c", WORK, str(source), str(out), str(Path(__file__).parent), str(shard_bytes)]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A megabyte of documents."""
    folder = tmp_path_factory.mktemp("library")
    for number in range(1500):
        (folder / f"{number:04d}.txt").write_text(f"第 {number} 篇，words of document {number}\n" * 18)
    return folder


@pytest.fixture(scope="module")
def whole(library: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], float]:
    """The digests of an undisturbed run, and the seconds that it took."""
    with subprocess.Popen(
        command(library, tmp_path_factory.mktemp("whole")), stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        began = time.perf_counter()
        digests = child.stdout.readline().split()
        return digests, time.perf_counter() - began


def intact_or_absent(folder: Path) -> bool:
    try:
        return artifact.verify(artifact.read(folder)) == []
    except InputError:
        return not folder.exists()


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(s, marks=pytest.mark.soak) for s in range(3, 30))])
def test_killed_at_any_moment_nothing_is_half_written(
    seed: int, library: Path, whole: tuple[list[str], float], tmp_path: Path
) -> None:
    digests, seconds = whole
    chance = random.Random(seed)
    for _ in range(2):
        with subprocess.Popen(command(library, tmp_path), stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(chance.uniform(0, seconds))
            os.kill(child.pid, signal.SIGKILL)
        assert intact_or_absent(tmp_path / "corpus")
        assert intact_or_absent(tmp_path / "shards")
    done = subprocess.run(command(library, tmp_path), capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1].split() == digests
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "shards"]


def test_killed_between_two_shards_the_draft_is_removed(
    library: Path, whole: tuple[list[str], float], tmp_path: Path
) -> None:
    with subprocess.Popen(command(library, tmp_path), stdout=subprocess.PIPE) as child:
        while not list(tmp_path.glob(".corpus.*.tmp/train-00005.arrow")) and child.poll() is None:
            time.sleep(0.001)
        child.kill()
    assert list(tmp_path.glob(".corpus.*.tmp"))
    assert not (tmp_path / "corpus").exists()
    done = subprocess.run(command(library, tmp_path), capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1].split() == whole[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "shards"]


@pytest.mark.real
def test_a_small_disk_runs_full_while_packing(library: Path, tmp_path: Path) -> None:
    """A tmpfs of its own (root): the corpus fits, the shards do not; with more room the same command succeeds."""
    script = (
        'set -e; mount -t tmpfs -o size=2500k none "$1"; shift; "$@" && exit 9; code=$?; ls -A "$0"; '
        'mount -o remount,size=32m "$0"; "$@" > /dev/null; ls -A "$0"; exit $code'
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, str(tmp_path), str(tmp_path), *command(library, tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert "no space left" in done.stderr
    assert "shards" in done.stderr
    assert done.stdout.splitlines() == ["ready", "corpus", "corpus", "shards"]
