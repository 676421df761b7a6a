"""How many steps a budget allows, and when training evaluates, saves and warms up."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fullbore.base.units import format_seconds
from fullbore.spec.plan import Choice
from fullbore.spec.train import TrainSection

_EVALUATION_SHARE = 0.05
"""Share of the training time that automatic evaluations may take."""
_EVALUATIONS = 10
"""Evaluations during a run, if their cost allows."""
_CHECKPOINT_SHARE = 0.015
"""Share of the training time that automatic checkpoints may hold it up."""
_Source = Literal["measured", "estimated", "set"]
_BETWEEN_FAILURES = 3600.0
"""Seconds between interruptions that checkpoints are planned for; nobody knows it of a machine before it happened."""


@dataclass(frozen=True)
class Costs:
    """Seconds of what interrupts training, measured or estimated; errors are relative; none: not known."""

    evaluate_seconds: float = 0.0
    """One evaluation during training."""
    final_seconds: float = 0.0
    """What follows the last step within the budget: the evaluation of all validation samples, the last checkpoint."""
    checkpoint_seconds: float = 0.0
    """The time that one checkpoint holds up the steps."""
    compile_seconds: float = 60.0
    compile_gain: float = 0.0
    """Share of a step's time that compiling is expected to save."""
    communication_seconds: float = 0.0
    """Exposed communication of one step, if the trials ran without the other ranks."""
    step_error: float | None = None
    train_error: float | None = None
    memory_error: float | None = None


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
    section: TrainSection, rows: int, units_per_row: int, step_seconds: float, costs: Costs, has_validation: bool = True
) -> Cadence:
    """`step_seconds`: of one optimizer step; zero if it was not measured (a time budget then gives one step)."""
    checkpoint_every, saved = _checkpoint_every(section, step_seconds, costs)
    evaluation = costs.evaluate_seconds if has_validation else 0.0
    sparse = math.ceil(evaluation / (_EVALUATION_SHARE * step_seconds)) if step_seconds else 1

    def total(steps: int, evaluate_every: int) -> float:
        interruptions = (steps - 1) // evaluate_every * evaluation
        interruptions += (steps - 1) // checkpoint_every * costs.checkpoint_seconds
        return steps * step_seconds + interruptions + costs.final_seconds

    def evaluate_every(steps: int) -> int:
        if isinstance(section.evaluate_every, int):
            return max(1, section.evaluate_every)
        return min(steps, max(1, sparse, math.ceil(steps / _EVALUATIONS)))

    if section.budget.unit == "seconds":
        steps = _steps_within(section.budget.amount, lambda n: total(n, evaluate_every(n)), step_seconds)
        reason = f"{section.budget} at {format_seconds(step_seconds)} a step, measured"
        if taken := total(steps, evaluate_every(steps)) - steps * step_seconds:
            reason += f", less {format_seconds(taken)} for evaluation and checkpoints"
        steps_choice = Choice("train.budget", f"{steps} steps", reason, "measured")
    else:
        steps = _counted_steps(section, rows, units_per_row)
        steps_choice = Choice("train.budget", f"{steps} steps", str(section.budget), "set")
    every = evaluate_every(steps)
    checkpoint_every = min(checkpoint_every, steps)
    return Cadence(
        steps=steps,
        evaluate_every=every,
        checkpoint_every=checkpoint_every,
        warmup_steps=_warmup(section, steps),
        seconds=total(steps, every),
        choices=(
            steps_choice,
            _every_choice("train.evaluate_every", section.evaluate_every, every, evaluation, step_seconds),
            Choice("train.checkpoint_every", str(checkpoint_every), *saved),
        ),
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
    """Steps between checkpoints with the reason. Young (1974): the interval sqrt(2 C M) minimises the cost
    of saving (C seconds) and of losing work (M seconds between failures) together."""
    asked = section.checkpoint_every
    if isinstance(asked, int):
        return max(1, asked), ("set by the job", "set")
    step = step_seconds or 1.0
    if asked != "auto":
        return max(1, round(float(asked) / step)), (f"every {format_seconds(float(asked))}", "set")
    cost = max(costs.checkpoint_seconds, 1e-3)
    seconds = max(math.sqrt(2 * cost * _BETWEEN_FAILURES), cost / _CHECKPOINT_SHARE)
    reason = f"about every {format_seconds(seconds)}: a checkpoint holds up the steps for {format_seconds(cost)}"
    return max(1, math.ceil(seconds / step)), (reason, "estimated")


def _every_choice(key: str, asked: object, every: int, cost: float, step_seconds: float) -> Choice:
    if asked != "auto":
        return Choice(key, str(every), "set by the job", "set")
    share = cost / (every * step_seconds + cost) if step_seconds else 0.0
    return Choice(key, str(every), f"an evaluation takes {format_seconds(cost)}: {share:.1%} of the time", "estimated")


def _warmup(section: TrainSection, steps: int) -> int:
    if not section.warmup or steps < 2:
        return 0
    return min(steps - 1, max(1, round(section.warmup * steps)))
