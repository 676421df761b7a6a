"""Progress: stored by whoever works, drawn by a thread; a region on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import threading
from typing import Any

import pytest

from fullbore.cli.console import Console
from fullbore.cli.progress import Numbers, Pace, StoredProgress, plain

WORK = """
import sys, time
from fullbore.cli.console import console
console.configure(False, {quiet}, 0)
with console.progress() as progress:
    for done in range(11):
        progress("train", done, 10, "steps", detail="loss 2.1", limit="compute")
        if done == 5:
            console.note("a note from the work")
        time.sleep(0.05)
    progress("read", 3, None, "B")
print("answer")
"""


def test_it_keeps_the_newest_numbers_only() -> None:
    progress = StoredProgress()
    for done in range(1000):
        progress("read", done, 999, "B", detail=str(done))
    assert progress.stages == {"read": Numbers(999, 999, "B", "999", "")}
    assert progress.stages["read"].ended and progress.stages["read"].amount(2e6) == "2 MB"


def test_pace_forgets_a_slow_start() -> None:
    now = [0.0]
    pace = Pace(clock=lambda: now[0])

    def numbers(done: float) -> Numbers:
        return Numbers(done, 1000, "steps", "", "")

    assert pace.rate("train", numbers(0)) is None
    now[0] = 100.0
    assert pace.rate("train", numbers(1)) == pytest.approx(0.01)
    for second in range(1, 31):
        now[0] = 100.0 + second
        rate = pace.rate("train", numbers(1 + 10 * second))
    assert rate == pytest.approx(10)
    assert pace.remaining("train", numbers(301)) == pytest.approx(69.9)


def test_plain_lines_come_seldom_and_once_at_the_end() -> None:
    lines: list[str] = []
    progress, said = StoredProgress(), threading.Event()

    def say(text: str) -> None:
        lines.append(text)
        said.set()

    with plain(progress, say):
        for done in range(2001):
            progress("pack", done, 2000, "rows", detail="two words", limit="disk")
        assert said.wait(10)
        progress("pack", 2000, 2000, "rows", detail="two words", limit="disk")
    assert len(lines) == 1
    assert lines[0].startswith("stage=pack done=2000 total=2000 unit=rows")
    assert lines[0].endswith('limit=disk detail="two words"')


def test_an_unfinished_stage_is_said_at_the_end() -> None:
    lines: list[str] = []
    with plain(progress := StoredProgress(), lines.append):
        progress("read", 5, None, "B")
    assert lines == ["stage=read done=5 unit=B"]


def test_a_note_comes_after_the_line_of_the_stage_that_ended_before_it() -> None:
    lines: list[str] = []
    with plain(progress := StoredProgress(), lines.append) as note:
        for stage in ("read", "pack"):
            progress(stage, 1, 2, "rows")
            note(f"half of {stage}")
            progress(stage, 2, 2, "rows")
            note(f"{stage} (1 s): two rows")
    assert [line.partition(" done")[0] for line in lines] == [
        "half of read", "stage=read", "read (1 s): two rows", "half of pack", "stage=pack", "pack (1 s): two rows",
    ]  # fmt: skip


def run(quiet: bool, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("FULLBORE")}
    return subprocess.run(
        [sys.executable, "-c", WORK.format(quiet=quiet)], capture_output=True, text=True, env={**clean, **environment}
    )


def test_a_file_gets_plain_lines_and_stdout_only_the_answer() -> None:
    done = run(False)
    assert done.stdout == "answer\n" and "\x1b" not in done.stderr
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["a", "stage=train", "stage=read"]


def test_quiet_and_no_progress() -> None:
    assert run(True).stderr == ""
    assert run(False, FULLBORE_NO_PROGRESS="1").stderr == "a note from the work\n"


def on_a_terminal(**environment: str) -> str:
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", WORK.format(quiet=False)], stdout=child, stderr=child,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", **environment},
    )  # fmt: skip
    os.close(child)
    output = b""
    while True:
        try:
            block = os.read(parent, 65536)
        except OSError:
            break
        if not block:
            break
        output += block
    assert process.wait() == 0
    os.close(parent)
    return output.decode()


def test_a_terminal_gets_one_region_and_notes_above_it() -> None:
    text = on_a_terminal()
    assert "train" in text and "steps" in text and "limited by compute" in text and "loss 2.1" in text
    assert "a note from the work" in text and text.rstrip().endswith("answer")
    assert "stage=train" not in text
    redraws = len(re.findall("train", text))
    assert 1 <= redraws <= 12


def test_a_dumb_terminal_gets_plain_lines() -> None:
    text = on_a_terminal(TERM="dumb")
    assert "stage=train" in text and "\x1b" not in text


def test_notes_go_to_stderr(capsys: pytest.CaptureFixture[Any]) -> None:
    console = Console()
    console.note("said")
    console.verbosity = -1
    console.note("not said")
    assert capsys.readouterr() == ("", "said\n")
