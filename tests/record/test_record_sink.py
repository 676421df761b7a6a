"""Events reach the file whole or are counted as lost; no job waits, no kill spoils the next session."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from fullbore.base.paths import RunPaths
from fullbore.record import read
from fullbore.record.ledger import State
from fullbore.record.sink import NoSink, Sink
from fullbore.record.span import Recorder


def numbers(path: Path) -> list[int]:
    return [event["n"] for event in read.events(path, "n")]


def n(number: int, **more: Any) -> dict[str, Any]:
    return {"kind": "n", "n": number, **more}


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def test_events_come_back_in_order_whatever_they_hold(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    events = [n(0, text='中文\n"\\\u2028\ud800'), n(1, deep={"a": [1, None, True, 1e-300]}), n(2, text="a" * 300_000)]
    with Sink(path) as sink:
        for event in events:
            sink.put(event)
    assert list(read.events(path)) == events
    assert path.read_bytes().count(b"\n") == 3


def test_settled_events_are_in_the_file_from_any_thread(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    missing: list[int] = []
    with Sink(path) as sink:

        def work(first: int) -> None:
            for number in range(first, first + 20):
                sink.put(n(number))
                sink.settle()
                if number not in numbers(path):
                    missing.append(number)

        threads = [threading.Thread(target=work, args=(first,)) for first in (0, 100, 200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert missing == []
    assert len(numbers(path)) == 60


def test_closing_twice_is_closing(tmp_path: Path) -> None:
    sink = Sink(tmp_path / "events.jsonl")
    sink.put(n(1))
    sink.close()
    sink.close()
    assert numbers(tmp_path / "events.jsonl") == [1]
    none = NoSink()
    none.put(n(1))
    none.settle()
    none.close()
    assert none.dropped == 0


def test_a_full_queue_in_front_of_a_stalled_file_drops_and_counts(tmp_path: Path) -> None:
    pipe = tmp_path / "events.jsonl"
    os.mkfifo(pipe)
    sink = Sink(pipe, capacity=4)
    for number in range(500):
        sink.put(n(number, text="a" * 4000))
    assert sink.dropped > 300, "a pipe that nobody reads holds 64 KiB"
    lines: list[bytes] = []
    ready = threading.Event()

    def empty() -> None:
        with open(pipe, "rb") as file:
            ready.set()
            lines.extend(file)

    reader = threading.Thread(target=empty)
    reader.start()
    ready.wait()
    sink.close()
    reader.join()
    events = [json.loads(line) for line in lines]
    written = [event["n"] for event in events if event["kind"] == "n"]
    assert written == sorted(set(written))
    assert len(written) + sink.dropped == 500
    assert [event["count"] for event in events if event["kind"] == "dropped"] == [sink.dropped]


def test_a_full_disk_costs_the_events_and_nothing_else() -> None:
    recorder = Recorder(sink := Sink(Path("/dev/full")))
    for state in State:
        with recorder.state(state):
            recorder.event("n", n=1)
    recorder.settle()
    assert sink.dropped >= len(State)
    before = sink.dropped
    recorder.close()
    assert sink.dropped >= before + 2
    assert recorder.ledger().wall > 0


LIMITED = """
import resource, sys
from pathlib import Path
from fullbore.record.sink import Sink
path, limit, puts, each = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "each"
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sink = Sink(path)
for number in range(puts):
    sink.put({"kind": "n", "n": number})
    if each:
        sink.settle()
sink.close()
print(sink.dropped)
"""


@pytest.mark.parametrize("each", ["each", "at once"])
@pytest.mark.parametrize("limit", [0, 500, 512])
def test_a_disk_that_fills_within_a_line_counts_what_was_lost(tmp_path: Path, limit: int, each: str) -> None:
    path = tmp_path / "events.jsonl"
    command = [sys.executable, "-c", LIMITED, str(path), str(limit), "100", each]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert path.stat().st_size == limit
    whole = path.read_bytes().count(b"\n")
    assert int(told.stdout) == 100 - whole
    assert numbers(path)[:whole] == list(range(whole))
    with Sink(path) as sink:
        sink.put(n(1000))
    assert numbers(path)[-1] == 1000, "the disk has room again"


def test_a_session_begins_on_a_full_disk_that_ends_in_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"kind":"n","n":7}\n{"kind":"n","n"')
    command = [sys.executable, "-c", LIMITED, str(path), str(path.stat().st_size), "5", "each"]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(told.stdout) == 5
    assert numbers(path) == [7]


def example(path: Path) -> list[dict[str, Any]]:
    """The events of a real, small session."""
    recorder = Recorder(Sink(path))
    with recorder.state(State.READ):
        recorder.event("message", text='中文 "quoted"')
    recorder.account()
    recorder.event("step", step=1, loss=0.25, nested={"a": [1, {}]})
    recorder.busy("decode", 1.5)
    recorder.close()
    return list(read.events(path))


def test_a_file_cut_at_any_byte_reads_as_the_events_before_the_cut(tmp_path: Path) -> None:
    events = example(tmp_path / "events.jsonl")
    content = (tmp_path / "events.jsonl").read_bytes()
    assert len(events) >= 4
    cut = tmp_path / "cut.jsonl"
    ends = [index for index, byte in enumerate(content) if byte == ord("\n")]
    for length in range(len(content) + 1):
        cut.write_bytes(content[:length])
        assert list(read.events(cut)) == events[: sum(length >= end for end in ends)]
        assert read.ledger(cut).wall <= read.ledger(tmp_path / "events.jsonl").wall


def test_after_a_cut_at_any_byte_the_next_session_is_read_whole(tmp_path: Path, no_sync: None) -> None:
    events = example(tmp_path / "events.jsonl")
    content = (tmp_path / "events.jsonl").read_bytes()
    cut = tmp_path / "cut.jsonl"
    ends = [index for index, byte in enumerate(content) if byte == ord("\n")]
    for length in range(len(content) + 1):
        cut.write_bytes(content[:length])
        with Sink(cut) as sink:
            sink.put(n(1))
            sink.put(n(2))
        assert list(read.events(cut)) == [*events[: sum(length >= end for end in ends)], n(1), n(2)]
        assert cut.read_bytes().startswith(content[:length])


def test_a_line_that_another_process_left_torn_is_ended_by_those_who_go_on(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    dies = (
        "import os, signal, sys\n"
        "file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)\n"
        'os.write(file, b\'{"kind":"n","n":5}\\n{"kind":"n\')\n'
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with Sink(path) as sink:
        sink.put(n(1))
        sink.settle()
        assert subprocess.run([sys.executable, "-c", dies, str(path)]).returncode == -signal.SIGKILL
        sink.put(n(2))
        sink.settle()
        sink.put(n(3))
    assert numbers(path) == [1, 5, 2, 3]
    assert sink.dropped == 0


def test_what_was_settled_outlives_a_kill_and_what_follows_has_no_hole(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    code = (
        "import sys; from pathlib import Path; from fullbore.record.sink import Sink\n"
        "sink, number = Sink(Path(sys.argv[1])), 0\n"
        "while True:\n"
        "    sink.put({'kind': 'n', 'n': number, 'text': 'a' * (number % 3000)})\n"
        "    number += 1\n"
        "    if number % 100 == 0:\n"
        "        sink.settle()\n"
        "        print(number, flush=True)\n"
    )
    for session in range(3):
        path.unlink(missing_ok=True)
        with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            settled = [int(child.stdout.readline()) for _ in range(3 + session)][-1]
            child.send_signal(signal.SIGKILL)
        found = numbers(path)
        assert len(found) >= settled
        assert found == list(range(len(found)))


def test_lines_that_are_no_events_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    foreign = [
        b"",
        b"[]",
        b"3",
        b"null",
        b'"kind"',
        b'["kind"]',
        b"{}",
        b'{"a":1}',
        b"\xff\xfe",
        b"{",
        b'{"kind":"n"}}',
        b"\0",
    ]
    with open(path, "wb") as file:
        for number, line in enumerate(foreign):
            file.write(line + b"\n" + json.dumps(n(number)).encode() + b"\n")
    assert numbers(path) == list(range(len(foreign)))
    assert list(read.events(path)) == [n(number) for number in range(len(foreign))]
    assert list(read.events(path, "other")) == list(read.events(tmp_path / "absent")) == []


def test_the_files_of_ranks_are_found_by_rank(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "run")
    assert read.rank_files(paths) == {}
    paths.folder.mkdir()
    assert read.rank_files(paths) == {}
    for name in (
        "events.rank.jsonl",
        "events.rank-1.jsonl",
        "events.jsonl.old",
        "my.events.jsonl",
        "events.rankx.jsonl",
    ):
        (paths.folder / name).touch()
    ranks = [11, 2, 0, 1]
    for rank in ranks:
        paths.events(rank).touch()
    assert read.rank_files(paths) == {rank: paths.events(rank) for rank in sorted(ranks)}
    assert list(read.rank_files(paths)) == sorted(ranks)
    paths.events(0).unlink()
    assert list(read.rank_files(paths)) == [1, 2, 11]
