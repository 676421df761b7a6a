"""Operations under roofs that are easy to work out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fullbore.perf.plan import roofline
from fullbore.perf.plan.facts import Facts
from fullbore.record.ledger import Ledger
from fullbore.spec.curves import Curve, Curves
from fullbore.spec.work import Amount, Launch, Launches, Operation
from tests.perf.test_whatif import CEILINGS, PLAN, WORK

MAPPED = replace(WORK, operations=(*WORK.operations, Operation("norm", "elementwise", (64, 512), 0.0, 64 * 512 * 5.0)))
FACTS = Facts(
    Ledger({"forward": 4.0, "backward": 8.0, "optimizer": 2.0}), 2, plan=PLAN, ceilings=CEILINGS, work=MAPPED,
    samples=3200.0, steps=100,
)  # fmt: skip


def test_points_hold_the_flops_bytes_and_seconds_of_the_run() -> None:
    found = roofline.of_run(FACTS)
    assert found is not None and found["used"] == "bf16" and found["peaks"]["bf16"] == 1e12
    points = {point["name"]: point for point in found["points"]}
    assert set(points) == {"products", "elementwise", "optimizer"}
    products, update = points["products"], points["optimizer"]
    assert products["flops"] == pytest.approx(MAPPED.training_flops * 3200)
    assert products["bytes"] == pytest.approx(3 * 400 * 2 * (8 * 64 * 1024 + 512 * 512))
    assert products["seconds"] + points["elementwise"]["seconds"] == pytest.approx(12.0)
    assert update["seconds"] == 2.0 and update["measured"] and not products["measured"]
    assert sum(point["share"] for point in points.values()) == pytest.approx(1.0)
    assert products["roof"] == pytest.approx(min(1e12, 2e10 * products["intensity"]))
    assert update["roof"] == pytest.approx(2e10 * 12 / 28)


def test_what_is_not_known_is_not_drawn() -> None:
    assert roofline.of_run(replace(FACTS, work=None)) is None
    assert roofline.of_run(replace(FACTS, samples=0.0)) is None
    assert roofline.of_run(replace(FACTS, ledger=Ledger({"start": 1.0}))) is None


def test_where_kernels_were_measured_they_divide_the_time() -> None:
    def launch(name: str, backward: bool, count: int) -> Launch:
        return Launch(name, "bf16", backward, (), Amount(0.0, 1.0), count)

    kernels = {f"{name}/bf16/1": Curve(((1.0, 2.0),), (1e-3, 1e-3)) for name in ("product.NT", "map")}
    launches = Launches((launch("product.NT", False, 1), launch("product.NT", True, 2), launch("add", False, 9)))
    traced = replace(MAPPED, launches={"bf16": launches})
    measured = replace(CEILINGS, curves=Curves("now", kernels))
    found = roofline.of_run(replace(FACTS, work=traced, ceilings=measured))
    assert found is not None
    seconds = {point["name"]: point["seconds"] for point in found["points"]}
    assert seconds["products"] == pytest.approx(12.0 * 3 / 12) and seconds["elementwise"] == pytest.approx(
        12.0 * 9 / 12
    )
