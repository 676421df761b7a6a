"""A process that is asked by lines: it answers, dies alone, tells why, and never outlives who asks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fullbore.base.errors import InputError
from fullbore.engine.child import Child, Died

MODULE = """
import os, sys, time
from fullbore.base.errors import InputError
from fullbore.engine import child

def answer(asked):
    print("noise")
    if asked.get("sleep"):
        time.sleep(asked["sleep"])
    if asked.get("raise"):
        raise InputError("bad data", hint="mend it")
    if asked.get("crash"):
        sys.stderr.write("it broke\\n")
        os.abort()
    return {"pid": os.getpid(), **asked}

child.answer(answer)
"""


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    (tmp_path / "answering.py").write_text(MODULE)
    made = Child("answering", [], {**os.environ, "PYTHONPATH": str(tmp_path)})
    yield made
    made.close()


def test_it_answers_one_question_after_another_whatever_is_printed_beside(child: Child) -> None:
    first, second = child.ask({"a": 1}, 30), child.ask({"b": [2, "ü\n"]}, 30)
    assert first["a"] == 1 and second["b"] == [2, "ü\n"] and first["pid"] == second["pid"] != os.getpid()
    assert Path(f"/proc/{first['pid']}/oom_score_adj").read_text() == "1000\n", "it goes first where memory runs out"


def test_an_error_that_users_can_act_on_crosses(child: Child) -> None:
    with pytest.raises(Died) as died:
        child.ask({"raise": True}, 30)
    assert isinstance(died.value.error, InputError) and died.value.error.message == "bad data"


def test_a_crash_is_told_with_its_last_words(child: Child) -> None:
    with pytest.raises(Died, match="killed by SIGABRT: ") as died:
        child.ask({"crash": True}, 30)
    assert died.value.code == -signal.SIGABRT and "it broke" in "\n".join(died.value.lines)
    with pytest.raises(Died):
        child.ask({"a": 1}, 30)


def test_a_kill_and_a_late_answer_are_told_apart(child: Child) -> None:
    pid = child.ask({}, 30)["pid"]
    with pytest.raises(TimeoutError):
        child.ask({"sleep": 30}, 0.1)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(Died) as died:
        child.ask({}, 30)
    assert died.value.code == -signal.SIGKILL


def test_ctrl_c_is_its_parents(child: Child) -> None:
    pid = child.ask({}, 30)["pid"]
    os.kill(pid, signal.SIGINT)
    assert child.ask({"a": 2}, 30)["a"] == 2


def test_it_does_not_outlive_who_asks(tmp_path: Path) -> None:
    (tmp_path / "answering.py").write_text(MODULE)
    code = (
        "from fullbore.engine.child import Child\nimport time\n"
        "made = Child('answering', [])\nprint(made.ask({}, 30)['pid'], flush=True)\nmade.ask({'sleep': 60}, 60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    asking = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert asking.stdout is not None
    pid = int(asking.stdout.readline())
    asking.kill()
    asking.communicate()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}/stat").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{pid}/stat").exists()
