"""What is predicted before a job runs, and what past runs add to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fullbore.flow import forecast, lines
from fullbore.flow.lines import Subject
from fullbore.models import work as works
from fullbore.models.build import Sizes
from fullbore.perf.measure import history
from fullbore.perf.model import feed
from fullbore.perf.plan import choose
from fullbore.perf.plan.course import STEPS, Amounts
from fullbore.perf.plan.facts import Facts, Usage
from fullbore.record.ledger import Ledger
from fullbore.spec.hardware import Ceilings
from fullbore.spec.job import Job
from fullbore.spec.plan import Choice, Plan, Prediction
from fullbore.spec.work import Work

RATES = {"fp32": {1: 1e11, 2: 2e11}, "bf16": {1: 5e11, 2: 1e12}}
CEILINGS = Ceilings("host", "now", RATES, 3e10, 1e9, 2e9, convolution_flops=RATES)
AMOUNTS = Amounts(feed.Input(bytes=1e6), {"train": 10_000, "validation": 100, "test": 0}, 1)
READ_SECONDS = 1e6 / 2e9
LIMITS = choose.Limits(rows=10_000, units_per_row=1, units="samples", cores=2, memory_available=8e9)


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


MEASURED = {
    "start": 3.0,
    "read": 3 * READ_SECONDS,
    "forward": 10.0,
    "backward": 20.0,
    "optimizer": 1.0,
    "compress": 9.0,
}


def predicted(hidden: list[int], judged: int = 100, **train: object) -> tuple[Job, forecast.Forecast]:
    value = {
        "name": "table",
        "data": {"source": "table.csv"},
        "task": {"kind": "classification"},
        "model": {"kind": "mlp", "hidden": hidden},
        "train": {"budget": "60s", "global_batch_size": 256, **train},
    }
    job = Job.model_validate(value)
    assert job.train and job.model and job.task
    work = works.work(job.model, job.task, Sizes(features=64, classes=4))
    limits = forecast.informed(job, job.train, work, LIMITS, CEILINGS)
    found = forecast.forecast(job, job.train, work, limits, CEILINGS, judged)
    training = {
        "step_seconds": 2 * found.predicted["step_seconds"].value,
        "memory_bytes": 2 * found.predicted["memory_bytes"].value,
    }
    measured = forecast.Finished(training, MEASURED)
    choices = tuple(
        replace(choice, chosen="measured") if choice.key == "train.precision" else choice
        for choice in found.plan.choices
    )
    trial_seconds = 1.6 * found.predicted["step_seconds"].value
    frozen = forecast.Frozen(replace(found.plan, choices=choices), CEILINGS, work, trial_seconds)
    forecast.remember(Subject(job, CEILINGS, AMOUNTS, "csv", frozen.plan, work), frozen, measured)
    return job, found


def reason(found: forecast.Forecast) -> Choice:
    return next(choice for choice in found.plan.choices if choice.key == "train.precision")


def test_small_products_do_not_profit_from_bf16_and_large_ones_do() -> None:
    _, small = predicted([32, 32])
    _, large = predicted([2048, 2048])
    assert small.plan.precision == "fp32" and large.plan.precision == "bf16"
    assert reason(small).chosen == "estimated" and "predicted" in reason(small).reason


def test_what_a_run_of_such_a_model_measured_is_chosen_again() -> None:
    _, first = predicted([2048, 2048])
    entry = next(past for past in history.load() if past.quantity == "precision")
    assert entry.precision == "bf16" == first.plan.precision
    slow = [replace(entry, precision="fp32", predicted=5 * entry.predicted)]
    history.remember(slow)
    _, again = predicted([2048, 2048])
    assert again.plan.precision == "fp32" and "the last run of such a model" in reason(again).reason
    _, other = predicted([32, 32])
    assert "predicted" in reason(other).reason, "nothing is remembered of its size"


def test_memory_is_one_figure() -> None:
    for ratio in (1, 2):
        _, found = predicted([2048, 2048])
        assert sum(found.memory.values()) == pytest.approx(found.predicted["memory_bytes"].value)
        assert found.memory["weights"] == pytest.approx(ratio * 6.0 * (65 + 2049) * 2048 + ratio * 6 * 2049 * 4)


def test_judging_that_eats_a_time_budget_is_said_before() -> None:
    _, found = predicted([64], judged=100_000_000)
    assert found.warning is not None and "judging all held-out samples at the end" in found.warning
    budget = next(choice for choice in found.plan.choices if choice.key == "train.budget")
    assert budget.chosen == "estimated" and "less 12 s" in budget.reason
    assert predicted([64])[1].warning is None


def subject(job: Job, plan: Plan | None = None, work: Work | None = None) -> Subject:
    return Subject(job, CEILINGS, AMOUNTS, "csv", plan, work)


def test_what_a_run_took_is_predicted_of_the_next() -> None:
    job, plain = predicted([64])
    assert job.model and job.task
    work = works.work(job.model, job.task, Sizes(features=64, classes=4))
    found = lines.predict(subject(job, plain.plan, work))
    assert found["read"].value == pytest.approx(3 * READ_SECONDS) and found["read"].error is None, "one run"
    assert found["start"].value == pytest.approx(3.0) and found["forward"].value == pytest.approx(10.0)
    trial_seconds = 1.6 * plain.predicted["step_seconds"].value
    setting = choose.Setting("fp32", 2, 256, 1)
    assert forecast.of_trials(job, CEILINGS, setting, trial_seconds).ratio == pytest.approx(2 / 1.6)
    assert forecast.of_trials(job, CEILINGS, setting, 10 * trial_seconds).count == 0, "of another size"
    compiled = replace(setting, compile=True)
    assert forecast.of_trials(job, CEILINGS, compiled, trial_seconds).count == 0, "of another kind"
    predicted([64])
    assert lines.predict(subject(job, plain.plan, work))["read"].error == pytest.approx(0.0)
    kept = replace(subject(job), amounts=replace(AMOUNTS, kept=frozenset({"read"})))
    assert lines.predict(kept)["read"].value < 0.1 and lines.predict(kept)["read"].error is None


def test_lines_add_up_to_the_run_and_those_of_a_step_to_the_step() -> None:
    job, found = predicted([64])
    assert job.model and job.task
    work = works.work(job.model, job.task, Sizes(features=64, classes=4))
    step = Prediction(0.5, "s", 0.1)
    ledger = lines.predict(subject(job, found.plan, work), step)
    assert sum(ledger[state].value for state in STEPS if state in ledger) == pytest.approx(0.5 * found.plan.steps)
    assert ledger["forward"].error == 0.1
    kept = lines.keyed(ledger)
    assert kept["total_seconds"].value == pytest.approx(
        sum(line.value for key, line in kept.items() if key.startswith("line."))
    )


def test_a_total_has_an_error_if_nearly_all_of_it_has() -> None:
    parts = {"forward": Prediction(96.0, "s", 0.1), "start": Prediction(4.0, "s")}
    assert lines.total(parts).value == 100.0 and lines.total(parts).error == pytest.approx(0.1)
    assert lines.total({**parts, "compress": Prediction(10.0, "s")}).error is None


def test_measured_lines_stand_beside_predicted_ones_and_unforeseen_ones_too() -> None:
    plan = {"line.forward": Prediction(10.0, "s", 0.1), "line.serve": Prediction(1.0, "s")}
    plan |= {"total_seconds": Prediction(11.0, "s"), "rate": Prediction(5.0, "samples/s")}
    said = lines.compared(plan, {"rate": 4.0}, Ledger({"forward": 12.0, "compile": 3.0}))
    assert said["line.forward"] == {"predicted": 10.0, "measured": 12.0, "unit": "s", "error": 0.1}
    assert (said["line.serve"]["measured"], said["line.compile"]["predicted"]) == (0.0, 0.0)
    assert said["total_seconds"]["measured"] == 15.0 and said["rate"]["measured"] == 4.0
    older = lines.compared({"rate": Prediction(5.0, "samples/s")}, {}, Ledger({"forward": 12.0}))
    assert list(older) == ["rate"], "a plan of an older program has no lines"


def test_of_two_jobs_the_one_that_never_ran_is_corrected_as_the_other() -> None:
    job, found = predicted([64])
    assert job.model and job.task
    work = works.work(job.model, job.task, Sizes(features=64, classes=4))
    one = subject(job, found.plan, work)
    other = replace(one, plan=replace(found.plan, precision="bf16"))
    past = history.load()
    now, then = lines.pair(one, other, past)
    raw_now, raw_then = one.raw(past), other.raw(past)
    assert then["forward"].value / now["forward"].value == pytest.approx(raw_then["forward"] / raw_now["forward"])
    assert now["start"] == then["start"], "of the stages alone"


def test_compiling_is_cold_once() -> None:
    job, found = predicted([64])
    assert job.model and job.task
    work = works.work(job.model, job.task, Sizes(features=64, classes=4))
    plan = replace(found.plan, compile=True)
    one = subject(job, plan, work)
    cold = lines.predict(one)["compile"].value
    assert cold == 40
    history.remember([*one.entries({"compile": 50.0}, history.load()), *lines.compiled_now((), work, plan, "host")])
    assert lines.predict(one)["compile"].value == 10, "what took long was the first time, and is no measure of this"
    other = replace(one, work=replace(work, parameters=1))
    assert lines.predict(other)["compile"].value == pytest.approx(50.0), "another graph is compiled anew"


def test_disturbed_runs_teach_nothing() -> None:
    training = {"step_seconds": 0.5, "memory_bytes": 1e9}
    calm, crowded = (
        Usage(10.0, cpu_self=1.9, cpu_waiting=0.0),
        Usage(10.0, cpu_self=1.0, cpu_others=1.0, cpu_waiting=1.0),
    )
    ledger = Ledger({"start": 1.0, "forward": 10.0, "backward": 10.0})
    quiet = Facts(ledger, 2, usage={"forward": calm, "backward": calm})
    assert forecast.finished(training, quiet, whole=True).seconds == ledger.seconds
    assert forecast.finished(training, quiet, whole=False).seconds == {}
    hit = forecast.finished(training, replace(quiet, usage={"forward": crowded, "backward": crowded}), whole=True)
    assert hit.seconds == {"start": 1.0} and hit.training["step_seconds"] is None


def test_what_compiling_brought_is_expected_of_it_again() -> None:
    job, found = predicted([64])
    assert job.model and job.task
    work = works.work(job.model, job.task, Sizes(features=64, classes=4))
    plan = replace(found.plan, predicted={key: found.predicted[key] for key in ("step_seconds", "train_seconds")})
    step = plan.predicted["step_seconds"].value
    assert forecast.compiling(job, work, CEILINGS, plan).seconds == 40
    setting = choose.Setting("fp32", 2, 256, 1, compile=True)
    forecast.remember_compiling(job, work, CEILINGS, plan, choose.Trial(setting, 0.7 * step, first_seconds=20))
    again = forecast.compiling(job, work, CEILINGS, plan)
    assert again.seconds == pytest.approx(20) and again.gain == pytest.approx(0.3)
    assert again.training_seconds == plan.predicted["train_seconds"].value
