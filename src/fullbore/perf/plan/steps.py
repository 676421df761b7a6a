"""How many steps a budget allows, and when training evaluates, saves and warms up."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fullbore.base.units import format_seconds, format_share, plural
from fullbore.perf.model.calibration import UNKNOWN, Calibration
from fullbore.spec.plan import Choice
from fullbore.spec.train import TrainSection

_TRAINING_SHARE = 0.8
"""Share of a time budget that is for steps, whatever judging and saving cost on top."""
_EVALUATION_SHARE = 0.05
"""Share of the training time that automatic evaluations may take."""
_LONG_FINAL = 0.15
"""Share of a time budget from which on the last evaluation is worth a warning."""
_EVALUATIONS = 10
"""Evaluations during a run, if their cost allows."""
_CHECKPOINT_SHARE = 0.015
"""Share of the training time that automatic checkpoints may hold it up."""
COMPILE_SECONDS = 40.0
"""What compiling takes on a few cores, where nothing was measured."""
_Source = Literal["measured", "estimated", "set"]
_BETWEEN_FAILURES = 3600.0
"""Seconds between interruptions that checkpoints are planned for; nobody knows it of a machine before it happened."""


@dataclass(frozen=True)
class Costs:
    """Seconds of what interrupts training, measured or estimated."""

    evaluate_seconds: float = 0.0
    """One evaluation during training."""
    final_seconds: float = 0.0
    """What follows the last step: the evaluation of all validation samples."""
    checkpoint_seconds: float = 0.0
    """The time that one checkpoint holds up the steps."""
    start_seconds: float = 0.0
    """What the budget pays once, before the steps."""
    calibration: Calibration = UNKNOWN
    """What past trials say of the steps that followed them."""


@dataclass(frozen=True)
class Cadence:
    """How long, and what happens how often; all counts are at least 1."""

    steps: int
    evaluate_every: int
    checkpoint_every: int
    warmup_steps: int
    seconds: float
    """Predicted seconds of all steps with their evaluations and checkpoints."""
    choices: tuple[Choice, ...]


def cadence(
    section: TrainSection,
    rows: int,
    units_per_row: int,
    step_seconds: float,
    costs: Costs,
    *,
    has_validation: bool = True,
    source: _Source = "measured",
) -> Cadence:
    """`step_seconds`: of one optimizer step, by `source`; zero if nothing is known (a time budget then gives one step).

    A time budget buys steps: evaluations and checkpoints that the job itself times are paid from it, all others
    together take at most a fifth of it, and what they cost beyond that comes on top.
    """
    checkpoint_every, saved = _checkpoint_every(section, step_seconds, costs)
    evaluation, final = (costs.evaluate_seconds, costs.final_seconds) if has_validation else (0.0, 0.0)
    sparse = math.ceil(evaluation / (_EVALUATION_SHARE * step_seconds)) if step_seconds else 1

    def evaluate_every(steps: int) -> int:
        if isinstance(section.evaluate_every, int):
            return max(1, section.evaluate_every)
        return min(steps, max(1, sparse, math.ceil(steps / _EVALUATIONS)))

    def interruptions(steps: int) -> tuple[float, float]:
        """Seconds of those that the job asks for, and of all others."""
        parts = (
            (section.evaluate_every, (steps - 1) // evaluate_every(steps) * evaluation),
            (section.checkpoint_every, (steps - 1) // checkpoint_every * costs.checkpoint_seconds),
        )
        asked = sum(seconds for every, seconds in parts if every != "auto")
        return costs.start_seconds + asked, final + sum(seconds for _, seconds in parts) - asked

    def paid(steps: int) -> float:
        asked, others = interruptions(steps)
        return steps * step_seconds + asked + min(others, (1 - _TRAINING_SHARE) * section.budget.amount)

    if section.budget.unit == "seconds":
        steps = _steps_within(section.budget.amount, paid, step_seconds)
        reason = f"{section.budget} at {format_seconds(step_seconds)} a step"
        if taken := paid(steps) - steps * step_seconds:
            compiling = "compiling, " if costs.start_seconds else ""
            reason += f", less {format_seconds(taken)} for {compiling}evaluation and checkpoints"
        steps_choice = Choice("train.budget", plural(steps, "step"), reason, source, f"{2 * steps} steps")
    else:
        steps = _counted_steps(section, rows, units_per_row)
        told = "set by the job" if section.budget.unit == "steps" else f"{section.budget}, set by the job"
        steps_choice = Choice("train.budget", plural(steps, "step"), told, "set")
    every = evaluate_every(steps)
    checkpoint_every = min(checkpoint_every, steps)
    return Cadence(
        steps=steps,
        evaluate_every=every,
        checkpoint_every=checkpoint_every,
        warmup_steps=_warmup(section, steps),
        seconds=steps * step_seconds + sum(interruptions(steps)),
        choices=(
            steps_choice,
            _evaluate_choice(section.evaluate_every, every, steps, evaluation, step_seconds),
            Choice("train.checkpoint_every", str(checkpoint_every), *saved, str(2 * checkpoint_every)),
        ),
    )


def judged_rows(section: TrainSection, steps: int, evaluate_every: int, validation: int) -> int:
    """Rows of a validation split of so many that training judges: at each evaluation, and all of them at the end."""
    if not validation:
        return 0
    some = min(validation, section.evaluate_samples or validation)
    during = 1 + (steps - 1) // evaluate_every
    return during * some + (validation if section.evaluate_samples is not None else 0)


def warning(section: TrainSection, seconds: float, costs: Costs) -> str | None:
    """What to say if judging makes a training of `seconds` much longer than its time budget; none if it does not."""
    budget, final = section.budget, costs.final_seconds
    if budget.unit != "seconds" or final <= _LONG_FINAL * budget.amount:
        return None
    return (
        f"judging all held-out samples at the end takes about {format_seconds(final)} beside a budget of {budget}: "
        f"training with it takes about {format_seconds(seconds)}; a smaller data.validation shortens it"
    )


def _steps_within(budget: float, total: Callable[[int], float], step_seconds: float) -> int:
    """The most steps, at least one, whose `total` seconds do not exceed `budget`; `total` grows with its argument."""
    if not step_seconds:
        return 1
    low, high = 1, max(1, math.floor(budget / step_seconds))
    while low < high:
        middle = (low + high + 1) // 2
        if total(middle) <= budget:
            low = middle
        else:
            high = middle - 1
    return low


def _counted_steps(section: TrainSection, rows: int, units_per_row: int) -> int:
    amount, batch = section.budget.amount, section.global_batch_size
    samples = {
        "steps": amount * batch,
        "samples": amount,
        "tokens": amount / max(1, units_per_row),
        "epochs": amount * rows,
    }[section.budget.unit]
    return max(1, math.ceil(samples / batch))


def _checkpoint_every(section: TrainSection, step_seconds: float, costs: Costs) -> tuple[int, tuple[str, _Source]]:
    """Steps between checkpoints with the reason."""
    asked = section.checkpoint_every
    if isinstance(asked, int):
        return max(1, asked), ("set by the job", "set")
    step = step_seconds or 1.0
    if asked != "auto":
        return max(1, round(float(asked) / step)), (f"every {format_seconds(float(asked))}", "set")
    cost = max(costs.checkpoint_seconds, 1e-3)
    seconds = checkpoint_interval(cost)
    reason = f"about every {format_seconds(seconds)}: a checkpoint holds up the steps for {format_seconds(cost)}"
    return max(1, math.ceil(seconds / step)), (reason, "estimated")


def checkpoint_interval(cost: float) -> float:
    """Seconds between checkpoints that hold up the steps for `cost` seconds each. Young (1974): sqrt(2 C M) minimises
    the cost of saving (C seconds) and of losing work (M seconds between failures) together."""
    return max(math.sqrt(2 * cost * _BETWEEN_FAILURES), cost / _CHECKPOINT_SHARE)


def _evaluate_choice(asked: object, every: int, steps: int, cost: float, step_seconds: float) -> Choice:
    key = "train.evaluate_every"
    if asked != "auto":
        return Choice(key, str(every), "set by the job", "set")
    told = f"an evaluation takes {format_seconds(cost)}"
    if every >= steps:
        return Choice(key, str(every), f"once, at the end: {told}", "estimated", str(every // 2 or 2))
    share = cost / (every * step_seconds + cost) if step_seconds else 0.0
    return Choice(key, str(every), f"{told}: {format_share(share)} of the time", "estimated", str(2 * every))


def _warmup(section: TrainSection, steps: int) -> int:
    if not section.warmup or steps < 2:
        return 0
    return min(steps - 1, max(1, round(section.warmup * steps)))
