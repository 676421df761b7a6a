"""Which setting to try next, and what is left to win: a cost model, corrected by the trials so far. Pure functions.

How far the measured logarithm of a step's time is from the predicted one is taken for a Gaussian process (Rasmussen
and Williams 2006, Gaussian Processes for Machine Learning, 2.2): what all predictions miss, what each value of a knob
adds, what pairs of values add, and what is a setting's own. So one trial of bf16 tells of all settings in bf16. The
next trial is the one with the largest expected improvement (Jones et al. 1998, Efficient Global Optimization) for what
it costs, and what is left to win comes from draws of all settings together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fullbore.perf.plan.choose import Setting

Values = NDArray[np.float64]

_SHARED = 0.7
"""Deviation (of the logarithm) of what all predictions for a job miss together."""
_DEVIATIONS = {
    "precision": 0.25, "threads": 0.2, "micro_batch_size": 0.1, "attention": 0.15, "recompute": 0.08, "compile": 0.25,
    "prefetch": 0.03, "feed_threads": 0.05,
}  # fmt: skip
"""Of what is missed of each knob's effect."""
_PAIRED = 0.04
"""Of what each pair of knobs adds."""
_OWN = 0.02
"""Of what only a setting itself shows."""
_DOUBLINGS = 2.0
"""Micro-batches that are so many doublings apart have little to do with one another."""
_LEAST_NOISE = 0.01
_DRAWS = 400
_HOPELESS = -20.0
"""Logarithm of how far ahead of the best that is which is never: compiling that takes longer than the budget."""


@dataclass(frozen=True)
class Measured:
    """A setting whose steps were timed."""

    setting: Setting
    seconds: float
    """Of a step: the median."""
    noise: float = 0.0
    """Standard error of it, relative."""


@dataclass(frozen=True)
class Belief:
    """What is expected of settings, tried or not: the logarithm of a step's seconds, normally distributed."""

    settings: tuple[Setting, ...]
    mean: Values
    """[settings]"""
    covariance: Values
    """[settings, settings]"""

    def seconds(self, setting: Setting) -> tuple[float, float]:
        """The median, and the relative deviation."""
        place = self.settings.index(setting)
        return math.exp(self.mean[place]), math.sqrt(max(0.0, self.covariance[place, place]))


@dataclass(frozen=True)
class Left:
    """What a setting that was not tried may still win over the best that was, as a share of its time."""

    expected: float
    bound: float
    """Not exceeded in 19 of 20 cases."""


def believe(settings: Sequence[Setting], predicted: Callable[[Setting], float], trials: Sequence[Measured]) -> Belief:
    """From predicted seconds and `trials`, whose settings need not be among `settings`."""
    prior = np.log([predicted(setting) for setting in settings])
    own = _kernel(settings, settings)
    if not trials:
        return Belief(tuple(settings), prior, own)
    tried = [trial.setting for trial in trials]
    noise = np.diag([max(_LEAST_NOISE, trial.noise) ** 2 for trial in trials])
    across, among = _kernel(settings, tried), _kernel(tried, tried) + noise
    missed = np.log([trial.seconds / predicted(trial.setting) for trial in trials])
    weights = np.linalg.solve(among, np.column_stack([missed, across.T]))
    return Belief(tuple(settings), prior + across @ weights[:, 0], own - across @ weights[:, 1:])


def _kernel(one: Sequence[Setting], two: Sequence[Setting]) -> Values:
    """Covariance of what is missed of the settings of either."""
    alike = {name: _alike(name, one, two) for name in _DEVIATIONS}
    total = np.full((len(one), len(two)), _SHARED**2)
    names = list(alike)
    together = np.ones_like(total)
    for place, name in enumerate(names):
        total += _DEVIATIONS[name] ** 2 * alike[name]
        together *= alike[name]
        for other in names[place + 1 :]:
            total += _PAIRED**2 * alike[name] * alike[other]
    return total + _OWN**2 * together


def _alike(name: str, one: Sequence[Setting], two: Sequence[Setting]) -> Values:
    """1 for the same value, 0 for another; sizes are more alike the nearer they are."""
    first, second = ([getattr(setting, name) for setting in side] for side in (one, two))
    if name == "micro_batch_size":
        apart = np.subtract.outer(np.log2(first), np.log2(second))
        nearness: Values = np.exp(-0.5 * (apart / _DOUBLINGS) ** 2)
        return nearness
    codes = {value: float(code) for code, value in enumerate(dict.fromkeys([*first, *second]))}
    differences: Values = np.subtract.outer([codes[value] for value in first], [codes[value] for value in second])
    same: Values = (differences == 0).astype(np.float64)
    return same


def improvements(belief: Belief, charge: Callable[[Setting, float], float], best: float) -> Values:
    """[settings]: by which share of `best` each is expected to be better, counting no harm where it is worse.

    `charge`: what a setting costs a step, all told, if it takes so many seconds.
    """
    means = belief.mean + _shifts(belief, charge)
    deviations = np.sqrt(np.maximum(np.diag(belief.covariance), 1e-12))
    ahead = np.maximum(math.log(best) - means, _HOPELESS)
    scores = ahead / deviations
    density = np.exp(-0.5 * scores**2) / math.sqrt(2 * math.pi)
    found: Values = ahead * _below(scores) + deviations * density
    return found


def _shifts(belief: Belief, charge: Callable[[Setting, float], float]) -> Values:
    """[settings]: what the charge adds to the logarithm of each one's seconds."""
    medians = np.exp(belief.mean).tolist()
    charged = [charge(setting, seconds) for setting, seconds in zip(belief.settings, medians, strict=True)]
    return np.log(charged) - belief.mean


def _below(scores: Values) -> Values:
    return np.array([0.5 * math.erfc(-score / math.sqrt(2)) for score in scores])


def left(belief: Belief, charge: Callable[[Setting, float], float], best: float) -> Left:
    """What is left to win over `best`, by draws of all settings of `belief` together; nothing if there are none."""
    if not belief.settings:
        return Left(0.0, 0.0)
    values, vectors = np.linalg.eigh(belief.covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    draws = np.random.default_rng(0).standard_normal((_DRAWS, len(values))) @ root.T
    fastest = (belief.mean + _shifts(belief, charge) + draws).min(axis=1)
    won = np.maximum(0.0, -np.expm1(fastest - math.log(best)))
    return Left(float(won.mean()), float(np.quantile(won, 0.95)))


def next_setting(
    belief: Belief,
    charge: Callable[[Setting, float], float],
    best: float,
    costs: Mapping[Setting, float],
) -> Setting | None:
    """Of the settings in `costs` (seconds that a trial takes), the one whose trial is expected to win most for what it
    costs; none if there are none."""
    gains = dict(zip(belief.settings, improvements(belief, charge, best), strict=True))
    return max(costs, key=lambda setting: gains[setting] / costs[setting], default=None)
