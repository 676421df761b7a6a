"""Somebody else's command, run and measured; real processes."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from fullbore.base.errors import UsageError
from fullbore.engine import command


def python(code: str) -> command.Ended:
    return command.run((sys.executable, "-c", code))


def test_what_a_command_came_to() -> None:
    ended = python(
        "import sys; print('out'); print('err', file=sys.stderr); print(repr(sys.stdin.read())); sys.exit(3)"
    )
    assert (ended.code, ended.how) == (3, "exit code 3")
    assert ended.stdout == "out\n''\n" and ended.stderr == "err\n"
    assert ended.cpu_seconds > 0 and ended.seconds > 0 and ended.peak_bytes > 1e6


def test_what_it_used_counts_its_children_too() -> None:
    child = "import time\nwhile time.process_time() < 0.3: pass"
    ended = python(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])")
    assert ended.code == 0 and ended.cpu_seconds >= 0.3


def test_a_command_that_a_signal_ends() -> None:
    assert python("import os; os.kill(os.getpid(), 9)").how == "SIGKILL"


def test_of_endless_output_the_end_is_kept() -> None:
    ended = python("for i in range(400_000): print(i)")
    assert ended.stdout.endswith("\n399999\n") and len(ended.stdout) == 1 << 20


def test_it_hears_signals_as_if_it_was_started_by_a_shell() -> None:
    ended = python(
        "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.getsignal(signal.SIGINT))"
    )
    assert ended.stdout.startswith("set() <built-in function default_int_handler>")


class Alarm(Exception):
    pass


@pytest.mark.parametrize("deaf", [False, True])
def test_what_is_raised_meanwhile_ends_its_whole_group(
    deaf: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_GRACE_SECONDS", 0.3 if deaf else 30.0)

    def ring(*_: object) -> None:
        if not (tmp_path / "pids").exists():
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            return
        raise Alarm

    code = (
        "import os, signal, subprocess, sys, time\n"
        f"if {deaf}: signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])\n"
        "open('pids.draft', 'w').write(f'{os.getpid()} {child.pid}')\nos.rename('pids.draft', 'pids')\ntime.sleep(300)"
    )
    monkeypatch.chdir(tmp_path)
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(Alarm):
            python(code)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    pid, child = map(int, (tmp_path / "pids").read_text().split())
    assert not Path(f"/proc/{pid}").exists()
    stat = Path(f"/proc/{child}/stat")
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] in "ZX"
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {signal.SIGINT, signal.SIGTERM}


def test_a_program_that_cannot_start() -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError):
        command.run(("/nowhere/at/all",))
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {signal.SIGINT, signal.SIGTERM}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "a command is empty"),
        ("python -c 'x", "no closing quotation"),
        ("ls | wc", "| is for a shell"),
        ("nowhere-at-all --x", "nowhere-at-all: no such program"),
    ],
)
def test_lines_that_are_no_commands(line: str, message: str) -> None:
    with pytest.raises(UsageError, match=r".") as caught:
        command.words(line)
    assert message in caught.value.message and caught.value.hint


def test_words() -> None:
    assert command.words("sh -c 'a | b' \"c d\"") == ("sh", "-c", "a | b", "c d")
