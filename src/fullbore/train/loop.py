"""Training: read this first.

A step is a pure function of (plan, seed, step number, state before it), the state is what a checkpoint holds, and the
feed's position is the step number: so a run that was killed and resumed ends with the bits of one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace

import torch
import xxhash

from fullbore.base.errors import RunFailed, UsageError
from fullbore.base.log import logger
from fullbore.engine import group
from fullbore.record.ledger import State
from fullbore.train import checkpoint, precision
from fullbore.train.checkpoint import Best, Checkpoints, Position, Tensors
from fullbore.train.evaluate import evaluate
from fullbore.train.journal import Journal
from fullbore.train.parallel import Alone, Exchange, Ranks
from fullbore.train.setup import Stopped, TrainResult, TrainSetup
from fullbore.train.step import Step

__all__ = ["TrainResult", "TrainSetup", "run"]


def run(setup: TrainSetup) -> TrainResult:
    """Train one rank's part until the plan's steps are done, early stopping ends it, or `setup.stop()` does.

    The ledger's `report` is what lies between the states of the steps: events, progress, where the run stands.
    Raises RunFailed if the loss stops being finite (the last good checkpoint stays), if checkpoints cannot be written
    twice in a row, or if another rank is lost; UsageError if there are checkpoints and `setup.resume` is false.
    """
    began = time.perf_counter()
    with _training(setup) as training, setup.recorder.state(State.REPORT):
        stop = False
        while (stopped := training.ended(stop)) is None:
            stop = training.advance()
        return training.finish(stopped, began)


@contextmanager
def _training(setup: TrainSetup) -> Iterator[_Training]:
    with ExitStack() as stack:
        with setup.recorder.state(State.START):
            stack.enter_context(precision.exact(setup.plan.threads))
            stack.enter_context(group.member(setup.world_size))
            exchange = Alone() if setup.world_size == 1 else Ranks(setup.recorder)
            checkpoints = Checkpoints(setup.checkpoints, setup.section.keep, setup.recorder, setup.task.metric)
            stack.callback(checkpoints.close)
            training = _Training(setup, exchange, checkpoints)
            stack.callback(training.feed.close)
            training.journal = Journal(setup, training.position.step)
            stack.callback(training.journal.close)
        yield training


_NOT_DECIDING = ("choices", "predicted", "prefetch", "feed_threads")
_ALWAYS = (("attention", "auto"), ("recompute", False))


def plan_digest(setup: TrainSetup) -> str:
    """Of what decides the bits of a run; predictions, reasons and the feed's depth do not, nor what is as it always was
    before it could be chosen."""
    executed = {key: value for key, value in asdict(setup.plan).items() if key not in _NOT_DECIDING}
    executed = {key: value for key, value in executed.items() if (key, value) not in _ALWAYS}
    return xxhash.xxh3_64_hexdigest(repr(sorted(executed.items())).encode())


class _Training:
    journal: Journal

    def __init__(self, setup: TrainSetup, exchange: Exchange, checkpoints: Checkpoints) -> None:
        self.setup = setup
        self._exchange = exchange
        self._checkpoints = checkpoints
        self._network = setup.build().train()
        self._step = Step(self._network, setup.task, setup.section, setup.plan, exchange, setup.recorder)
        self.feed = setup.feed()
        self.position, self._best = self._resume()
        self._batches = iter(self.feed)
        self._saved = self.position.step if self.position.step else None

    def ended(self, stop: bool) -> Stopped | None:
        patience = self.setup.section.early_stopping
        if self.position.step >= self.setup.plan.steps:
            return "budget"
        if patience is not None and self.position.worse >= patience:
            return "early stopping"
        return "interrupted" if stop else None

    def advance(self) -> bool:
        """One step and what is due after it; true if some rank was asked to stop."""
        setup, began = self.setup, time.perf_counter()
        with setup.recorder.state(State.DATA_WAIT):
            batch = next(self._batches)
        waited = time.perf_counter() - began
        outcome = self._step(batch, self.position.step, setup.stop())
        step = self.position.step + 1
        if not outcome.finite:
            raise RunFailed(
                f"step {step}: the loss is {outcome.loss}, the gradient's norm {outcome.gradient_norm};"
                f" {self._checkpoints.last_good()}",
                hint="lower train.learning_rate or set train.clip, and look at the data of that step",
            )
        self.position = replace(self.position, step=step, loss=outcome.loss, feed=self.feed.state_dict())
        self.journal.step(step, outcome, time.perf_counter() - began, waited, self.feed.last_ids)
        last = step == setup.plan.steps
        if last or _due(step, setup.plan.evaluate_every):
            self._judge()
        if _due(step, setup.plan.checkpoint_every):
            self._save()
        return outcome.stop

    def finish(self, stopped: Stopped, began: float) -> TrainResult:
        """The last checkpoint made durable, the best weights, judged on all validation samples."""
        setup, position = self.setup, self.position
        self._save()
        self._checkpoints.finish()
        path = self._checkpoints.path(position.step)
        metrics, best = position.metrics, position.step
        if stopped != "interrupted" and position.best is not None:
            metrics, best = position.best.metrics, position.best.step
            checkpoint.restore(checkpoint.weights(self._network), self._best, path)
            if setup.section.evaluate_samples is not None:
                metrics = evaluate(setup, self._network, self._exchange) or metrics
                self.journal.metrics(position.step, metrics)
        return TrainResult(
            module=self._network.eval(),
            steps=position.step,
            steps_here=len(self.journal.seconds),
            samples=self.journal.samples,
            units=self.journal.units,
            loss=position.loss,
            metrics=metrics,
            best_step=best,
            seconds=time.perf_counter() - began,
            step_seconds=self.journal.step_seconds,
            stopped=stopped,
            checkpoint=path,
        )

    def _judge(self) -> None:
        """Evaluate; if the network is the best so far keep its weights."""
        setup, position = self.setup, self.position
        metrics = evaluate(setup, self._network, self._exchange, setup.section.evaluate_samples)
        if metrics is None:
            return
        self.journal.metrics(position.step, metrics)
        value, best = metrics[setup.task.metric], position.best
        sign = 1 if setup.task.higher_is_better else -1
        better = value == value if best is None else sign * value > sign * best.value
        if better:
            best = Best(position.step, value, metrics)
            current = checkpoint.weights(self._network)
            self._best = {n: t.clone(memory_format=torch.contiguous_format) for n, t in current.items()}
        self.position = replace(position, metrics=metrics, best=best, worse=0 if better else position.worse + 1)

    def _save(self) -> None:
        if self._exchange.rank == 0 and self._saved != self.position.step:
            self._checkpoints.save(self.position, self._network, self._step.optimizer, self._best)
            self._saved = self.position.step

    def _resume(self) -> tuple[Position, Tensors]:
        """From the newest intact checkpoint, the same one on every rank; rank 0 chooses. Also the best weights."""
        setup, newest, skipped = self.setup, None, list[str]()
        if self._exchange.rank == 0:
            self._checkpoints.folder.mkdir(parents=True, exist_ok=True)
            if self._checkpoints.steps() and not setup.resume:
                raise UsageError(f"{setup.checkpoints}: holds checkpoints", hint="resume that run, or start another")
            newest, skipped = self._checkpoints.newest()
        step = self._exchange.agree(newest or 0)
        fresh = Position(plan=plan_digest(setup))
        if step == 0:
            if setup.resume and self._exchange.rank == 0:
                setup.recorder.event("resume", step=0, checkpoint=None, skipped=skipped)
            return fresh, {}
        path = self._checkpoints.path(step)
        position, best = checkpoint.load(path, self._network, self._step.optimizer)
        self.feed.load_state_dict(position.feed)
        if self._exchange.rank == 0:
            setup.recorder.event("resume", step=step, checkpoint=str(path), skipped=skipped)
        if position.plan != fresh.plan:
            text = f"the plan is not the one of {path.name}: what follows is not bit for bit what would have been"
            setup.recorder.event("message", level="warning", text=text)
            logger.warning(text)
        return replace(position, plan=fresh.plan), best


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
