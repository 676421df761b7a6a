"""Where the time of a trace went: the figures that upstream projects assert for real traces, and a count by hand."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest

from fullbore.perf.measure import timeline
from fullbore.perf.measure.timeline import Device
from fullbore.perf.measure.trace import DEVICE, Kind, read
from tests.perf.made_trace import event, kernel, real, write

MICROSECOND, MILLISECOND = 1_000, 1_000_000


def only(name: str) -> Device:
    [device] = timeline.devices(read(real(name)))
    return device


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("sampled_rank-0", (1222847, 675191, 210320, 337336, 396199, 59216)),
        ("sampled_rank-1", (1231186, 651136, 271973, 308077, 379053, 75530)),
    ],
)
def test_span_idle_compute_rest_communication_and_overlap_by_the_definitions_of_hta(
    name: str, figures: tuple[int, ...]
) -> None:
    found = only(name).occupancy
    busy, compute = found.any(*DEVICE), found.any(Kind.COMPUTE)
    communication, overlap = found.any(Kind.COMMUNICATION), found.both(Kind.COMMUNICATION, Kind.COMPUTE)
    counted = (found.whole, found.whole - busy, compute, busy - compute, communication, overlap)
    assert tuple(figure / MICROSECOND for figure in counted) == figures


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("vllm_decode_full_graph", (10.67451, 0, 0.04319, 0.02548)),
        ("h100_bert_small", (0.307198, 0, 0.00224, 3.598387)),
    ],
)
def test_compute_exposed_communication_and_copies_and_idle_as_tracelens_has_them(
    name: str, figures: tuple[float, ...]
) -> None:
    found = only(name).occupancy
    computing = (Kind.COMPUTE, Kind.MEMSET)
    communication = found.any(Kind.COMMUNICATION, without=computing)
    copies = found.any(Kind.COPY, without=(*computing, Kind.COMMUNICATION))
    parts = (found.any(*computing), communication, copies, found.whole - found.any(*DEVICE))
    assert sum(parts) == found.whole
    assert [part / MILLISECOND for part in parts] == pytest.approx(figures, abs=1e-5)


def test_the_steps_as_the_tensorboard_plugin_asserts_them() -> None:
    """Kernel, Memcpy, Memset, Runtime, DataLoader, CPU Exec, Other of pytorch/kineto's result_check_file.txt, in µs."""
    device = only("resnet50_one_loader")
    order = (Kind.COMPUTE, Kind.COPY, Kind.MEMSET, Kind.LAUNCH, Kind.LOADER, Kind.OPERATOR)
    rows = {step.name: [part / MICROSECOND for part in step.occupancy.in_turn(order)] for step in device.steps}
    assert rows == {
        "ProfilerStep#5": [98598, 1941, 90, 2796, 69317, 14091, 1115],
        "ProfilerStep#6": [98570, 1947, 89, 2762, 57669, 12968, 1148],
        "ProfilerStep#7": [98596, 1931, 91, 2877, 61257, 13768, 1213],
        "ProfilerStep#8": [98623, 1938, 89, 2841, 56453, 13420, 1200],
        "ProfilerStep#9": [98504, 1937, 87, 2788, 62690, 15025, 1141],
        "ProfilerStep#10": [98641, 1798, 88, 3381, 48185, 12773, 1117],
    }
    whole = sum(step.occupancy.whole for step in device.steps)
    assert round(whole / 6 / MICROSECOND) == 177592
    assert round(100 * sum(step.occupancy.any(Kind.COMPUTE) for step in device.steps) / whole, 2) == 55.51
    assert sum(step.occupancy.any(Kind.COMPUTE) for step in device.steps) == device.occupancy.any(Kind.COMPUTE)


def test_without_its_last_step_a_trace_holds_what_the_others_launched() -> None:
    whole = read(real("sampled_rank-0"))
    rest = timeline.without_last_step(whole)
    last = whole.start[whole.kind == Kind.STEP].max()
    assert 0 < len(rest) < len(whole)
    assert rest.start[rest.kind > Kind.MEMSET].max() < last
    [device] = timeline.devices(rest)
    assert device.unlaunched == 0 and len(device.steps) == 1
    single = read(real("rank_non_gpu"))
    assert timeline.without_last_step(single) is single


@pytest.mark.parametrize("name", ["sampled_rank-0", "h100_bert_small", "vllm_decode_full_graph", "amd_mi250_minitoy"])
def test_idle_time_is_the_sum_of_its_gaps(name: str) -> None:
    device = only(name)
    gaps = device.gaps
    assert gaps.host + gaps.kernel + gaps.other == device.occupancy.whole - device.occupancy.any(*DEVICE)
    assert sum(stream.events for stream in device.streams) == device.events
    assert sum(entry.count for entry in device.names) == device.events


def test_gaps_by_what_the_next_kernel_waited_for(tmp_path: Path) -> None:
    events = [
        event("cuda_runtime", "cudaLaunchKernel", 0, 1, correlation=1),
        event("cuda_runtime", "cudaLaunchKernel", 2, 1, correlation=2),
        event("cuda_runtime", "cudaLaunchKernel", 4, 1, correlation=3),
        event("cuda_runtime", "cudaLaunchKernel", 300, 1, correlation=4),
        kernel("a", 10, 10, correlation=1),
        kernel("late", 310, 10, correlation=4),
        kernel("soon", 49, 10, correlation=2),
        kernel("held", 100, 50, correlation=3),
        kernel("unknown", 400, 10),
        kernel("other stream", 140, 20, stream=8),
    ]
    [device] = timeline.devices(read(write(tmp_path / "a.json", events)))
    first, second = device.streams
    assert (first.gaps.host, first.gaps.kernel, first.gaps.other) == (160_000, 29_000, 41_000 + 80_000)
    assert (second.busy, second.gaps.host + second.gaps.kernel + second.gaps.other) == (20_000, 0)
    assert device.gaps.host == 150_000 and device.unlaunched == 2


def test_every_device_of_a_process_has_its_own_partition(tmp_path: Path) -> None:
    events = [kernel("a", 0, 10), event("kernel", "b", 100, 30, device=1, stream=7)]
    zero, one = timeline.devices(read(write(tmp_path / "a.json", events)))
    assert (zero.name, zero.occupancy.whole, one.name, one.occupancy.whole) == ("0", 10_000, "1", 30_000)


@pytest.mark.parametrize("seed", range(20))
def test_a_count_by_hand_of_random_intervals(tmp_path: Path, seed: int) -> None:
    """Each microsecond on its own: which kinds are active in it."""
    chance = random.Random(seed)
    shapes = {
        "gemm": Kind.COMPUTE,
        "ncclKernel_AllReduce": Kind.COMMUNICATION,
        "Memcpy HtoD": Kind.COPY,
        "Memset": Kind.MEMSET,
    }
    events = []
    for _ in range(chance.randint(1, 40)):
        name = chance.choice(list(shapes))
        events.append(kernel(name, chance.randint(0, 200), chance.randint(0, 30), stream=chance.randint(1, 3)))
    [device] = timeline.devices(read(write(tmp_path / "a.json", events)))
    active = [
        {shapes[one["name"]] for one in events if one["ts"] <= tick < one["ts"] + one["dur"]}
        for tick in range(device.begin // 1000, device.end // 1000)
    ]
    found = device.occupancy
    assert found.whole == 1000 * len(active)
    for kind in DEVICE:
        assert found.any(kind) == 1000 * sum(kind in now for now in active)
        assert found.both(kind, Kind.COMPUTE) == 1000 * sum({kind, Kind.COMPUTE} <= now for now in active)
    turns = found.in_turn(DEVICE)
    assert turns[-1] == 1000 * sum(not now for now in active) and sum(turns) == found.whole


def test_own_time_on_a_thread_is_what_no_inner_event_covers(tmp_path: Path) -> None:
    events = [
        event("cpu_op", "outer", 0, 100),
        event("cpu_op", "inner", 10, 30),
        event("cuda_runtime", "launch", 15, 5, correlation=1),
        event("cpu_op", "crosses", 90, 50),
        event("cpu_op", "after", 200, 10),
        {**event("cpu_op", "elsewhere", 50, 200), "tid": 7},
    ]
    first, second = timeline.threads(read(write(tmp_path / "a.json", events)))
    assert first.names[0].name == "elsewhere" and first.nanoseconds == second.nanoseconds == 250_000
    own = {entry.name: entry.nanoseconds / 1000 for entry in second.names}
    assert own == {"outer": 60, "inner": 25, "launch": 5, "crosses": 10, "after": 10}
    assert dict(second.own) == {Kind.OPERATOR: 105_000, Kind.LAUNCH: 5_000}


def test_steps_follow_each_other_and_hold_the_work_they_launched(tmp_path: Path) -> None:
    events = [event("user_annotation", f"ProfilerStep#{at}", 100 * at, 99) for at in range(3)]
    for at in range(3):
        events.append(event("cuda_runtime", "cudaLaunchKernel", 100 * at + 10, 5, correlation=at))
        events.append(kernel("gemm", 100 * at + 50, 120, stream=at, correlation=at))
    [device] = timeline.devices(read(write(tmp_path / "a.json", events)))
    assert [step.occupancy.whole for step in device.steps] == [170_000, 100_000, 100_000]
    assert [step.name for step in device.steps] == ["ProfilerStep#0", "ProfilerStep#1", "ProfilerStep#2"]
    assert all(before.occupancy.whole > 0 for before, _ in pairwise(device.steps))
