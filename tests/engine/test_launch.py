"""Local ranks: what they are told, how they end, and that none is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from fullbore.base.errors import DoesNotFit, Interrupted, RunFailed
from fullbore.engine.local import launch


def _program(folder: Path, text: str) -> dict[str, str]:
    (folder / "ranked.py").write_text(textwrap.dedent(text))
    return {"PYTHONPATH": str(folder)}


def _wait_for(*paths: Path) -> None:
    while not all(path.exists() and path.read_text() for path in paths):
        time.sleep(0.005)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_every_rank_is_told_who_it_is(tmp_path: Path) -> None:
    environment = _program(
        tmp_path,
        """
        import json, os, sys
        keys = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "EXTRA")
        facts = {key: os.environ.get(key) for key in keys} | {"arguments": sys.argv[1:], "name": __name__}
        open(sys.argv[1] + "/" + os.environ["RANK"], "w").write(json.dumps(facts))
        """,
    )
    polled: list[int] = []
    launch(
        "ranked",
        [str(tmp_path), "two words"],
        3,
        environment={**environment, "EXTRA": "x"},
        on_poll=lambda: polled.append(1),
    )
    facts = [json.loads((tmp_path / str(rank)).read_text()) for rank in range(3)]
    assert [fact["RANK"] for fact in facts] == [fact["LOCAL_RANK"] for fact in facts] == ["0", "1", "2"]
    assert {(fact["WORLD_SIZE"], fact["MASTER_ADDR"], fact["EXTRA"], fact["name"]) for fact in facts} == {
        ("3", "127.0.0.1", "x", "__main__")
    }
    assert len({fact["MASTER_PORT"] for fact in facts}) == 1
    assert facts[0]["arguments"] == [str(tmp_path), "two words"]
    assert polled


def test_a_rank_that_fails_ends_the_others_and_its_last_lines_are_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    environment = _program(
        tmp_path,
        """
        import os, sys, time
        open(sys.argv[1] + "/" + os.environ["RANK"], "w").write(str(os.getpid()))
        print("to stdout")
        if os.environ["RANK"] == "1":
            while not os.path.exists(sys.argv[1] + "/0"):
                time.sleep(0.01)
            raise SystemExit("the disk is on fire")
        time.sleep(600)
        """,
    )
    with pytest.raises(
        RunFailed, match=r"rank 1 ended with exit code 1; its last lines:\n(.*\n)*  the disk is on fire"
    ):
        launch("ranked", [str(tmp_path)], 2, environment=environment)
    assert not _alive(int((tmp_path / "0").read_text()))
    output = capfd.readouterr()
    assert output.out == ""
    assert "the disk is on fire" in output.err


def test_an_error_of_a_rank_is_raised_as_it_was_and_told_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    environment = _program(
        tmp_path,
        """
        from fullbore.base.errors import DoesNotFit
        raise DoesNotFit("the batch is too large", hint="make it smaller")
        """,
    )
    with pytest.raises(DoesNotFit, match="the batch is too large") as raised:
        launch("ranked", [str(tmp_path)], 2, environment=environment)
    assert raised.value.hint == "make it smaller"
    assert capfd.readouterr().err == ""


def test_a_rank_that_ignores_the_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fullbore.engine.local._GRACE_SECONDS", 0.2)
    environment = _program(
        tmp_path,
        """
        import os, signal, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open(sys.argv[1] + "/" + os.environ["RANK"], "w").write(str(os.getpid()))
        if os.environ["RANK"] == "0":
            while not os.path.exists(sys.argv[1] + "/1"):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)
        """,
    )
    with pytest.raises(RunFailed, match="rank 0 was killed by SIGKILL and wrote nothing"):
        launch("ranked", [str(tmp_path)], 2, environment=environment)
    assert not _alive(int((tmp_path / "1").read_text()))


_SLEEPING = """
    import os, sys, time
    open(sys.argv[1] + "/" + os.environ["RANK"], "w").write(str(os.getpid()))
    time.sleep(600)
"""
_PARENT = """
import sys
from fullbore.base.errors import FullboreError
from fullbore.engine.local import launch
try:
    launch("ranked", sys.argv[1:], 2)
except FullboreError as error:
    print(type(error).__name__, error.message)
"""


def _parent(folder: Path, text: str) -> subprocess.Popen[str]:
    environment = {**os.environ, **_program(folder, text)}
    process = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(folder)], env=environment, stdout=subprocess.PIPE, text=True
    )
    _wait_for(folder / "0", folder / "1")
    return process


def test_no_rank_outlives_a_killed_parent(tmp_path: Path) -> None:
    parent = _parent(tmp_path, _SLEEPING)
    ranks = [int((tmp_path / rank).read_text()) for rank in "01"]
    assert all(_alive(pid) for pid in ranks)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 10
    while any(_alive(pid) for pid in ranks) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(_alive(pid) for pid in ranks)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_passed_on(tmp_path: Path, number: signal.Signals) -> None:
    text = """
        import os, signal, sys, time
        def stop(number, frame):
            open(sys.argv[1] + "/got" + os.environ["RANK"], "w").write(str(number))
            sys.exit(130)
        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGTERM, stop)
        open(sys.argv[1] + "/" + os.environ["RANK"], "w").write(str(os.getpid()))
        time.sleep(600)
    """
    parent = _parent(tmp_path, text)
    parent.send_signal(number)
    output, _ = parent.communicate(timeout=30)
    assert output.strip() == f"{Interrupted.__name__} stopped by {number.name}"
    assert [(tmp_path / f"got{rank}").read_text() for rank in "01"] == [str(int(number))] * 2


def test_ranks_that_end_well_after_a_signal_are_done(tmp_path: Path) -> None:
    text = """
        import os, signal, sys, time
        signal.signal(signal.SIGINT, lambda number, frame: sys.exit(0))
        open(sys.argv[1] + "/" + os.environ["RANK"], "w").write(str(os.getpid()))
        time.sleep(600)
    """
    parent = _parent(tmp_path, text)
    parent.send_signal(signal.SIGINT)
    assert parent.communicate(timeout=30)[0] == ""


def test_the_rank_to_blame_is_named_not_the_one_that_lost_it(tmp_path: Path) -> None:
    environment = _program(
        tmp_path,
        """
        import os, sys, time
        time.sleep(0.0 if os.environ["RANK"] == "0" else 0.5)
        sys.exit(75 if os.environ["RANK"] == "0" else 3)
        """,
    )
    with pytest.raises(RunFailed, match="rank 1 ended with exit code 3"):
        launch("ranked", [str(tmp_path)], 2, environment=environment)


def test_ranks_that_all_lost_another_are_told_too(tmp_path: Path) -> None:
    environment = _program(tmp_path, "import sys; sys.exit(75)")
    with pytest.raises(RunFailed, match="ended with exit code 75"):
        launch("ranked", [str(tmp_path)], 2, environment=environment)


def test_the_group_forms_and_a_lost_rank_is_noticed_at_once(tmp_path: Path) -> None:
    environment = _program(
        tmp_path,
        """
        import os, signal, sys
        import torch, torch.distributed as dist
        from fullbore.base.errors import RunFailed
        from fullbore.engine.group import member
        rank = int(os.environ["RANK"])
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            with member(2):
                value = torch.tensor([rank + 1])
                dist.all_reduce(value)
                open(f"{sys.argv[1]}/sum{rank}", "w").write(str(int(value)))
                if rank == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                dist.all_reduce(value)
        except RunFailed as error:
            open(f"{sys.argv[1]}/error", "w").write(error.message)
            raise
        """,
    )
    with pytest.raises(RunFailed, match="rank 1 was killed by SIGKILL"):
        launch("ranked", [str(tmp_path)], 2, environment=environment)
    assert [(tmp_path / f"sum{rank}").read_text() for rank in (0, 1)] == ["3", "3"]
    assert (tmp_path / "error").read_text().startswith("rank 0 lost another rank")
