"""Traces as they are found: whole, cut anywhere, damaged, foreign, odd, large; read within bounds."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from fullbore.base.errors import InputError
from fullbore.perf.measure import trace, window
from fullbore.perf.measure.trace import Kind, read
from tests.perf.made_trace import DATA, event, kernel, real, write, write_large

EVENTS = [
    event("cpu_op", "aten::mm", 10, 5),
    event("cuda_runtime", "cudaLaunchKernel", 11, 2, correlation=1),
    kernel("ünïcode<{\"[\\>", 20, 8.5, correlation=1),
    {"ph": "i", "name": "mark", "ts": 3, "s": "g"},
    kernel("ncclDevKernel_AllReduce", 30, 4, stream=9),
]  # fmt: skip
BYTES_PER_EVENT = 33
GROWTH = 9 / 8
"""What Python's array allocates ahead when it grows."""


def reference(path: Path) -> list[dict[str, Any]]:
    """The intervals of a trace as the standard parser reads it whole."""
    with gzip.open(path) as file:
        return [one for one in json.load(file)["traceEvents"] if one.get("ph") == "X"]


@pytest.mark.parametrize("path", sorted(DATA.glob("*.json.gz")), ids=lambda path: path.name.split(".")[0])
def test_a_real_trace_is_read_whole_and_as_the_standard_parser_reads_it(path: Path) -> None:
    found, events = read(path), reference(path)
    assert found.missing == ()
    kept = [one for one in events if (one.get("cat") or "").lower() in trace._CATEGORIES]
    kept = [one for one in kept if trace._CATEGORIES[one["cat"].lower()] is not None]
    assert len(found) == len(kept)
    assert [found.names[name] for name in found.name] == [one["name"][:500] for one in kept]
    lasts = [round(one["dur"] * 1000) for one in kept]
    assert (found.end - found.start).tolist() == lasts


def test_rank_times_kinds_and_launches(tmp_path: Path) -> None:
    found = read(write(tmp_path / "a.json", EVENTS, baseTimeNanoseconds=1_000_000_000_000_000_000))
    assert (found.rank, found.world_size, found.missing) == (3, 8, ())
    assert (found.start - 1_000_000_000_000_000_000).tolist() == [10_000, 11_000, 20_000, 30_000]
    assert (found.end - found.start).tolist() == [5_000, 2_000, 8_500, 4_000]
    assert found.kind.tolist() == [Kind.OPERATOR, Kind.LAUNCH, Kind.COMPUTE, Kind.COMMUNICATION]
    assert found.correlation.tolist() == [-1, 1, 1, -1]
    assert found.tracks == ((100, 100), (0, 7), (0, 9))


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 17, 64])
def test_the_size_of_the_window_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    path = write(tmp_path / "a.json", EVENTS)
    whole = read(path)
    monkeypatch.setattr(window, "_CHUNK", chunk)
    apart = read(path)
    assert apart.names == whole.names and apart.missing == ()
    assert apart.start.tolist() == whole.start.tolist()


def test_a_trace_cut_anywhere_gives_what_came_before_and_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", EVENTS)
    data, cut = path.read_bytes(), tmp_path / "cut.json"
    known = 0
    for length in range(len(data) - 1):
        cut.write_bytes(data[:length])
        try:
            found = read(cut)
        except InputError as error:
            assert known == 0 and ("cut" in error.message or "empty" in error.message)
            continue
        assert len(found) >= known
        known = len(found)
        assert len(found.missing) == 1 and "whatever came later is missing" in found.missing[0]
    assert known == 4


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.9999])
def test_a_gzip_file_cut_anywhere(tmp_path: Path, share: float) -> None:
    data, cut = real("sampled_rank-0").read_bytes(), tmp_path / "cut.json.gz"
    cut.write_bytes(data[: int(share * len(data))])
    found = read(cut)
    assert 0 < len(found) <= len(read(real("sampled_rank-0")))
    assert "gzip stream is cut or damaged" in found.missing[0]


def test_a_damaged_gzip_file(tmp_path: Path) -> None:
    data, bad = bytearray(real("sampled_rank-0").read_bytes()), tmp_path / "bad.json.gz"
    for place in range(60_000, 60_400):
        data[place] ^= 0x5A
    bad.write_bytes(data)
    found = read(bad)
    assert found.missing


def test_malformed_events_are_left_out_and_counted(tmp_path: Path) -> None:
    good = [json.dumps(one) for one in EVENTS]
    bad = [
        r'{"ph": "X", "cat": "kernel", "name": "C:\users", "ts": 1, "dur": 1}',
        '{"ph": "X", "cat": "kernel", "name": "no end", "ts": 1, "dur": }',
        '{"ph": "X", "cat": "kernel", "name": "backwards", "ts": 9, "dur": -1}',
        '{"ph": "X", "cat": "kernel", "name": "no number", "ts": NaN, "dur": 1}',
        '{"ph": "X", "cat": "kernel", "name": "no time"}',
        '{"ph": "X", "cat": "kernel", "name": "a list", "ts": 1, "dur": 1, "tid": [1], "pid": 1}',
        '{"ph": "X", "cat": "kernel", "name": "far", "ts": 1e30, "dur": 1}',
        '{"ph": "X", "cat": "kernel", "name": "text", "ts": "1", "dur": 1}',
        "17",
        '"text"',
        "null",
        f'{{"ph": "X", "deep": {"[" * 100_000}}}',
    ]
    mixed = [part for pair in zip(bad, good * 3, strict=False) for part in pair]
    path = tmp_path / "a.json"
    path.write_text(f'{{"traceEvents": [{", ".join(mixed)}]}}')
    found = read(path)
    assert len(found) == 4 * 2 + 2
    assert found.missing == (f"a.json: {len(bad)} malformed events were left out",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("hello", "begins with 'h'"),
        ("[]", "no events"),
        ("{}", "no events"),
        ('{"a": [1, 2, {"b": 3}]}', "no events"),
        ('{"traceEvents": []}', "no events"),
        ('{"traceEvents": 5}', "no events"),
        ('{"traceEvents": {"a": 1}}', "no events"),
        ('[{"a": 1}, {"b": 2}]', "2 events, none"),
        ('{"traceEvents": [{"ph": "B", "name": "a", "ts": 1}, {"ph": "E", "ts": 2}]}', "2 events, none"),
        ('{"schemaVersion": 1, "trace', "it is cut"),
        ('{"schemaVersion" 1}', "not JSON"),
        ("{5: 1}", "not JSON"),
        ('{"a": tru, "traceEvents": []}', "Expecting value"),
    ],
)
def test_what_is_no_trace_is_refused_with_a_reason(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(InputError) as refused:
        read(path)
    assert said in refused.value.message and str(path) in refused.value.message
    assert "torch.profiler" in str(refused.value.hint)


def test_other_binary_files_are_refused(tmp_path: Path) -> None:
    for name, data in {"a": b"\x80\x04\x95pickle", "b": gzip.compress(b"PK\x03\x04"), "c": b"\x1f\x8bno gzip"}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError):
            read(tmp_path / name)


def test_other_shapes_of_the_same_trace(tmp_path: Path) -> None:
    whole = read(write(tmp_path / "a.json", EVENTS))
    dense = json.dumps(EVENTS, separators=(",", ":"), ensure_ascii=False)
    shapes = {
        "an array": dense,
        "about it after the events": f'{{"traceEvents":{dense},"distributedInfo":{{"rank":3}}}}',
        "a mark of byte order": f'\ufeff{{"traceEvents":{dense}}}',
        "control characters": f'{{"note":"a\tb\n","traceEvents":{dense}}}',
    }
    for shape, text in shapes.items():
        (tmp_path / "b.json").write_text(text)
        found = read(tmp_path / "b.json")
        assert (found.start.tolist(), found.names, found.missing) == (whole.start.tolist(), whole.names, ()), shape
    (tmp_path / "c.json").write_text(dense[:-1])
    assert len(read(tmp_path / "c.json")) == len(whole)


def test_names_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "MOST_NAMES", 10)
    found = read(write(tmp_path / "a.json", [kernel(f"kernel {at}" + "x" * 1000, at, 1) for at in range(50)]))
    assert len(found) == 50 and len(found.names) == 11 and max(map(len, found.names)) <= 500
    assert "more than 10 names" in found.missing[0]


def test_a_value_beyond_the_window_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "_LONGEST", 1 << 19)
    path = tmp_path / "a.json"
    path.write_text('{"note": [' + '"x", ' * 500_000 + '"x"], "traceEvents": []}')
    with pytest.raises(InputError, match="more than 524,288 characters"):
        read(path)


def test_memory_is_the_table_and_a_window(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    events = write_large(path, 12)
    tracemalloc.start()
    try:
        found = read(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found) == events
    table = events * BYTES_PER_EVENT * GROWTH + events * 8 * 2
    assert peak < table + 16 * window._CHUNK < 0.75 * path.stat().st_size


PEAK = """
import resource, sys
from fullbore.flow.trace import explain_traces
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
answer = explain_traces([__import__("pathlib").Path(sys.argv[1])])
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base), answer["ranks"][0]["events"])
"""


@pytest.mark.soak
@pytest.mark.parametrize("megabytes", [300, 2000])
def test_a_huge_trace_is_explained_in_a_fraction_of_its_size(tmp_path: Path, megabytes: int) -> None:
    path = tmp_path / "huge.json"
    events = write_large(path, megabytes)
    done = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True)
    path.unlink()
    peak, kernels = map(int, done.stdout.split())
    assert kernels == events / 2
    assert peak < events * 150 + 64_000_000
