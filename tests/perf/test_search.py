"""The search on machines that are functions: what it finds, in how many trials, and what it says is left."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

from fullbore.perf.plan import search
from fullbore.perf.plan.choose import Setting
from fullbore.perf.plan.search import Measured

SIZES = (1, 2, 4, 8, 16, 32)
SETTINGS = [
    Setting(precision, threads, micro, 32 // micro, compiled, attention, recompute)  # type: ignore[arg-type]
    for precision, threads, micro, compiled, attention, recompute in product(
        ("fp32", "bf16"), (1, 2), SIZES, (False, True), ("fused", "plain"), (False, True)
    )
]
Seconds = Callable[[Setting], float]


def plain(_: Setting, seconds: float) -> float:
    """A charge of nothing but the steps."""
    return seconds


def predicted(setting: Setting) -> float:
    """A cost model: it knows nothing of attention and what starting a micro-batch takes."""
    speed = (3.0 if setting.precision == "bf16" else 1.0) * setting.threads**0.9
    return (1.33 if setting.recompute else 1.0) * (0.85 if setting.compile else 1.0) / speed


def machine(seed: int) -> Seconds:
    """What is measured: the prediction, wrong by factors that go with the values of the knobs, pairs, and chance."""
    draw = random.Random(seed)
    of_value = {value: math.exp(draw.gauss(0, 0.2)) for value in ("fp32", "bf16", "fused", "plain", 1, 2, True)}
    of_pair = {pair: math.exp(draw.gauss(0, 0.05)) for pair in product(("fp32", "bf16"), ("fused", "plain"))}
    slope, whole = draw.uniform(0.0, 0.02), math.exp(draw.gauss(0, 0.5))

    def seconds(setting: Setting) -> float:
        factors = [of_value[setting.precision], of_value[setting.attention], of_value[setting.threads]]
        factors += [of_value[True] if setting.compile else 1.0, of_pair[setting.precision, setting.attention]]
        return whole * predicted(setting) * math.prod(factors) * (1 + slope * setting.accumulation)

    return seconds


def tuned(
    seconds: Seconds, *, noise: float = 0.01, charge: Callable[[Setting, float], float] = plain
) -> list[Measured]:
    """Trials until little is left to win."""
    draw = random.Random(1)
    trials = [Measured(SETTINGS[-1], seconds(SETTINGS[-1]), noise)]
    while True:
        tried = {trial.setting for trial in trials}
        untried = [setting for setting in SETTINGS if setting not in tried]
        belief = search.believe(untried, predicted, trials)
        best = min(charge(trial.setting, trial.seconds) for trial in trials)
        left = search.left(belief, charge, best)
        if left.bound < 0.02 or left.expected < 0.006:
            return trials
        chosen = search.next_setting(belief, charge, best, dict.fromkeys(untried, 1.0))
        assert chosen is not None
        trials.append(Measured(chosen, seconds(chosen) * math.exp(draw.gauss(0, noise)), noise))


def test_the_best_is_found_in_a_tenth_of_the_trials() -> None:
    regrets, counts = [], []
    for seed in range(30):
        seconds = machine(seed)
        trials = tuned(seconds)
        chosen = min(trials, key=lambda trial: trial.seconds).setting
        regrets.append(seconds(chosen) / min(map(seconds, SETTINGS)) - 1)
        counts.append(len(trials))
    assert float(np.mean(regrets)) < 0.015 and sorted(regrets)[26] <= 0.03
    assert float(np.mean(counts)) <= 0.1 * len(SETTINGS)


def test_one_trial_tells_of_all_that_share_its_values() -> None:
    before = search.believe(SETTINGS, predicted, [])
    narrow = [setting for setting in SETTINGS if setting.precision == "bf16"]
    trial = Measured(narrow[0], 2 * predicted(narrow[0]))
    after = search.believe(SETTINGS, predicted, [trial])
    for setting in SETTINGS:
        (was, unsure), (seconds, surer) = before.seconds(setting), after.seconds(setting)
        assert surer < unsure and seconds > 1.5 * was
    assert after.seconds(narrow[1])[1] < after.seconds(next(s for s in SETTINGS if s.precision == "fp32"))[1]
    told, deviation = after.seconds(trial.setting)
    assert told == pytest.approx(trial.seconds, rel=0.01) and deviation < 0.02


def test_what_is_left_is_what_draws_of_the_untried_would_win() -> None:
    seconds = machine(3)
    tried = [Measured(setting, seconds(setting)) for setting in SETTINGS]
    assert search.left(search.believe([], predicted, tried), plain, 1.0) == search.Left(0.0, 0.0)
    worst = max(tried, key=lambda trial: trial.seconds)
    untried = [setting for setting in SETTINGS if setting != worst.setting]
    nothing_known = search.left(search.believe(untried, predicted, [worst]), plain, worst.seconds)
    assert 0.5 < nothing_known.expected < nothing_known.bound < 1
    all_but_one = search.believe([worst.setting], predicted, [t for t in tried if t != worst])
    assert search.left(all_but_one, plain, min(t.seconds for t in tried)).bound == 0.0


def test_compiling_must_pay_within_the_budget() -> None:
    """What a setting costs counts, not its step alone: compiling takes a third of this budget and saves a tenth."""

    def charge(setting: Setting, seconds: float) -> float:
        return seconds * 1.5 if setting.compile else seconds

    seconds = lambda s: predicted(s) / 0.85 * 0.9 if s.compile else predicted(s)  # noqa: E731
    chosen = min(tuned(seconds, charge=charge), key=lambda trial: charge(trial.setting, trial.seconds)).setting
    assert not chosen.compile
    free = min(tuned(seconds), key=lambda trial: trial.seconds).setting
    assert free.compile
    never = search.believe([s for s in SETTINGS if s.compile], predicted, [])
    gains = search.improvements(never, lambda *_: math.inf, 1.0)
    assert gains.max() < 1e-9 and search.left(never, lambda *_: math.inf, 1.0).bound == 0.0


def test_a_dear_trial_must_promise_more() -> None:
    one, two = SETTINGS[0], SETTINGS[1]
    belief = search.believe([one, two], lambda _: 1.0, [Measured(SETTINGS[2], 1.0)])
    assert search.next_setting(belief, plain, 1.0, {one: 1.0, two: 100.0}) == one
    assert search.next_setting(belief, plain, 1.0, {one: 100.0, two: 1.0}) == two
    assert search.next_setting(belief, plain, 1.0, {}) is None
