"""Curves, what is predicted from them, and devices that are known by what was published."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullbore.base.errors import DoesNotFit, UsageError
from fullbore.models.build import Sizes
from fullbore.models.work import work
from fullbore.perf.model import compute, kernels, memory, published
from fullbore.perf.model.kernels import Device
from fullbore.spec.curves import Curve, Curves
from fullbore.spec.hardware import Ceilings
from fullbore.spec.model import DecoderModel, ResNetModel, TaskSection
from fullbore.spec.plan import Plan
from fullbore.spec.train import TrainSection
from fullbore.spec.work import Amount, Launch, Launches, Work
from tests.perf.test_verdict import CEILINGS, PLAN

SQUARE = Curve(((10.0, 100.0), (10.0, 1000.0)), (1.0, 100.0, 10.0, 1000.0))
"""Seconds that are the product of both sizes over a hundred."""
WIDE = DecoderModel(kind="decoder", width=1024, layers=2, heads=16)
TEXT = TaskSection(kind="causal_lm")


@pytest.fixture(scope="module")
def decoder() -> Work:
    return work(WIDE, TEXT, Sizes(vocabulary_size=8192, sequence_length=1024), launched=True)


@given(st.floats(10, 1e4), st.floats(10, 1e6))
def test_a_power_law_is_read_exactly_and_goes_on_beyond_the_largest(one: float, two: float) -> None:
    assert SQUARE.at((one, two)) == pytest.approx(one * two / 100)


@given(st.floats(0.1, 10), st.floats(0.1, 10))
def test_nothing_is_faster_than_the_smallest_that_was_measured(one: float, two: float) -> None:
    assert SQUARE.at((one, two)) == pytest.approx(1.0)


def launch(name: str, *sizes: Amount, moved: Amount = Amount(0, 0), backward: bool = False, count: int = 1) -> Launch:
    return Launch(name, "fp32", backward, sizes, moved, count)


LINE = Curve(((1.0, 1e9),), (1e-6, 1e3))
"""A microsecond a byte."""


def test_seconds_are_those_of_each_launch_and_of_launching_it() -> None:
    curves = Curves("here", {"map/fp32/1": LINE}, {"forward/fp32/1": 0.5, "backward/fp32/1": 2.0}, {"fp32/1": 2.0})
    body = (
        launch("add", moved=Amount(100, 50), count=3),
        launch("view"),
        launch("mul", moved=Amount(7, 0), backward=True),
    )
    found = kernels.seconds(Launches(body), Device(curves, "fp32"), 2)
    assert found.forward == pytest.approx(3 * (0.5 + 2 * 200e-6) + 0.5)
    assert found.backward == pytest.approx(2.0 + 2 * 7e-6)


def test_a_head_is_counted_by_chunks_and_what_is_left() -> None:
    rows = launch("add", moved=Amount(0, 4))
    given_ = Launches((), head=(rows,), chunk=(rows,), chunk_rows=100, rows=50.0)
    device = Device(Curves("here", {"map/fp32/1": LINE}), "fp32")
    assert kernels.seconds(given_, device, 5).forward == pytest.approx((250 + 100 + 100 + 50) * 4e-6)
    assert kernels.seconds(given_, device, 1).forward == pytest.approx((50 + 50) * 4e-6)


def test_ranks_share_what_a_kernel_cannot_have_twice() -> None:
    bound = Curves("here", {"map/fp32/1": LINE, "map/fp32/2": LINE})
    free = Curves("here", {"map/fp32/1": LINE, "map/fp32/2": replace(LINE, seconds=(5e-7, 5e2))})
    one = lambda curves, ranks: Device(curves, "fp32", 1, ranks).kernel("add", "fp32", (), 1e6)  # noqa: E731
    assert one(bound, 1) == one(free, 1) == pytest.approx(1.0)
    assert one(bound, 2) == pytest.approx(2.0) and one(free, 2) == pytest.approx(1.0)


def test_with_curves_a_step_is_predicted_from_launches_and_without_by_the_roofline(decoder: Work) -> None:
    known = published.ceilings("a100")
    assert compute.predict(decoder, known, PLAN) != compute.predict(decoder, replace(known, curves=None), PLAN)
    assert compute.predict(replace(decoder, launches={}), known, PLAN) == compute.predict(
        decoder, replace(known, curves=None), PLAN
    )
    step = lambda plan, **more: compute.predict(decoder, known, plan, **more)["step_seconds"].value  # noqa: E731
    assert step(replace(PLAN, micro_batch_size=16, accumulation=2)) > step(PLAN) * 0.99
    assert step(replace(PLAN, recompute=True)) > 1.1 * step(PLAN)
    assert step(PLAN, optimizer="muon") > step(PLAN, optimizer="adamw")
    parts = compute.predict(decoder, known, PLAN)
    assert parts["step_seconds"].value == pytest.approx(
        sum(item.value for key, item in parts.items() if key.startswith("state."))
    )


@pytest.mark.parametrize("name", list(published.devices()))
def test_published_devices_are_bounded_by_their_peak(name: str, decoder: Work) -> None:
    known = published.ceilings(name)
    peak = float(published.devices()[name]["peak_tflops"]) * 1e12
    plan = replace(PLAN, threads=1)
    taken = []
    for samples in (1, 4, 16, 64):
        found = compute.predict(decoder, known, replace(plan, micro_batch_size=samples, global_batch_size=samples))
        seconds = found["step_seconds"].value
        assert decoder.training_flops * samples / seconds < peak
        taken.append(seconds)
    assert taken == sorted(taken)
    assert decoder.training_flops * 64 / taken[-1] / peak > 0.08, "eager kernels on elements keep it from more"
    assert published.devices()[name]["device"] in (known.curves or Curves("", {})).source
    assert Ceilings.from_json(json.loads(json.dumps(known.to_json()))) == known


def test_the_caveats_of_the_tables_are_kept() -> None:
    hopper, ampere = published.ceilings("h100"), published.ceilings("a100")
    assert hopper.curves is not None and ampere.curves is not None
    assert "sm_90" in hopper.curves.source and "no rates by shape" in ampere.curves.source
    small, large = (2 * s**3 / hopper.curves.kernels["product.NT/bf16/1"].at((s,) * 3) for s in (256.0, 4096.0))
    assert small == pytest.approx(6.72e12, rel=0.01) and large == pytest.approx(780.2e12, rel=0.01)
    fp32 = hopper.curves.kernels["product.NT/fp32/1"]
    assert 2 * 4096**3 / fp32.at((4096.0,) * 3) <= 67e12, "TF32 is not taken for fp32"
    speeds = [compute_seconds(name) for name in ("a100", "h100", "b200")]
    assert speeds == sorted(speeds, reverse=True)
    with pytest.raises(UsageError, match="device: found 'v100', expected one of a100, "):
        published.ceilings("v100")


def compute_seconds(name: str) -> float:
    found = work(WIDE, TEXT, Sizes(vocabulary_size=512, sequence_length=512), launched=True)
    return compute.predict(found, published.ceilings(name), replace(PLAN, threads=1))["step_seconds"].value


def test_memory_is_what_lives_at_once_and_enough_is_more_than_that(decoder: Work) -> None:
    section = TrainSection.model_validate({"budget": "1s", "precision": "bf16"})
    few, many = (memory.predict(decoder, section, samples) for samples in (1, 8))
    assert many["activations"] > 4 * few["activations"] and many["weights"] == few["weights"]
    again = memory.predict(decoder, section, 8, recompute=True)
    assert again["activations"] < 0.7 * many["activations"]
    total = sum(few.values())
    memory.require(few, 1.3 * total)
    with pytest.raises(DoesNotFit):
        memory.require(few, 1.2 * total)
    images = work(
        ResNetModel(kind="resnet"),
        TaskSection(kind="classification"),
        Sizes(classes=3, image=(3, 32, 32)),
        launched=True,
    )
    assert sum(memory.predict(images, section, 64).values()) > sum(memory.predict(images, section, 8).values())


def test_launches_survive_json(decoder: Work) -> None:
    assert Work.from_json(json.loads(json.dumps(decoder.to_json()))) == decoder
    assert CEILINGS.curves is None
    plan: Plan = PLAN
    assert compute.predict(decoder, CEILINGS, plan)["step_seconds"].value > 0
