"""What is predicted before a job runs, and what past runs add to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fullbore.flow import forecast
from fullbore.models import work as works
from fullbore.models.build import Sizes
from fullbore.perf.measure import history
from fullbore.perf.plan import choose
from fullbore.record.artifact import Artifact
from fullbore.spec.hardware import Ceilings
from fullbore.spec.job import Job
from fullbore.spec.plan import Choice, Prediction

RATES = {"fp32": {1: 1e11, 2: 2e11}, "bf16": {1: 5e11, 2: 1e12}}
CEILINGS = Ceilings("host", "now", RATES, 3e10, 1e9, 2e9, convolution_flops=RATES)
CORPUS = Artifact(
    Path("corpus"), "corpus", "digest", {}, (), {"source_format": "csv", "source_bytes": 1_000_000, "text_bytes": {}}
)
READ_SECONDS = 1e6 / 2e9
LIMITS = choose.Limits(rows=10_000, units_per_row=1, units="samples", cores=2, memory_available=8e9)


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


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
    measured = forecast.Finished(training, {"read": 3 * READ_SECONDS}, 12.0)
    choices = tuple(
        replace(choice, chosen="measured") if choice.key == "train.precision" else choice
        for choice in found.plan.choices
    )
    trial_seconds = 1.6 * found.predicted["step_seconds"].value
    frozen = forecast.Frozen(replace(found.plan, choices=choices), CEILINGS, work, trial_seconds)
    forecast.remember(job, CORPUS, frozen, measured)
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


def test_what_a_run_took_is_predicted_of_the_next() -> None:
    job, plain = predicted([64])
    preparing = forecast.preparation(job, CORPUS, CEILINGS)
    assert preparing["read"].value == pytest.approx(3 * READ_SECONDS) and preparing["read"].error is None, "one run"
    assert forecast.besides(job, CEILINGS).value == pytest.approx(12.0)
    trial_seconds = 1.6 * plain.predicted["step_seconds"].value
    setting = choose.Setting("fp32", 2, 256, 1)
    assert forecast.of_trials(job, CEILINGS, setting, trial_seconds).ratio == pytest.approx(2 / 1.6)
    assert forecast.of_trials(job, CEILINGS, setting, 10 * trial_seconds).count == 0, "of another size"
    compiled = replace(setting, compile=True)
    assert forecast.of_trials(job, CEILINGS, compiled, trial_seconds).count == 0, "of another kind"
    predicted([64])
    assert forecast.preparation(job, CORPUS, CEILINGS)["read"].error == pytest.approx(0.0)
    whole = forecast.total([Prediction(30.0, "s", 0.1), forecast.besides(job, CEILINGS)])
    assert whole.value == pytest.approx(42.0) and whole.error == pytest.approx(3.0 / 42.0), (
        "errors weigh as much as the parts they belong to"
    )


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
