"""What a job leaves open, and that nothing else is tried."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fullbore.perf.plan import choose
from fullbore.perf.plan.choose import Limits
from fullbore.perf.plan.space import KEYS, Model, Space, label, space
from fullbore.spec.train import TrainSection

ALL = frozenset(KEYS.values())
DECODER = Model(attention=("fused", "plain"), has_blocks=True)


def section(**settings: object) -> TrainSection:
    return TrainSection.model_validate({"budget": "60s", "global_batch_size": 12, **settings})


def made(asked: TrainSection, model: Model = DECODER, opened: frozenset[str] = ALL, **changes: object) -> Space:
    limits = Limits(
        rows=1000, units_per_row=128, units="tokens", cores=2, memory_available=8e9,
        expected={"fp32": 2.0, "bf16": 1.0},
        attends=lambda precision: "plain" if precision == "bf16" else "fused",
    )  # fmt: skip
    return space(asked, replace(limits, **changes), model, opened)  # type: ignore[arg-type]


def test_all_combinations_of_what_is_open_make_the_same_step() -> None:
    asked = section()
    found = made(asked)
    assert len(found.settings) == len(set(found.settings)) == 2 * 2 * 2 * 2 * 2 * 6
    assert all(setting.micro_batch_size * setting.accumulation == 12 for setting in found.settings)
    assert {setting.attention for setting in found.settings} == {"fused", "plain"}
    assert {(setting.prefetch, setting.feed_threads) for setting in found.settings} == {(4, 1)}
    assert found.resolved(choose.setting(choose.plan(asked, [], found.limits))) in found.settings


@pytest.mark.parametrize(
    ("key", "value"),
    [("precision", "fp32"), ("threads", 1), ("micro_batch_size", 3), ("attention", "fused"), ("recompute", True)],
)
def test_what_the_job_sets_is_never_touched_unless_asked(key: str, value: object) -> None:
    asked = section(**{key: value})
    kept = made(asked, opened=ALL - {KEYS[key]})
    assert {getattr(setting, key) for setting in kept.settings} == {value} and key not in kept.values
    opened = made(section(), opened=frozenset({KEYS[key]}))
    assert list(opened.values) == [key] and len({getattr(s, key) for s in opened.settings}) > 1


def test_networks_have_only_the_knobs_that_mean_something_to_them() -> None:
    plain = made(section(), Model())
    assert set(plain.values) == {"precision", "threads", "micro_batch_size", "compile", "prefetch", "feed_threads"}
    lonely = made(section(), Model(), cores=1)
    assert "threads" not in lonely.values and "feed_threads" not in lonely.values
    assert "precision" not in made(section(), Model(), expected={"fp32": 1.0}).values


def test_what_does_not_fit_is_no_setting() -> None:
    found = made(section(), memory_of=lambda m: 1e9 * m, recomputing_memory_of=lambda m: 4e8 * m, memory_available=5e9)
    assert max(s.micro_batch_size for s in found.settings if not s.recompute) == 4
    assert max(s.micro_batch_size for s in found.settings if s.recompute) == 6
    assert found.memory_of(found.settings[0]) <= choose.room(section(), found.limits)


def test_threads_are_tried_by_halves_and_one_less_than_all() -> None:
    assert made(section(), cores=3).values["threads"] == (1, 2, 3)
    assert made(section(), cores=48).values["threads"] == (1, 3, 6, 12, 24, 47, 48)


def test_other_feeds_leave_the_step_as_it_is() -> None:
    found = made(section())
    fed = found.fed(found.settings[-1], busy=True)
    assert {(s.prefetch, s.feed_threads) for s in fed} == {(4, 1), (4, 2), (16, 1), (16, 2)}
    assert all(s.threads == 1 for s in fed if (s.prefetch, s.feed_threads) == (4, 1)), "a core for the feed"
    idle = found.fed(found.settings[-1], busy=False)
    assert idle == [replace(found.settings[-1], prefetch=0)] and found.fed(idle[0], busy=False) == []
    assert len({replace(s, prefetch=4, feed_threads=1, threads=2) for s in fed}) == 1


def test_a_setting_is_told_in_a_line() -> None:
    setting = choose.Setting("bf16", 2, 4, 3, True, "plain", True, 16, 2)
    told = "bf16, 2 threads, 3 x 4, plain attention, recomputed, compiled, 16 ahead, 2 feed threads"
    assert label(setting) == told
    assert label(choose.Setting("fp32", 1, 12, 1)) == "fp32, 1 thread, 1 x 12"
