"""What the README and the pages beside it say is true: commands are run, tables compared, links followed."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fullbore.base import errors
from fullbore.cli.main import VERBS
from fullbore.record.ledger import State
from fullbore.store import open as open_store
from tests.docs import example_data

ROOT = Path(__file__).parents[2]
READMES = (ROOT / "README.md", ROOT / "README.zh.md")
PAGES = (*READMES, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
PORT = "127.0.0.1:8000"
INTERRUPTED_BY_TIMEOUT = 124


@dataclass(frozen=True)
class Block:
    language: str
    text: str


def blocks(text: str) -> list[Block]:
    return [Block(language, body) for language, body in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.M)]


def tour(path: Path) -> str:
    return path.read_text().split("<!-- tour -->")[1].split("<!-- /tour -->")[0]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_both_languages_have_the_same_code() -> None:
    english, chinese = (path.read_text() for path in READMES)
    assert blocks(english) == blocks(chinese)
    assert blocks(tour(READMES[0])) == blocks(tour(READMES[1])) != []


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text())
    assert [link for link in links if "://" not in link and not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_commands_that_are_named_exist(path: Path) -> None:
    text = path.read_text()
    typed = [line for block in blocks(text) if block.language == "sh" for line in block.text.splitlines()]
    typed += re.findall(r"`([^`\n]+)`", text)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert {line.split()[1] for line in typed if line.startswith("make ")} <= targets
    assert {word for line in typed for word in re.findall(r"^fullbore ([a-z]+)\b", line)} <= set(VERBS)


def test_the_page_of_settings_is_up_to_date() -> None:
    source = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert source is not None and source.loader is not None
    generate = importlib.util.module_from_spec(source)
    source.loader.exec_module(generate)
    assert (ROOT / "docs" / "job.md").read_text() == generate.page(), "run: python docs/generate.py"


def test_the_page_of_runs_knows_every_state_and_exit_code() -> None:
    page = (ROOT / "docs" / "runs.md").read_text()
    states = page.split("## States")[1].split("## Exit")[0]
    assert set(re.findall(r"`([a-z ]+)`", states)) == {str(state) for state in State}
    known = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    codes = {str(kind.exit_code) for kind in known if issubclass(kind, errors.FullboreError)}
    assert set(re.findall(r"^\| (\d+) \|", page, re.M)) == codes | {"0"}


def test_the_picture_is_small_and_needs_no_other_host() -> None:
    drawn = (ROOT / "docs" / "picture" / "explain.svg").read_text()
    assert len(drawn) < 150_000
    assert not re.search(r"(?:href|src|url)\s*[=(]\s*[\"']?https?:", drawn)


@dataclass
class Reader:
    """Somebody who does what a page says, block by block, in a folder of their own."""

    folder: Path
    said: list[str] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    server: subprocess.Popen[str] | None = None
    place: str = PORT

    @property
    def environment(self) -> dict[str, str]:
        """The program on the path, runs and caches in the reader's folder."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        outside = {key: value for key, value in os.environ.items() if not key.startswith("FULLBORE_")}
        return {**outside, "PATH": path, "XDG_CACHE_HOME": str(self.folder / "cache"), "NO_COLOR": "1"}

    def follow(self, page: str) -> None:
        for block in blocks(page):
            match block.language:
                case "toml":
                    name = block.text.splitlines()[0].removeprefix("# ")
                    (self.folder / name).write_text(block.text)
                case "python":
                    self.call([sys.executable, "-c", block.text])
                case "sh":
                    for line in block.text.splitlines():
                        self.type(line)
                case language:
                    raise AssertionError(f"a block of {language!r} that nobody can follow")

    def type(self, line: str) -> None:
        if line.startswith("fullbore serve "):
            self.serve(line)
        elif line.startswith("curl "):
            self.ask(line.replace(PORT, self.place))
        else:
            self.call(["sh", "-c", line], INTERRUPTED_BY_TIMEOUT if line.startswith("timeout ") else 0)

    def call(self, command: list[str], code: int = 0) -> str:
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr and "Warning" not in done.stderr, done.stderr
        self.said.append(done.stdout + done.stderr)
        return done.stdout

    def serve(self, line: str) -> None:
        """As the page says, but on a port that is free here."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.place = f"127.0.0.1:{free.getsockname()[1]}"
        command = [*shlex.split(line), "--set", f"serve.port={self.place.rpartition(':')[2]}"]
        self.server = subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self.server.stdout is not None
        said = self.server.stdout.readline()
        assert self.place in said, said + self.server.communicate(timeout=60)[0]

    def ask(self, line: str) -> None:
        """Ask with curl, or without it what curl would ask, then stop the server."""
        assert self.server is not None
        reply = self.call(["sh", "-c", line]) if shutil.which("curl") else asked(shlex.split(line))
        self.answers.append(json.loads(reply))
        self.server.send_signal(signal.SIGTERM)
        self.server.communicate(timeout=60)
        assert self.server.returncode == 0
        self.server = None

    def events(self, run: str, kind: str) -> list[dict[str, Any]]:
        lines = (self.folder / "runs" / run / "events.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["kind"] == kind]


def asked(curl: list[str]) -> str:
    url = next(word for word in curl if word.startswith("http://"))
    header = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, curl[curl.index("-d") + 1].encode(), header)) as reply:
        return str(reply.read().decode())


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """On one core: so small a job waits for its second thread longer than that helps where others work too."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    made = Reader(tmp_path)
    try:
        yield made
    finally:
        os.sched_setaffinity(0, cores)
        if made.server is not None:
            made.server.kill()
            made.server.communicate()


@pytest.mark.slow
def test_the_tour(reader: Reader) -> None:
    reader.follow(tour(READMES[0]))
    assert len(reader.answers[0]["choices"][0]["text"]) > 0
    assert (reader.folder / "runs" / "first" / "report.html").stat().st_size > 10_000
    listed = json.loads(reader.call(["fullbore", "runs", "ls", "--json"]))["runs"]
    assert {run["run"]: run["status"] for run in listed} == {"first": "done", "second": "done", "stopped": "done"}
    differs = json.loads(reader.call(["fullbore", "runs", "diff", "first", "second", "--json"]))
    assert differs["settings"] == {"train.learning_rate": [0.002, 0.004]}
    assert any("Resume with: fullbore resume stopped" in said for said in reader.said)
    assert [event["resumed"] for event in reader.events("stopped", "session")] == [False, True]
    steps = {event["step"] for event in reader.events("stopped", "step")}
    assert steps == set(range(1, 501))


@pytest.mark.slow
def test_your_own_data(reader: Reader, bucket: str) -> None:
    example_data.make(reader.folder)
    remote = open_store("s3://training/essays")
    for path in sorted((reader.folder / "essays").iterdir()):
        remote.write(path.name, path.read_bytes())
    reader.follow((ROOT / "docs" / "own-data.md").read_text())
    [price] = reader.answers[0]["outputs"][0]["data"]
    assert 130 < price < 230
    said = "".join(reader.said)
    for found in ("60 files", "1 file,", "4 files", "Every byte is as it was written."):
        assert found in said
    listed = json.loads(reader.call(["fullbore", "runs", "ls", "--json"]))["runs"]
    assert [run["status"] for run in listed] == ["done", "done"]
    assert json.loads((reader.folder / "shards/messages/manifest.json").read_text())["info"]["classes"] == [
        "ham",
        "spam",
    ]
