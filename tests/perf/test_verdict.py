"""Verdicts on runs that never were: facts with one clear answer each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fullbore.perf.model import compute
from fullbore.perf.plan.advise import Advice, ranked
from fullbore.perf.plan.facts import TRAINING, Facts, Usage, usage_by_state
from fullbore.perf.plan.verdict import PHASES, Verdict, utilisation, verdict
from fullbore.record.ledger import Ledger, State
from fullbore.spec.hardware import Ceilings
from fullbore.spec.plan import Choice, Plan
from fullbore.spec.work import Operation, Work

CEILINGS = Ceilings(
    "host", "now", {"fp32": {1: 1e11, 2: 2e11}, "bf16": {1: 5e11, 2: 1e12}}, 2e10, 1e9, 2e9, 1e8, 3e6
)  # fmt: skip
PLAN = Plan(
    world_size=1, global_batch_size=32, micro_batch_size=32, accumulation=1, steps=1000, precision="bf16",
    compile=False, threads=2, evaluate_every=50, checkpoint_every=50, warmup_steps=0,
)  # fmt: skip
WORK = Work(
    10**7,
    (
        Operation("linear", "matmul", (256, 4096, 4096), 2.0 * 256 * 4096 * 4096, 256 * 8192),
        Operation("norm", "elementwise", (256, 4096), 0.0, 256 * 4096 * 20.0, 4),
    ),
    1e6,
    "tokens",
    256,
)
TINY = replace(WORK, operations=(Operation("linear", "matmul", (1, 64, 64), 8192, 8192),), parameters=1000)
CALM = Usage(1.0, cpu_self=1.9, cpu_waiting=0.02, io_pressure=0.0)


def facts(seconds: dict[str, float], **more: object) -> Facts:
    defaults: dict[str, object] = {"cores": 2, "plan": PLAN, "ceilings": CEILINGS, "work": WORK, "steps": 1000}
    values = {**defaults, **more}
    busy = values.pop("busy", {})
    ledger = Ledger(seconds, busy)  # type: ignore[arg-type]
    usage = values.pop("usage", {state: replace(CALM, seconds=t) for state, t in seconds.items()})
    steps = values["steps"]
    return Facts(ledger, usage=usage, samples=32.0 * steps, **values)  # type: ignore[arg-type, operator]


def judge(seconds: dict[str, float], **more: object) -> Verdict:
    return verdict(facts(seconds, **more))


TRAIN: dict[str, float] = {"start": 3, "forward": 300, "backward": 600, "optimizer": 40, "data wait": 2, "evaluate": 30}


def test_every_state_belongs_to_exactly_one_phase() -> None:
    placed = [state for states in PHASES.values() for state in states]
    assert sorted(placed) == sorted(State)


def test_model_compute_with_its_distance_from_the_peak() -> None:
    found = judge(TRAIN)
    mfu = WORK.training_flops * 32 * 1000 / 940 / 1e12
    assert found.limit == "model compute"
    assert f"computing at {mfu * 100:.1f} % of the measured bf16 peak" in found.sentence
    assert found.share == pytest.approx(940 / 975)
    assert found.sentence.startswith("Training, 99.7 % of the run, was limited by model compute")


def test_fp32_is_told_of_bf16_with_the_gain_of_amdahls_law() -> None:
    plain = replace(PLAN, precision="fp32")
    advice = judge(TRAIN, plan=plain).advice[0]
    assert advice.set == "--set train.precision=bf16"
    steps = [compute.predict(WORK, CEILINGS, plan)["step_seconds"].value for plan in (plain, PLAN)]
    assert advice.predicted_gain == pytest.approx(972 / (972 - 940 * (1 - steps[1] / steps[0])) - 1)
    assert advice.error is None


def test_nothing_is_advised_that_the_trials_refuted() -> None:
    choices = tuple(
        Choice(f"train.{key}", value, "", "measured")
        for key, value in (("precision", "fp32"), ("threads", "1"), ("micro_batch_size", "16"))
    )
    plan = replace(PLAN, precision="fp32", threads=1, micro_batch_size=16, accumulation=2)
    open_, refuted = (judge(TRAIN, plan=p, work=TINY).advice for p in (plan, replace(plan, choices=choices)))
    settings = ["train.threads", "train.micro_batch_size"]
    assert all(any(key in item.set for item in open_) for key in settings)
    assert not any(key in item.set for item in refuted for key in (*settings, "train.precision"))


def test_what_has_no_predicted_gain_comes_last() -> None:
    given = [Advice("a", "", None), Advice("b", "", 0.1), Advice("c", "", 0.5), Advice("d", "", 0.001)]
    assert [item.change for item in ranked(given)] == ["c", "b", "a"]


def test_nothing_is_busier_than_all_the_time() -> None:
    """A probe that found far too little, and a neighbour that had the cores half of the time."""
    low = replace(
        CEILINGS, matmul_flops={"bf16": {1: 1e9, 2: 1e9}}, memory_bandwidth=1e6, disk_read=1.0, disk_write=1.0
    )
    crowded = Usage(900, cpu_self=2.2, cpu_others=1.0, cpu_waiting=1.5, read_rate=1e6)
    for ceilings in (low, CEILINGS):
        given = facts(TRAIN, ceilings=ceilings, usage={"forward": crowded, "backward": crowded})
        found = {item.resource: item.utilisation for item in utilisation(given)}
        assert 0 < max(found.values()) <= 1
    mfu = WORK.training_flops * given.samples / given.seconds(*TRAINING) / CEILINGS.peak("bf16", 2)
    assert found["bf16 arithmetic"] == pytest.approx(mfu)


def test_memory_bandwidth_and_small_operations() -> None:
    moving = Work(10**6, (Operation("map", "elementwise", (256, 4096), 1e6, 256 * 4096 * 80.0),), 1e6, "tokens", 256)
    assert judge(TRAIN, work=moving).limit == "memory bandwidth"
    found = judge(TRAIN, work=TINY)
    assert found.limit == "small operations"
    assert any("global_batch_size=64" in item.set for item in found.advice)


def test_waiting_for_data_names_bytes_or_cpu() -> None:
    waiting = {**TRAIN, "data wait": 3000.0}
    usage = {"data wait": Usage(3000, cpu_self=0.9, cpu_waiting=0.0)}
    slow = judge(waiting, busy={"feed": 3500.0, "feed cpu": 300.0}, usage=usage, source="s3://bucket/a")
    assert slow.limit == "reading shards" and "reading the shards" in slow.sentence
    assert slow.advice[0].predicted_gain == pytest.approx(3970 / 970 - 1, rel=0.01)
    decoding = judge(waiting, busy={"feed": 3500.0, "feed cpu": 3400.0}, usage=usage)
    assert decoding.limit == "making batches" and "3.4 s of a core per step" in decoding.sentence
    assert judge(waiting, usage=usage).limit == "waiting for data"


def test_a_neighbour_by_what_stood_ready_and_without_that_by_what_was_taken() -> None:
    hungry = Usage(900, cpu_self=1.3, cpu_others=0.7, cpu_waiting=0.65)
    found = judge(TRAIN, usage={"forward": hungry, "backward": hungry})
    assert found.limit == "a neighbour" and "other processes used 0.7 of 2 cores" in found.evidence[0]
    assert found.share == pytest.approx(900 * 0.65 / 2 / 975)
    assert found.advice[0].predicted_gain == pytest.approx(972 / (972 - 292.5) - 1)
    unknowing = replace(hungry, cpu_waiting=None)
    assert judge(TRAIN, usage={"forward": unknowing, "backward": unknowing}).limit == "a neighbour"


def test_a_neighbour_that_takes_what_we_leave_is_not_blamed() -> None:
    beside = Usage(900, cpu_self=1.0, cpu_others=1.0, cpu_waiting=0.01)
    one_thread = replace(PLAN, threads=1)
    assert judge(TRAIN, plan=one_thread, usage={"forward": beside, "backward": beside}).limit == "model compute"


def test_the_host_and_a_stopped_process() -> None:
    stolen = Usage(900, cpu_self=1.2, steal=0.8, cpu_waiting=0.0)
    assert judge(TRAIN, usage={"forward": stolen, "backward": stolen}).limit == "the machine's host"
    held = Usage(900, cpu_self=1.0, held=400, cpu_waiting=0.0)
    found = judge(TRAIN, usage={"backward": held})
    assert found.limit == "a stopped process" and found.share == pytest.approx(400 / 975)


def test_a_disk_in_preparation_and_in_checkpoints() -> None:
    slow = Usage(90, cpu_self=0.1, io_pressure=0.8, read_rate=2e6, cpu_waiting=0.0, idle=0.9, disk=0.8)
    found = judge({"start": 2, "read": 90, "pack": 5}, usage={"read": slow}, plan=None, steps=0)
    assert found.limit == "a slow disk" and "read" in found.sentence and "2 MB/s read" in " ".join(found.evidence)
    saving = Usage(500, cpu_self=0.05, write_rate=1e6, cpu_waiting=0.0, idle=0.95)
    found = judge({**TRAIN, "checkpoint": 500}, usage={"checkpoint": saving})
    assert found.limit == "a slow disk" and "waited for in checkpoint" in found.sentence


def test_a_cold_cache_and_a_memory_limit_from_what_no_state_of_the_data_waits_for() -> None:
    cold = {"start": Usage(9, cpu_self=0.3, read_rate=50e6, cpu_waiting=0.0, idle=0.7, fetching=0.6)}
    found = judge({**TRAIN, "start": 600.0}, usage=cold)
    assert found.limit == "a cold cache" and "mostly in start" in found.sentence
    assert found.share == pytest.approx(0.6 * 600 / 1572) and "30 GB read from the disk" in found.evidence[0]
    thrashing = {"forward": Usage(300, cpu_self=0.6, read_rate=9e8, idle=0.4, disk=0.4, thrashing=0.9)}
    found = judge(TRAIN, usage=thrashing, memory_limit=2 * 10**8)
    assert found.limit == "a memory limit" and "200 MB" in found.sentence
    assert found.share == pytest.approx(0.9 * 300 / 975)


def test_of_several_that_disturb_the_dearest_of_the_whole_run_is_named() -> None:
    """Though it fell into another phase than the longest."""
    read = {"read": Usage(500, cpu_self=0.1, cpu_waiting=0.0, idle=0.9)}
    held = {"backward": Usage(600, cpu_self=1.0, cpu_waiting=0.0, held=300)}
    found = judge({**TRAIN, "read": 500.0}, usage={**read, **held}, source="far away")
    assert found.limit == "a slow source" and found.sentence.startswith("The run was limited by far away")
    less = {"backward": Usage(600, cpu_self=1.0, cpu_waiting=0.0, held=460)}
    assert judge({**TRAIN, "read": 500.0}, usage={**read, **less}).limit == "a stopped process"


def test_what_another_thread_of_ours_waits_for_is_not_lost_to_the_accounted_one() -> None:
    beside = Usage(900, cpu_self=1.0, cpu_others=1.0, cpu_waiting=0.9, main_waiting=0.01)
    one_thread = replace(PLAN, threads=1)
    given = {"forward": beside, "backward": beside}
    assert judge(TRAIN, plan=one_thread, usage=given).limit == "model compute"
    assert judge(TRAIN, usage=given).limit == "a neighbour", "two threads compute together"


def test_jobs_without_training() -> None:
    busy = {state: Usage(10, cpu_self=1.0, cpu_waiting=0.0) for state in ("read", "tokenise", "pack")}
    for states, limit in (
        ({"read": 9.0, "pack": 2.0}, "reading and cleaning"),
        ({"read": 2.0, "tokenise": 9.0}, "tokenising"),
        ({"read": 2.0, "tokenise": 3.0, "pack": 9.0}, "packing"),
    ):
        found = judge({"start": 1.0, **states}, usage=busy, plan=None, ceilings=None, work=None, steps=0)
        assert found.limit == limit and found.sentence.startswith("Preparing data")
        assert found.utilisation == ()
    assert judge({"start": 5.0, "read": 1.0}, plan=None, steps=0).limit == "start-up"
    assert judge({"start": 5.0, "probe": 9.0}, steps=0).limit == "planning"
    assert judge({"start": 5.0, "compress": 9.0}, steps=0).limit == "compression"
    assert judge({}).limit == "nothing"


@pytest.mark.parametrize(
    ("state", "limit", "setting"),
    [
        ("evaluate", "evaluation", "--set train.evaluate_every=100"),
        ("checkpoint", "checkpoints", "--set train.checkpoint_every=100"),
        ("compile", "compiling", "--set train.compile=false"),
        ("exposed communication", "exchanging gradients", ""),
        ("copy", "copying batches", ""),
    ],
)
def test_what_interrupts_training(state: str, limit: str, setting: str) -> None:
    found = judge({**TRAIN, state: 2000.0})
    assert found.limit == limit
    assert not setting or setting in [item.set for item in found.advice]


def test_the_straggler_is_named_from_all_ranks() -> None:
    fast = Ledger({"forward": 100.0, "backward": 200.0, "exposed communication": 150.0})
    slow = Ledger({"forward": 170.0, "backward": 270.0, "exposed communication": 10.0})
    plan = replace(PLAN, world_size=2, threads=1)
    for ledger in (fast, slow):
        found = verdict(Facts(ledger, cores=2, ranks=(fast, slow), plan=plan))
        assert found.limit == "a slow rank" and "rank 1, which the others wait for" in found.sentence
    even = verdict(Facts(fast, cores=2, ranks=(fast, fast), plan=plan))
    assert even.limit == "model compute"


def test_a_rank_stopped_while_it_exchanges_is_the_straggler_though_all_wait_alike() -> None:
    alike = Ledger({"forward": 100.0, "backward": 200.0, "exposed communication": 400.0})
    usage = {"exposed communication": Usage(400, cpu_self=0.1, held=380.0)}
    found = verdict(Facts(alike, cores=2, ranks=(alike, alike), stopped={1: 380.0}, usage=usage, plan=PLAN))
    assert found.limit == "a slow rank" and "rank 1" in found.sentence
    assert any("it was not allowed to run" in line for line in found.evidence)
    assert found.share == pytest.approx(380 / 700)


def test_utilisation_follows_the_law() -> None:
    given = facts(TRAIN, busy={"feed": 97.2})
    found = {item.resource: item for item in utilisation(given)}
    rate = given.samples / given.seconds("forward", "backward", "optimizer", "data wait", "evaluate")
    for item in found.values():
        assert item.utilisation == pytest.approx(rate * item.demand / item.capacity)
    assert found["the feed"].utilisation == pytest.approx(0.1)
    assert found["cores"].utilisation == pytest.approx(0.95)
    order = [item.utilisation for item in utilisation(given)]
    assert order == sorted(order, reverse=True)


def test_to_json_is_plain() -> None:
    import json

    value = json.loads(json.dumps(judge(TRAIN, plan=replace(PLAN, precision="fp32")).to_json()))
    assert set(value) == {"limit", "sentence", "share", "evidence", "advice", "utilisation"}
    assert {"change", "set", "predicted_gain", "error", "figure"} <= set(value["advice"][0])


def test_samples_are_laid_over_the_states_they_fell_into() -> None:
    intervals = [
        {"kind": "ledger", "begin": 0.0, "end": 10.0, "seconds": {"read": 10.0}},
        {"kind": "ledger", "begin": 10.0, "end": 20.0, "seconds": {"forward": 5.0, "backward": 5.0}},
    ]
    samples = [
        {"t": 5.0, "seconds": 5.0, "cores": 2, "cpu_self": 1.0, "pressure": {"io": 0.5}},
        {"t": 15.0, "seconds": 10.0, "cores": 2, "cpu_self": 2.0, "pressure": {"io": 0.0}},
        {"t": 25.0, "seconds": 10.0, "held": 9.0, "cores": 2, "cpu_self": 0.1, "cpu_others": 0.0},
    ]
    found = usage_by_state(intervals, samples)
    assert found["read"].seconds == pytest.approx(10) and found["read"].cpu_self == pytest.approx(1.5)
    assert found["read"].io_pressure == pytest.approx(0.25)
    assert found["forward"].seconds == found["backward"].seconds == pytest.approx(5)
    assert found["forward"].cpu_self == pytest.approx((2.0 + 0.1) / 2)
    assert found["forward"].held == pytest.approx(9.0 / 4)


def test_a_stop_that_was_heard_of_late_is_of_the_sample_before() -> None:
    intervals = [{"kind": "ledger", "begin": 0.0, "end": 7.0, "seconds": {"start": 7.0}}]
    idle = {"cores": 2, "cpu_self": 0.1, "read_bytes_per_second": 2e6, "held": 0.0}
    samples = [{**idle, "t": 6.0, "seconds": 6.0}, {**idle, "t": 7.0, "seconds": 1.0, "cpu_self": 1.0, "held": 5.3}]
    found = usage_by_state(intervals, samples)["start"]
    assert found.held == pytest.approx(5.3) and found.fetching * 7 == pytest.approx(6 * (1 - 0.1) - 4.3)


def test_a_stopped_child_holds_the_run() -> None:
    intervals = [{"kind": "ledger", "begin": 0.0, "end": 10.0, "seconds": {"forward": 10.0}}]
    sample = {"t": 10.0, "seconds": 10.0, "cores": 2, "cpu_self": 0.1, "stopped": 1}
    assert usage_by_state(intervals, [sample])["forward"].held == 10


def test_a_disk_is_waited_for_and_memory_thrashes_sample_by_sample() -> None:
    intervals = [{"kind": "ledger", "begin": 0.0, "end": 10.0, "seconds": {"start": 10.0}}]
    idle = {"cores": 2, "seconds": 5.0, "cpu_self": 0.2, "cpu_waiting": 0.0, "read_bytes_per_second": 5e7}
    cold = {**idle, "t": 5.0, "pressure": {"io": 0.6}}
    again = {**idle, "t": 10.0, "iowait": 0.5, "cpu_system": 0.1, "refaulted_bytes_per_second": 5e7}
    found = usage_by_state(intervals, [cold, again])["start"]
    assert found.idle == pytest.approx(0.8) and found.disk == pytest.approx((0.6 + 0.5) / 2)
    assert found.thrashing == pytest.approx((0.0 + 0.9) / 2) and found.fetching == pytest.approx(0.8)
    still = {**cold, "read_bytes_per_second": 0.0}
    assert usage_by_state(intervals, [still])["start"].disk == 0, "others waited for the disk"


def test_where_nothing_ran_it_was_in_states_that_can_wait() -> None:
    mixed = [{"kind": "ledger", "begin": 0.0, "end": 10.0, "seconds": {"forward": 7.0, "checkpoint": 3.0}}]
    sample = {"t": 10.0, "seconds": 10.0, "cores": 2, "cpu_waiting": 0.0, "write_bytes_per_second": 1e6, "iowait": 0.2}
    found = usage_by_state(mixed, [{**sample, "cpu_self": 0.76}])
    assert found["forward"].idle == 0 and found["checkpoint"].idle == pytest.approx(0.24 / 0.3)
    assert found["checkpoint"].disk == pytest.approx(0.2 / 0.3)
    more = usage_by_state(mixed, [{**sample, "cpu_self": 0.35}])
    assert more["checkpoint"].idle == pytest.approx(1) and more["forward"].idle == pytest.approx(0.35 / 0.7)


def test_what_is_done_once_is_not_advised_to_be_done_less_often() -> None:
    seconds = {**TRAIN, "evaluate": 2000.0}
    often = [advice.set for advice in judge(seconds).advice]
    assert "--set train.evaluate_every=100" in often
    once = judge(seconds, plan=replace(PLAN, evaluate_every=1000))
    assert not any("evaluate_every" in advice.set for advice in once.advice)


def test_larger_micro_batches_that_are_advised_divide_the_batch() -> None:
    plan = replace(PLAN, global_batch_size=12, micro_batch_size=4, accumulation=3)
    found = judge({"forward": 300.0, "backward": 600.0}, plan=plan, work=TINY)
    assert "--set train.micro_batch_size=6" in [advice.set for advice in found.advice]
