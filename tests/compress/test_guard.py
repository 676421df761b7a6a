"""The guard decides on plain numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from fullbore.compress.guard import Judgement, Measured, Ratio, Row, Target, choose, drop, interval, judge

RANDOM = np.random.default_rng(0)
TRAINED = np.abs(RANDOM.normal(3, 1, 400))


def judgement(worse: float = 0.0, noise: float = 0.01) -> Judgement:
    scores = TRAINED * (1 + worse) + RANDOM.normal(0, noise, len(TRAINED))
    return Judgement("loss", float(scores.mean()), False, scores)


def measured(variant: str, worse: float = 0.0, speedup: float = 1.0, bytes: int = 100, note: str = "") -> Measured:
    noise = 0.0 if variant == "fp32" else 0.001
    gains = {
        target: Ratio(times, 0.99 * times, 1.1 * times)
        for target, times in (("throughput", speedup), ("latency", 1 / speedup))
    }
    return Measured(
        variant, judgement(worse, noise), 100 * speedup, (90 * speedup, 110 * speedup), 10.0 * speedup, 1, gains, bytes,
        note,
    )  # fmt: skip


ALL = ("fp32", "bf16", "int8", "odd")


def table(
    *others: Measured, max_drop: float = 0.01, target: Target = "throughput", wanted: tuple[str, ...] = ALL
) -> dict[str, Row]:
    rows = judge([measured("fp32"), *others], wanted=wanted, max_drop=max_drop, target=target, seed=0)
    chosen = choose(rows, target)
    return {row.variant: row for row in rows} | ({} if chosen is None else {"chosen": chosen})


def test_the_fastest_within_the_limit_is_chosen() -> None:
    rows = table(measured("bf16", 0.001, 2.0, 50), measured("int8", 0.005, 3.0, 30))
    assert rows["chosen"] is rows["int8"]
    assert rows["int8"].kept and rows["bf16"].kept
    assert rows["int8"].reason == "3.00x faster, 3.33x smaller, 0.50% worse"


def test_what_loses_too_much_is_rejected_with_its_reason() -> None:
    rows = table(measured("bf16", 0.001, 2.0), measured("int8", 0.05, 3.0))
    assert rows["chosen"] is rows["bf16"]
    assert not rows["int8"].kept
    assert rows["int8"].reason.startswith("loss is 5.0")
    assert rows["int8"].reason.endswith("at most 1.00% is allowed")


def test_what_is_smaller_but_not_faster_is_refused_unless_size_is_asked() -> None:
    slower = measured("int8", 0.0, 0.8, 30)
    rows = table(slower)
    assert rows["chosen"] is rows["fp32"]
    assert rows["int8"].reason == "not faster than fp32 here (0.80x; 0.79 to 0.88)"
    rows = table(slower, target="size")
    assert rows["chosen"] is rows["int8"]


def test_what_is_faster_within_the_noise_is_not_called_faster() -> None:
    rows = table(measured("bf16", 0.0, 1.005, 50))
    assert rows["chosen"] is rows["fp32"]
    assert rows["bf16"].reason == "not faster than fp32 here (1.00x; 0.99 to 1.11, within the noise)"
    assert rows["bf16"].spread == (90 * 1.005, 110 * 1.005)
    small = table(measured("bf16", 0.0, 0.8, 50), target="size")["bf16"]
    assert small.reason.startswith("1.25x slower, 2.00x smaller, ")


def test_latency_is_judged_by_latency() -> None:
    """Here what has the higher throughput has the worse latency."""
    rows = table(measured("bf16", 0.0, 2.0), measured("int8", 0.0, 0.5), target="latency")
    assert rows["bf16"].reason == "not faster than fp32 here (0.50x; 0.49 to 0.55)"
    assert rows["chosen"] is rows["int8"]


def test_fp32_always_qualifies() -> None:
    broken = Measured("odd", failure="it does not run")
    rows = table(measured("bf16", 0.5, 9.0), measured("int8", math.nan, 9.0), broken)
    assert rows["chosen"] is rows["fp32"]
    assert rows["fp32"].drop == 0
    assert rows["int8"].reason == "its loss is not a number"
    assert rows["odd"].reason == "it does not run"


def test_where_fp32_is_not_wanted_nothing_need_be_gained_over_it() -> None:
    slower = measured("bf16", 0.001, 0.8, 50)
    assert table(slower)["chosen"].variant == "fp32"
    rows = table(slower, wanted=("bf16",))
    assert rows["chosen"] is rows["bf16"]
    assert rows["bf16"].reason == "1.25x slower, 2.00x smaller, 0.10% worse"
    assert not rows["fp32"].kept and rows["fp32"].drop == 0
    assert rows["fp32"].reason == "the trained model, not among compress.variants"


def test_where_fp32_is_not_wanted_nothing_may_be_left() -> None:
    rows = table(measured("bf16", 0.02, 3.0), Measured("odd", failure="it does not run"), wanted=("bf16", "odd"))
    assert "chosen" not in rows and not any(row.kept for row in rows.values())


def test_higher_is_better_turns_the_sign() -> None:
    assert drop(0.9, 0.81, True) == pytest.approx(0.1)
    assert drop(0.9, 0.99, True) == pytest.approx(-0.1)
    assert drop(2.0, 2.2, False) == pytest.approx(0.1)
    assert drop(0.0, 0.0, True) == 0


def test_the_interval_holds_the_drop_and_is_the_same_each_time() -> None:
    base, worse = judgement(0.0, 0.0), judgement(0.02, 0.3)
    low, high = interval(base, worse, seed=1)
    assert low < drop(base.value, worse.value, False) < high
    assert (low, high) == interval(base, worse, seed=1)
    assert (low, high) != interval(base, worse, seed=2)
    few = Judgement("loss", 0, False, base.scores[:20]), Judgement("loss", 0, False, worse.scores[:20])
    wide = interval(*few, seed=1)
    assert wide[1] - wide[0] > high - low


def test_pairs_cancel_what_is_hard_for_all() -> None:
    base, worse = judgement(0.0, 0.0), judgement(0.01, 0.0)
    low, high = interval(base, worse, seed=0)
    assert (low, high) == (pytest.approx(0.01), pytest.approx(0.01))


@given(some.floats(-0.5, 0.5), some.floats(0.1, 5), some.floats(0, 0.2))
def test_nothing_kept_breaks_the_limits(worse: float, speedup: float, max_drop: float) -> None:
    rows = table(measured("int8", worse, speedup), max_drop=max_drop)
    row = rows["int8"]
    assert row.drop is not None
    assert row.kept == (row.drop <= max_drop and 0.99 * speedup > 1)
    assert rows["chosen"].kept
