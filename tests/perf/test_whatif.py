"""What another setting would bring, worked out by hand."""

from __future__ import annotations

import math

import pytest

from fullbore.perf.model import feed
from fullbore.perf.plan import whatif
from fullbore.perf.plan.course import STEPS, Amounts, course
from fullbore.perf.plan.whatif import Change
from fullbore.spec.hardware import Ceilings
from fullbore.spec.job import Job
from fullbore.spec.plan import Plan, Prediction
from fullbore.spec.work import Operation, Work

RATES = {"fp32": {1: 1e11, 2: 2e11}, "bf16": {1: 5e11, 2: 1e12}}
CEILINGS = Ceilings("host", "now", RATES, 2e10, 1e9, 2e9, None, 3e6, convolution_flops=RATES)
PLAN = Plan(
    world_size=1, global_batch_size=32, micro_batch_size=8, accumulation=4, steps=100, precision="bf16",
    compile=False, threads=2, evaluate_every=10, checkpoint_every=50, warmup_steps=0,
)  # fmt: skip
WORK = Work(10**6, (Operation("linear", "matmul", (64, 512, 512), 2.0 * 64 * 512 * 512, 64 * 1024),), 1e5, "tokens", 64)
JOB = Job.model_validate({
    "name": "text", "data": {"source": "texts"}, "tokenizer": {"vocabulary_size": 1024},
    "task": {"kind": "causal_lm", "baselines": ["bigram"]}, "model": {"kind": "decoder", "layers": 4},
    "train": {"budget": "100 steps", "sequence_length": 64}, "compress": {"samples": 64}, "serve": {},
})  # fmt: skip
AMOUNTS = Amounts(feed.Input(1e7, 1e7, 1e6), {"train": 10_000, "validation": 500, "test": 0}, 64)


def line(seconds: float, error: float | None = None) -> Prediction:
    return Prediction(seconds, "s", error)


def test_each_line_is_the_measured_one_times_what_is_predicted_of_both() -> None:
    measured = {"start": 2.0, "forward": 10.0, "backward": 30.0, "compress": 9.0, "other": 0.1}
    now = {"start": line(1.0), "forward": line(4.0, 0.03), "backward": line(8.0), "compress": line(3.0)}
    then = {"start": line(1.0), "forward": line(6.0, 0.04), "backward": line(8.0), "compile": line(20.0, 0.5)}
    found = whatif.corrected(measured, now, then)
    assert {state: item.value for state, item in found.items()} == pytest.approx(
        {"start": 2.0, "forward": 15.0, "backward": 30.0, "compress": 0.0, "other": 0.1, "compile": 20.0}
    )
    assert found["start"].error == 0.0 and found["compress"].error == 0.0, "what does not change is known"
    assert found["forward"].error == pytest.approx(0.05), "of both predictions"


def test_the_error_of_a_sum_is_known_if_that_of_what_changes_is() -> None:
    before = {"forward": 50.0, "start": 5.0}
    known = {"forward": line(95.0, 0.1), "start": line(5.0)}
    assert whatif.error(known, before) == pytest.approx(0.095), "what does not change needs none"
    assert whatif.error({**known, "start": line(10.0)}, before) == pytest.approx(9.5 / 105), "it changes little"
    assert whatif.error({**known, "start": line(25.0)}, before) is None
    assert whatif.error({**known, "start": line(25.0)}, before, ["forward"]) == pytest.approx(0.1)
    assert whatif.error({"forward": line(50.0, 0.0), "start": line(5.0, 0.0)}, before) == 0.0


def test_time_budgets_are_judged_by_the_rate_of_training_and_all_others_by_the_run() -> None:
    now, then = {"start": 10.0, "forward": 90.0}, {"start": 10.0, "forward": 89.0}
    rate = whatif.figure(True, now, then, (900.0, 1335.0), units=2)
    assert (rate.name, rate.now, rate.then) == ("training rate", 20.0, 30.0) and rate.gain == pytest.approx(0.5)
    run = whatif.figure(False, now, {"start": 10.0, "forward": 40.0}, (900.0, 900.0))
    assert (run.name, run.now, run.then, run.gain) == ("run time", 100.0, 50.0, 1.0)
    beside = whatif.figure(True, {**now, "compress": 50.0}, now, (900.0, 900.0))
    assert beside.name == "run time" and beside.gain == pytest.approx(0.5), "compressing is no part of training"


def test_every_candidate_is_a_setting_that_a_job_takes() -> None:
    from fullbore.spec.load import load

    found = list(whatif.candidates(JOB, PLAN, ("fp32", "bf16"), cores=2, validation=500))
    kinds = {key for change in found for key in change.overrides}
    assert {"train.precision", "train.compile", "train.threads", "train.micro_batch_size", "train.evaluate_every",
            "train.evaluate_samples", "train.checkpoint_every", "train.world_size", "train.optimizer",
            "train.global_batch_size", "train.sequence_length", "train.recompute", "compress.variants",
            "compress.samples", "model.layers"} <= kinds  # fmt: skip
    for change in found:
        changed = load(JOB, change.overrides).job
        assert changed != JOB, change
        assert change.changes_training == (
            (changed.model, changed.task) != (JOB.model, JOB.task)
            or any(
                getattr(changed.train, name) != getattr(JOB.train, name)
                for name in ("optimizer", "global_batch_size", "sequence_length")
            )
        )
    sizes = [
        change.overrides["train.micro_batch_size"] for change in found if "train.micro_batch_size" in change.overrides
    ]
    assert sizes == ["4", "16"]
    assert Change("", {"a.b": "1", "a.c": "2"}).settings == "--set a.b=1 --set a.c=2"


def test_a_whole_run_is_predicted_by_state() -> None:
    found = course(JOB, PLAN, WORK, CEILINGS, AMOUNTS, 2)
    assert set(found) >= {*STEPS} - {"exposed communication"}
    assert {
        "start",
        "probe",
        "read",
        "tokenise",
        "pack",
        "evaluate",
        "checkpoint",
        "compress",
        "serve",
        "report",
    } < set(found)
    row = sum(found.get(state, 0.0) for state in STEPS) / 100 / 32 / 3
    assert found["evaluate"] == pytest.approx(row * 10 * 500 + 64 * 3200 / 4e6), "ten times, and the baselines"
    assert "compile" not in found and "compress" not in course(
        JOB.model_copy(update={"compress": None}), PLAN, WORK, CEILINGS, AMOUNTS, 2
    )


@pytest.mark.parametrize(
    ("changes", "state", "ratio"),
    [
        ({"steps": 200}, "forward", 2.0),
        ({"evaluate_every": 100}, "evaluate", None),
        ({"world_size": 2, "threads": 1}, "exposed communication", math.inf),
        ({"compile": True}, "compile", math.inf),
    ],
)
def test_lines_grow_with_what_they_are_of(changes: dict[str, object], state: str, ratio: float | None) -> None:
    from dataclasses import replace

    one = course(JOB, PLAN, WORK, CEILINGS, AMOUNTS, 2)
    two = course(JOB, replace(PLAN, **changes), WORK, CEILINGS, AMOUNTS, 2)  # type: ignore[arg-type]
    if ratio is None:
        assert two[state] < one[state]
    elif ratio == math.inf:
        assert state not in one and two[state] > 0
    else:
        assert two[state] == pytest.approx(ratio * one[state])


def test_what_is_kept_is_not_prepared_again() -> None:
    from dataclasses import replace

    fresh = course(JOB, None, None, CEILINGS, AMOUNTS, 2)
    spared = course(JOB, None, None, CEILINGS, replace(AMOUNTS, kept=frozenset({"read", "tokenise", "pack"})), 2)
    assert all(spared[state] < fresh[state] for state in ("read", "tokenise"))
    packed_anew = course(JOB, None, None, CEILINGS, replace(AMOUNTS, kept=frozenset({"read", "tokenise"})), 2)
    assert packed_anew["tokenise"] == pytest.approx(1e7 / 3e6 / 2), "the vocabulary is kept, and applied again"
