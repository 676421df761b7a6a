from __future__ import annotations

import math
import shlex
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullbore.base.errors import DoesNotFit, UsageError
from fullbore.perf.model.calibration import Calibration
from fullbore.perf.plan import choose, steps
from fullbore.perf.plan.choose import Compiling, Limits, Setting, Trial
from fullbore.perf.plan.steps import Costs
from fullbore.spec.plan import Plan
from fullbore.spec.train import TrainSection


def section(**settings: object) -> TrainSection:
    return TrainSection.model_validate({"budget": "60s", **settings})


def limits(**changes: object) -> Limits:
    values: dict[str, object] = {
        "rows": 1000, "units_per_row": 256, "units": "tokens", "cores": 2, "memory_available": 8e9,
    }  # fmt: skip
    return Limits(**{**values, **changes})  # type: ignore[arg-type]


def measure(asked: TrainSection, given_: Limits, seconds_of: object) -> list[Trial]:
    """Run next_setting's loop against a machine that is a function."""
    trials: list[Trial] = []
    while (setting := choose.next_setting(asked, trials, given_)) is not None:
        trials.append(Trial(setting, seconds_of(setting)))  # type: ignore[operator]
        assert len(trials) < 20
    return trials


def machine(bf16: float) -> object:
    """Steps cost 1 s of a core per 32 samples in fp32, 10 ms a micro-batch, and more cores help."""

    def seconds(setting: Setting) -> float:
        speed = bf16 if setting.precision == "bf16" else 1.0
        work = setting.micro_batch_size * setting.accumulation / 32 / speed / setting.threads
        return work + 0.01 * setting.accumulation

    return seconds


def reason_of(plan: Plan, key: str) -> str:
    return next(str(choice) for choice in plan.choices if choice.key == key)


def test_bf16_is_chosen_only_where_it_is_measured_faster() -> None:
    asked = section()
    fast = choose.plan(asked, measure(asked, limits(), machine(4.2)), limits())
    assert fast.precision == "bf16" and "as fast as in fp32, measured" in reason_of(fast, "train.precision")
    slow = choose.plan(asked, measure(asked, limits(), machine(1.02)), limits())
    assert slow.precision == "fp32" and "--set train.precision" in reason_of(slow, "train.precision")
    by_the_job = section(precision="fp32")
    plan = choose.plan(by_the_job, measure(by_the_job, limits(), machine(4.2)), limits())
    assert plan.precision == "fp32" and "set by the job" in reason_of(plan, "train.precision")


def test_a_dtype_without_hardware_is_not_even_tried() -> None:
    asked = section()
    trials = measure(asked, limits(expected={"fp32": 1.0, "bf16": 3.0}), machine(0.2))
    assert {t.setting.precision for t in trials} == {"fp32"}
    plan = choose.plan(asked, trials, limits(expected={"fp32": 1.0, "bf16": 3.0}))
    assert plan.precision == "fp32" and "0.33x as fast as in fp32, predicted" in reason_of(plan, "train.precision")


def test_without_trials_the_last_run_of_the_kind_or_the_prediction_decides() -> None:
    given_ = limits(expected={"fp32": 1.0, "bf16": 0.5})
    assert choose.plan(section(), [], given_).precision == "bf16"
    remembering = limits(expected={"fp32": 1.0, "bf16": 0.5}, remembered="fp32")
    plan = choose.plan(section(), [], remembering)
    assert plan.precision == "fp32" and "the last run of such a model" in reason_of(plan, "train.precision")
    assert choose.next_setting(section(), [], remembering) == Setting("fp32", 2, 32, 1)


def test_one_thread_is_tried_second_where_steps_are_short_or_others_use_the_cores() -> None:
    first = Setting("fp32", 2, 32, 1)
    for trial in (Trial(first, 0.01), Trial(first, 2.0, others=1.0)):
        assert choose.next_setting(section(), [trial], limits()) == Setting("fp32", 1, 32, 1)
    assert choose.next_setting(section(), [Trial(first, 2.0)], limits()) == Setting("bf16", 2, 32, 1)
    crowded = [Trial(first, 0.4, others=1.0), Trial(Setting("fp32", 1, 32, 1), 0.01)]
    plan = choose.plan(section(), crowded, limits())
    assert plan.threads == 1, "time may end the trials here"
    assert choose.next_setting(section(), crowded, limits()) == Setting("bf16", 1, 32, 1)
    other = [*crowded, Trial(Setting("bf16", 1, 32, 1), 0.005)]
    assert choose.chosen(section(), other, limits()) == Setting("bf16", 1, 32, 1), "as fp32 showed"


def test_micro_batches_are_tried_last() -> None:
    order = [t.setting for t in measure(section(), limits(), machine(4))]
    matter = [place for place, setting in enumerate(order) if setting.micro_batch_size == 32]
    assert matter == list(range(len(matter))) and len(order) > len(matter)


def test_what_is_chosen_can_be_overridden_by_what_is_pasted() -> None:
    asked = section()
    for trials in ([], measure(asked, limits(), machine(4))):
        for choice in choose.plan(asked, trials, limits(), Costs(0.1, 0.1, 0.1)).choices:
            command = shlex.split(str(choice).rpartition("; ")[2].removesuffix(")"))
            assert command[0] == "--set" and command[1].startswith(f"{choice.key}=")
            value = command[1].partition("=")[2]
            assert value != choice.value
            exact = int(value) if value.isdigit() else {"true": True, "false": False}.get(value, value)
            section(**{choice.key.removeprefix("train."): exact})
    fixed = section(budget="1 steps", precision="fp32", threads=1, micro_batch_size=32, compile=False)
    told = [str(choice) for choice in choose.plan(fixed, [], limits()).choices]
    assert told[:5] == [
        "train.precision fp32 (set by the job)", "train.compile false (set by the job)",
        "train.threads 1 (set by the job)", "train.micro_batch_size 32 (set by the job)",
        "train.budget 1 step (set by the job)",
    ]  # fmt: skip


def test_all_candidates_that_matter_are_timed_once() -> None:
    asked = section()
    trials = measure(asked, limits(), machine(4))
    settings = [t.setting for t in trials]
    assert len(set(settings)) == len(settings)
    assert {s.precision for s in settings} == {"bf16", "fp32"} and {s.threads for s in settings} == {1, 2}
    plan = choose.plan(asked, trials, limits())
    assert plan.threads == 2 and "260 ms with 1" in reason_of(plan, "train.threads")


def test_one_thread_where_more_cost() -> None:
    asked = section()
    trials = measure(asked, limits(), lambda s: 0.001 * s.threads * s.accumulation)
    plan = choose.plan(asked, trials, limits())
    assert plan.threads == 1 and plan.accumulation == 1


def test_memory_bounds_the_micro_batch() -> None:
    asked = section(global_batch_size=64)
    small = limits(memory_of=lambda micro: 1e9 * micro, memory_available=10.5e9)
    plan = choose.plan(asked, measure(asked, small, machine(4)), small)
    assert plan.micro_batch_size == 8 and plan.accumulation == 8
    with pytest.raises(DoesNotFit, match="a micro-batch of 1 needs 1 GB a rank"):
        choose.plan(asked, [], limits(memory_of=lambda micro: 1e9 * micro, memory_available=1e9))


def test_a_micro_batch_that_does_not_divide_is_an_error_with_the_choices() -> None:
    with pytest.raises(UsageError, match="found 5, expected a divisor of a rank's 32 samples") as error:
        choose.plan(section(micro_batch_size=5), [], limits())
    assert "1, 2, 4, 8, 16, 32" in str(error.value)


def test_time_budget_pays_for_evaluation_and_checkpoints() -> None:
    asked = section(micro_batch_size=32, threads=2, precision="bf16", evaluate_every=10, checkpoint_every=20)
    trials = [Trial(Setting("bf16", 2, 32, 1), 0.5)]
    plain = choose.plan(asked, trials, limits())
    assert plain.steps == 120
    costs = Costs(evaluate_seconds=1.0, final_seconds=5.0, checkpoint_seconds=0.5)
    plan = choose.plan(asked, trials, limits(), costs)
    taken = plan.steps * 0.5 + (plan.steps - 1) // 10 * 1.0 + (plan.steps - 1) // 20 * 0.5 + 5.0
    assert 60 - 0.5 - 1.5 < taken <= 60
    assert plan.predicted["train_seconds"].value == pytest.approx(taken)
    assert "less" in reason_of(plan, "train.budget")


def test_a_time_budget_buys_training_whatever_judging_costs() -> None:
    asked = section(budget="90s", micro_batch_size=32, threads=2, precision="bf16")
    trials = [Trial(Setting("bf16", 2, 32, 1), 2.23)]
    costs = Costs(evaluate_seconds=113.0, final_seconds=113.0, checkpoint_seconds=0.1)
    plan = choose.plan(asked, trials, limits(), costs)
    assert plan.steps == 72 // 2.23 and plan.evaluate_every == plan.steps
    assert plan.predicted["train_seconds"].value == pytest.approx(plan.steps * 2.23 + 113, abs=1)
    assert "32 steps (90 s at 2.23 s a step, less 18 s for" in reason_of(plan, "train.budget")
    assert "once, at the end" in reason_of(plan, "train.evaluate_every")
    told = steps.warning(asked, plan.predicted["train_seconds"].value, costs)
    assert told and "about 1 min 53 s beside a budget of 90 s" in told and "about 3 min 05 s" in told
    assert steps.warning(asked, 90, Costs(final_seconds=10)) is None
    assert steps.warning(section(budget="5 steps"), 900, costs) is None
    cheap = choose.plan(asked, trials, limits(), Costs(1.0, 4.0, 0.1))
    assert 85 <= cheap.predicted["train_seconds"].value <= 90


@pytest.mark.parametrize(
    ("budget", "steps"),
    [("200 steps", 200), ("3 epochs", 94), ("64 samples", 2), ("10M tokens", 1221), ("1 tokens", 1), ("1ms", 1)],
)
def test_budgets_become_steps(budget: str, steps: int) -> None:
    asked = section(budget=budget, micro_batch_size=32, threads=2, precision="bf16")
    plan = choose.plan(asked, [Trial(Setting("bf16", 2, 32, 1), 0.5)], limits())
    assert plan.steps == steps
    assert 1 <= plan.evaluate_every <= steps and 1 <= plan.checkpoint_every <= steps
    assert plan.warmup_steps < steps or steps == 1


def test_what_past_trials_missed_is_added() -> None:
    trials = [Trial(Setting("bf16", 2, 32, 1), 0.5)]
    fixed = {"micro_batch_size": 32, "threads": 2, "precision": "bf16", "budget": "60s", "evaluate_every": 1000}
    plain = choose.plan(section(**fixed), trials, limits())
    slower = choose.plan(section(**fixed), trials, limits(), Costs(calibration=Calibration(1.25, 0.02, 3)))
    assert plain.steps == 120 and slower.steps == 96
    step = slower.predicted["step_seconds"]
    assert step.value == pytest.approx(0.625) and step.error == slower.predicted["rate"].error == 0.02


def test_compiling_is_tried_where_it_is_expected_to_pay_and_judged_by_its_trial() -> None:
    asked = section(micro_batch_size=32, threads=2, precision="bf16")
    plain = Trial(Setting("bf16", 2, 32, 1), 0.5)
    hopes = [Compiling(seconds=30, gain=0.2, training_seconds=seconds) for seconds in (100, 1000)]
    short, long = (limits(compiling=hope) for hope in hopes)
    assert choose.worth_compiling(asked, [plain], short) is None
    assert choose.worth_compiling(asked, [plain], limits()) is None
    setting = choose.worth_compiling(asked, [plain], long)
    assert setting == Setting("bf16", 2, 32, 1, compile=True)
    assert choose.worth_compiling(section(compile=False), [plain], long) is None
    told = reason_of(choose.plan(asked, [plain], short), "train.compile")
    assert "it would take about 30 s and save about 20 s" in told
    fast, slow = (Trial(setting, seconds, first_seconds=4) for seconds in (0.4, 0.6))
    compiled, refuted = (choose.plan(asked, [plain, trial], long) for trial in (fast, slow))
    assert compiled.compile and not refuted.compile
    assert choose.chosen(asked, [plain, fast], long) == setting
    assert "400 ms compiled, 500 ms not" in reason_of(compiled, "train.compile")
    assert compiled.predicted["step_seconds"].value == 0.4 and compiled.steps == (60 - 4) / 0.4


def test_checkpoint_interval_in_time_and_by_cost() -> None:
    fixed = {"micro_batch_size": 32, "threads": 2, "precision": "bf16", "budget": "10000 steps", "compile": False}
    trials = [Trial(Setting("bf16", 2, 32, 1), 0.5)]
    assert choose.plan(section(checkpoint_every="60s", **fixed), trials, limits()).checkpoint_every == 120
    cheap = choose.plan(section(**fixed), trials, limits(), Costs(checkpoint_seconds=0.01))
    dear = choose.plan(section(**fixed), trials, limits(), Costs(checkpoint_seconds=10))
    assert 0.01 / (cheap.checkpoint_every * 0.5) < 0.02 and 10 / (dear.checkpoint_every * 0.5) < 0.02


def test_no_trials_still_gives_a_whole_plan() -> None:
    plan = choose.plan(section(budget="10 steps"), [], limits())
    assert plan.steps == 10 and plan.predicted == {} and plan.precision == "fp32"
    assert Plan.from_json(plan.to_json()) == plan


@given(
    batch=st.integers(1, 300),
    ranks=st.integers(1, 4),
    units=st.integers(1, 4096),
    budget=st.sampled_from(["5s", "3 steps", "2 epochs", "100 samples", "5M tokens"]),
    slope=st.floats(1e-5, 1.0),
    room=st.floats(1e6, 1e10),
    evaluation=st.floats(0, 3),
    checkpoint=st.floats(0, 3),
)
def test_invariants(
    batch: int, ranks: int, units: int, budget: str, slope: float, room: float, evaluation: float, checkpoint: float
) -> None:
    asked = section(global_batch_size=batch, world_size=ranks, budget=budget)
    given_ = limits(units_per_row=units, memory_of=lambda micro: 1e5 * micro, memory_available=room)
    if room * 0.8 / ranks < 1e5:
        return
    trials = measure(asked, given_, lambda s: slope * s.micro_batch_size * s.accumulation + 1e-3 * s.accumulation)
    plan = choose.plan(asked, trials, given_, Costs(evaluation, evaluation, checkpoint))
    assert plan.micro_batch_size * plan.accumulation == math.ceil(batch / ranks)
    if batch % ranks == 0:
        assert plan.micro_batch_size * plan.accumulation * plan.world_size == batch
    assert 1e5 * plan.micro_batch_size * ranks <= 0.8 * room
    assert plan.steps >= 1 and 1 <= plan.evaluate_every <= plan.steps and 1 <= plan.checkpoint_every <= plan.steps
    assert 0 <= plan.warmup_steps < max(2, plan.steps)
    assert plan.threads >= 1 and plan == Plan.from_json(plan.to_json())
    again = choose.plan(asked, list(reversed(trials)), given_, Costs(evaluation, evaluation, checkpoint))
    assert again.steps == plan.steps and again.micro_batch_size == plan.micro_batch_size


def test_activations_are_computed_again_only_where_nothing_fits_otherwise() -> None:
    needs = {"memory_of": lambda micro: 4e9 * micro, "recomputing_memory_of": lambda micro: 1e9 * micro}
    roomy, tight, hopeless = (limits(memory_available=room, **needs) for room in (10e9, 3e9, 1e9))
    asked = section(global_batch_size=8)
    plan = choose.plan(asked, [], roomy)
    assert not plan.recompute and plan.micro_batch_size == 2
    assert "a micro-batch of 2 needs 8 GB of 8 GB a rank without it" in reason_of(plan, "train.recompute")
    plan = choose.plan(asked, [], tight)
    assert plan.recompute and plan.micro_batch_size == 2 and choose.setting(plan).recompute
    assert "needs 4 GB of 2.4 GB a rank without it, 1 GB with it; --set" in reason_of(plan, "train.recompute")
    with pytest.raises(DoesNotFit):
        choose.plan(asked, [], hopeless)
    assert choose.plan(
        section(global_batch_size=8, micro_batch_size=4), [], limits(memory_available=12e9, **needs)
    ).recompute
    fixed = choose.plan(section(recompute=True), [], limits())
    assert fixed.recompute and "set by the job" in reason_of(fixed, "train.recompute")


def test_what_the_job_sets_of_attention_and_feed_is_in_plan_and_trials() -> None:
    asked = section(attention="fused", prefetch=2, feed_threads=3)
    trials = measure(asked, limits(), machine(4))
    assert {(t.setting.attention, t.setting.prefetch, t.setting.feed_threads) for t in trials} == {("fused", 2, 3)}
    plan = choose.plan(asked, trials, limits())
    assert (plan.attention, plan.prefetch, plan.feed_threads) == ("fused", 2, 3)
    old = {
        key: value
        for key, value in plan.to_json().items()
        if key not in ("attention", "recompute", "prefetch", "feed_threads")
    }
    assert Plan.from_json(old) == replace(plan, attention="auto", prefetch=4, feed_threads=1)


def test_what_ran_out_of_memory_is_not_tried_again() -> None:
    asked = section(global_batch_size=32)
    given_ = limits(memory_of=lambda size: 1e9 + 1e8 * size)
    first = choose.next_setting(asked, [], given_)
    assert first is not None and first.micro_batch_size > 1
    less = choose.below(asked, given_, first.micro_batch_size)
    then = choose.next_setting(asked, [], less)
    assert then is not None and then.micro_batch_size < first.micro_batch_size
    assert choose.plan(asked, [], less).micro_batch_size < first.micro_batch_size
    with pytest.raises(DoesNotFit, match="a micro-batch of 1 needs"):
        choose.next_setting(asked, [], choose.below(asked, given_, 1))


def test_the_path_of_attention_is_chosen_by_precision_told_and_kept() -> None:
    asked = limits(attends=lambda precision: "plain" if precision == "bf16" else "fused")
    for precision, path, other in (("bf16", "plain", "fused"), ("fp32", "fused", "plain")):
        plan = choose.plan(section(precision=precision), [], asked)
        told = next(choice for choice in plan.choices if choice.key == "train.attention")
        assert (plan.attention, told.value, told.instead) == (path, path, other)
        assert choose.chosen(section(precision=precision), [], asked).attention == path
    assert not [c for c in choose.plan(section(), [], limits()).choices if c.key == "train.attention"]
