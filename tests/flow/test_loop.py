"""A ledger of one's own loop: it adds up whatever happens in it, and `explain` names what was done to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import fullbore
from fullbore.base.errors import InputError, UsageError
from fullbore.perf.measure import proc
from fullbore.perf.measure.ledger import LoopLedger
from fullbore.record.ledger import State
from fullbore.record.span import RECORDING
from tests.flow.test_bench import neighbours


class Slow(Dataset[torch.Tensor]):
    """Whose samples come from far away."""

    def __init__(self, count: int, seconds: float) -> None:
        self.count, self.seconds = count, seconds

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        time.sleep(self.seconds)
        return torch.full((16,), float(index))


def own_busy(ledger: LoopLedger) -> dict[str, float]:
    """What the loop told, without what sampling it took."""
    return {name: seconds for name, seconds in ledger.ledger.busy.items() if name != RECORDING}


def train(loader: DataLoader[torch.Tensor]) -> LoopLedger:
    model = torch.nn.Linear(16, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    with fullbore.ledger() as ledger:
        for batch in ledger.data(loader):
            with ledger.state("forward"):
                loss = model(batch).square().mean()
            with ledger.state("backward"):
                loss.backward()
            with ledger.state("optimizer"):
                optimizer.step()
                optimizer.zero_grad()
            ledger.step()
    return ledger


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a kernel that does not tell of neighbours: whoever else is on this machine is not part of the question."""
    monkeypatch.setattr(proc, "machine_times", lambda cores: None)


def work(cpu_seconds: float) -> None:
    began = time.process_time()
    while time.process_time() - began < cpu_seconds:
        sum(range(1000))


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_slow_loader_is_named(workers: int) -> None:
    ledger = train(DataLoader(Slow(64, 0.03), batch_size=4, num_workers=workers))
    answer = fullbore.explain(ledger)
    assert answer["verdict"]["limit"] == "waiting for data" and answer["status"] == "done"
    assert (
        answer["verdict"]["sentence"].startswith("The loop, ") and "waiting for data" in answer["verdict"]["sentence"]
    )
    assert max(answer["ledger"], key=lambda state: answer["ledger"][state]["seconds"]) == "data wait"
    assert set(answer["ledger"]) >= {"data wait", "forward", "backward", "optimizer"}
    assert any("cores were used meanwhile" in line for line in answer["verdict"]["evidence"])
    assert all(not item["set"] for item in answer["verdict"]["advice"])
    assert answer["steps"]["count"] == 16
    json.dumps(answer, allow_nan=False)


@pytest.mark.usefixtures("alone")
def test_computing_is_named_with_and_without_states() -> None:
    with fullbore.ledger() as bare:
        for _ in bare.data(range(4)):
            work(0.15)
            bare.step()
    answer = fullbore.explain(bare)
    assert answer["verdict"]["limit"] == "model compute" and "its own work" in answer["verdict"]["sentence"]
    assert "other" in answer["ledger"] and "forward" not in answer["ledger"]
    with fullbore.ledger() as named:
        for _ in named.data(range(4)):
            with named.state(State.FORWARD):
                work(0.15)
    answer = fullbore.explain(named)
    assert answer["verdict"]["limit"] == "model compute" and "forward" in answer["verdict"]["evidence"][0]
    assert answer["steps"] is None


def test_it_sums_to_the_time_since_entering() -> None:
    before = time.perf_counter()
    with fullbore.ledger() as ledger:
        inside = time.perf_counter()
        with ledger.state("read"):
            time.sleep(0.02)
            with ledger.data_wait():
                time.sleep(0.02)
        with ledger.state("data_wait"):
            time.sleep(0.02)
        time.sleep(0.02)
        ledger.busy("decode", 1.5)
        left = time.perf_counter()
        assert ledger.status == "running" and fullbore.explain(ledger)["seconds"] >= left - inside
    after = time.perf_counter()
    assert left - inside <= ledger.ledger.wall <= after - before
    assert sum(ledger.ledger.share(state) for state in ledger.ledger.seconds) == pytest.approx(1)
    assert ledger.ledger.seconds["data wait"] >= 0.04 and ledger.ledger.seconds["read"] >= 0.02
    assert own_busy(ledger) == {"decode": 1.5}
    assert ledger.table().splitlines()[-1].endswith("100.0%")
    told = [event for event in ledger.events() if event["kind"] == "ledger"]
    assert sum(sum(event["seconds"].values()) for event in told) == pytest.approx(ledger.ledger.wall, abs=0.01)


def test_an_exception_leaves_a_whole_ledger() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"), fullbore.ledger() as ledger:
        for _ in ledger.data(broken()):
            with ledger.state("forward"):
                time.sleep(0.01)
    assert ledger.status == "failed"
    assert ledger.ledger.seconds["forward"] >= 0.01 and ledger.ledger.seconds["data wait"] > 0
    assert fullbore.explain(ledger)["status"] == "failed"
    assert "fullbore-counters" not in [thread.name for thread in threading.enumerate()]


def test_breaking_off_a_loop_leaves_the_waiting_state() -> None:
    with fullbore.ledger() as ledger:
        for number in ledger.data(iter(range(10))):
            if number == 2:
                break
        waited = ledger.ledger.seconds["data wait"]
        time.sleep(0.02)
        assert ledger.ledger.seconds["data wait"] == waited
    assert not list(LoopLedger().events())


def test_ledgers_nest_and_each_counts_on_its_own() -> None:
    with fullbore.ledger() as outer, outer.state("evaluate"), fullbore.ledger() as inner, inner.state("read"):
        time.sleep(0.02)
    assert outer.ledger.seconds["evaluate"] >= inner.ledger.seconds["read"] >= 0.02
    assert "read" not in outer.ledger.seconds and outer.ledger.wall >= inner.ledger.wall


def test_a_thread_may_have_a_ledger_of_its_own_but_not_ours() -> None:
    told: list[str] = []
    own: list[LoopLedger] = []

    def elsewhere(ledger: LoopLedger) -> None:
        for call in (lambda: ledger.state("read"), ledger.data_wait, ledger.step, lambda: next(ledger.data([1]))):
            with pytest.raises(UsageError) as caught:
                call()
            told.append(caught.value.message)
        ledger.busy("decode", 2.0)
        with fullbore.ledger() as mine, mine.state("read"):
            time.sleep(0.01)
        own.append(mine)

    with fullbore.ledger() as ledger:
        thread = threading.Thread(target=elsewhere, args=(ledger,))
        thread.start()
        thread.join()
    assert told == ["a ledger's states and steps are of the thread that entered it"] * 4
    assert own_busy(ledger) == {"decode": 2.0} and "read" not in ledger.ledger.seconds
    assert own[0].ledger.seconds["read"] >= 0.01


def test_mistakes() -> None:
    ledger = fullbore.ledger()
    with pytest.raises(UsageError, match="not entered yet"):
        ledger.step()
    with pytest.raises(UsageError, match="not entered yet"):
        ledger.busy("x", 1)
    with pytest.raises(InputError, match="never entered"):
        fullbore.explain(ledger)
    with ledger:
        with pytest.raises(UsageError, match="no state 'foward'\nhint: did you mean 'forward'"):
            ledger.state("foward")
        with pytest.raises(UsageError, match="no state 'xyz'\nhint: one of start, "):
            ledger.state("xyz")
        with pytest.raises(UsageError, match="was entered before"), ledger:
            pass
    with pytest.raises(UsageError, match="was left"):
        ledger.data_wait()
    with pytest.raises(UsageError, match="was entered before"), ledger:
        pass


def test_steps_know_their_warm_up_and_jitter() -> None:
    ledger = LoopLedger()
    ledger._first, ledger._count = [3.0, 0.5, 0.1, 0.11, 0.09, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.3], 12
    steps = ledger.steps
    assert steps is not None and (steps.count, steps.warm_up, steps.warm_up_seconds) == (12, 2, 3.5)
    assert steps.median == 0.1 and steps.interval[0] <= 0.1 <= steps.interval[1]
    assert steps.jitter == pytest.approx(2.0)
    assert LoopLedger().steps is None


def test_very_many_steps_take_little_memory() -> None:
    with fullbore.ledger() as ledger:
        for _ in range(150_000):
            ledger.step()
    steps = ledger.steps
    assert steps is not None and steps.count == 150_000
    assert len(ledger._first) + len(ledger._last) == 101_000


def test_nothing_heavy_is_imported_for_it() -> None:
    code = (
        "import sys, fullbore\n"
        "with fullbore.ledger() as ledger:\n    for _ in ledger.data(range(3)): ledger.step()\n"
        "print(ledger.table(), file=sys.stderr)\nnow = set(sys.modules)\n"
        "assert fullbore.explain(ledger)['verdict']['sentence']\n"
        "print(*({'torch', 'pydantic', 'numpy', 'pyarrow', 'rich', 'typer'} & now))\n"
        "print(*({'torch', 'numpy', 'pyarrow', 'rich', 'typer'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout.strip(), done.stdout + done.stderr


LOOP = """
import json, sys, time, fullbore
from fullbore.perf.measure import proc
if sys.argv[4:]: proc.machine_times = lambda cores: None
with fullbore.ledger() as ledger:
    for _ in ledger.data(range(10**9)):
        with ledger.state(sys.argv[1]):
            if sys.argv[1] == "read": time.sleep(0.01)
            else: sum(range(200_000))
        ledger.step()
        print(flush=True)
        if time.process_time() > float(sys.argv[2]) or ledger.steps.count > float(sys.argv[3]): break
print(json.dumps(fullbore.explain(ledger)))
"""


def loop(*arguments: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-c", LOOP, *arguments]
    return subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def verdict(process: subprocess.Popen[str]) -> dict[str, Any]:
    out = process.communicate(timeout=120)[0]
    assert process.returncode == 0
    return dict(json.loads(out.splitlines()[-1])["verdict"])


def test_a_slow_source_is_named() -> None:
    found = verdict(loop("read", "60", "80", "alone"))
    assert found["limit"] == "a slow source" and "the source, which delivers too slowly" in found["sentence"]


@pytest.mark.slow
def test_neighbours_are_named() -> None:
    with neighbours():
        found = verdict(loop("forward", "2.5", "1e9"))
    assert found["limit"] == "a neighbour" and "other processes" in found["sentence"]


@pytest.mark.slow
def test_being_stopped_is_named(tmp_path: Path) -> None:
    process = loop("forward", "1.5", "1e9", "alone")
    assert process.stdout is not None
    for _ in range(80):
        process.stdout.readline()
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(4)
    os.kill(process.pid, signal.SIGCONT)
    found = verdict(process)
    assert found["limit"] == "a stopped process" and "SIGSTOP" in found["advice"][0]["change"]
