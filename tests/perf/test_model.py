from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullbore.base.errors import DoesNotFit
from fullbore.perf.measure import history
from fullbore.perf.model import compute, feed, memory
from fullbore.perf.model.calibration import UNKNOWN, Calibration, Past, calibrate
from fullbore.spec.train import TrainSection
from tests.perf.test_verdict import CEILINGS, PLAN, WORK


def past(predicted: float, measured: float, **changes: str) -> Past:
    keys = {"fingerprint": "host", "quantity": "step_seconds", "kind": "decoder", "precision": "bf16", **changes}
    return Past(predicted=predicted, measured=measured, **keys)  # type: ignore[arg-type]


def known(history: list[Past]) -> Calibration:
    return calibrate(history, "host", "step_seconds", "decoder", "bf16", predicted=1.0)


def test_a_step_is_the_sum_of_its_parts_and_never_faster_than_the_ceilings() -> None:
    found = compute.predict(WORK, CEILINGS, PLAN)
    parts = [item.value for key, item in found.items() if key.startswith("state.")]
    assert found["step_seconds"].value == pytest.approx(sum(parts))
    assert found["step_seconds"].value >= WORK.training_flops * 32 / 1e12
    assert found["state.backward"].value == pytest.approx(2 * found["state.forward"].value)
    assert found["rate"].value == pytest.approx(32 * 256 / found["step_seconds"].value)
    assert found["rate"].unit == "tokens/s" and 0 < found["mfu"].value <= 1
    assert all(item.error is None for item in found.values()), "nothing is known of the error yet"


def test_what_makes_a_step_slower_is_predicted_slower() -> None:
    step = lambda plan, work=WORK, **more: compute.predict(work, CEILINGS, plan, **more)["step_seconds"].value  # noqa: E731
    assert step(replace(PLAN, precision="fp32")) > 2 * step(PLAN)
    assert step(replace(PLAN, threads=1)) > step(PLAN)
    halves = replace(PLAN, micro_batch_size=16, accumulation=2)
    assert step(halves) >= step(PLAN)
    tiny = replace(WORK, operations=tuple(replace(o, flops=1.0, elements=1.0, shape=(1, 1)) for o in WORK.operations))
    assert step(PLAN, tiny) >= 3 * 5 * 8e-6, "operations cost something to start"
    ranks = replace(PLAN, world_size=2, threads=1, micro_batch_size=16)
    assert step(ranks) == pytest.approx(step(PLAN), rel=0.5)


def test_calibration_corrects_and_tells_its_error() -> None:
    assert known([]) == UNKNOWN
    one = known([past(1, 1.5)])
    assert (one.ratio, one.error, one.count) == (1.5, None, 1)
    runs = [past(1, 1.5), past(2, 3.2), past(3.9, 5.5), past(1, 9, kind="mlp"), past(1, 9, fingerprint="other")]
    found = known([*runs, past(0.2, 9), past(5, 99)])
    assert found.ratio == pytest.approx(1.5) and found.count == 3
    assert found.error == pytest.approx(abs(1.45 / 1.6 - 1), rel=0.2)
    assert known([*runs, *(past(1, 2) for _ in range(9))]).ratio == 2, "the latest nine"
    predicted = compute.predict(WORK, CEILINGS, PLAN, lambda _: found)["step_seconds"]
    plain = compute.predict(WORK, CEILINGS, PLAN)["step_seconds"]
    assert predicted.value == pytest.approx(1.5 * plain.value) and predicted.error == found.error


@given(st.lists(st.tuples(st.floats(0.3, 3.9), st.floats(0.5, 2)), min_size=2, max_size=20))
def test_calibrated_errors_are_small_when_ratios_agree(pairs: list[tuple[float, float]]) -> None:
    steady = [past(value, value * 1.7) for value, _ in pairs]
    found = known(steady)
    assert found.ratio == pytest.approx(1.7) and found.error == pytest.approx(0, abs=1e-9)
    noisy = known([past(v, v * r) for v, r in pairs])
    assert noisy.error is not None and 0 <= noisy.error <= 3


def test_history_is_kept_whole_by_runs_that_end_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert history.load() == ()
    context = get_context("fork")
    workers = [context.Process(target=history.remember, args=([past(1, n + 1)],)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert sorted(entry.measured for entry in history.load()) == [1, 2, 3, 4]
    history.path().write_text("{torn")
    assert history.load() == ()
    history.remember([past(1, 2)])
    assert len(history.load()) == 1


def test_memory_by_parts() -> None:
    section = TrainSection.model_validate({"budget": "1s", "precision": "fp32"})
    parts = memory.predict(WORK, section, 8)
    assert parts["weights"] == parts["gradients"] == 4e7 and parts["optimizer"] == 8e7
    assert parts["communication"] == 0 and parts["activations"] >= 4e6 * 8
    assert memory.predict(WORK, section, 16)["activations"] == pytest.approx(2 * parts["activations"])
    plain = section.model_copy(update={"optimizer": "sgd", "momentum": 0.0, "world_size": 2})
    assert memory.predict(WORK, plain, 8)["optimizer"] == 0 and memory.predict(WORK, plain, 8)["communication"] == 4e7
    memory.require(parts, 1e12)
    with pytest.raises(DoesNotFit, match=r"the job needs about .* of memory \(activations .*, runtime 302 MB"):
        memory.require(parts, 1e8)


def test_preparation_scales_with_its_bytes_and_cores() -> None:
    given_ = feed.Input(bytes=3e7, text_bytes=3e7, learnt_bytes=3e7)
    two, one = feed.predict(given_, CEILINGS, 2), feed.predict(given_, CEILINGS, 1)
    assert two["pack"].value < one["pack"].value and two["total"].value > two["tokenise"].value
    double = feed.predict(feed.Input(6e7, 6e7, 6e7), CEILINGS, 2)
    assert double["total"].value == pytest.approx(2 * two["total"].value)
    corrected = feed.predict(given_, CEILINGS, 2, lambda stage, seconds: known([past(1, 2), past(1, 2)]))
    assert corrected["total"].value == pytest.approx(2 * two["total"].value) and corrected["total"].error == 0


def test_models_and_plans_import_no_torch() -> None:
    modules = ["model.compute", "model.memory", "model.feed", "plan.choose", "plan.verdict"]
    code = "import sys\n" + "\n".join(f"import fullbore.perf.{module}" for module in modules)
    done = subprocess.run(
        [sys.executable, "-c", code + "\nassert not {'torch', 'numpy'} & set(sys.modules), 'heavy'"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
