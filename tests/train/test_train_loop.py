"""The loop: the same bits again, evaluation, early stopping, interruption, what it says on the way."""

from __future__ import annotations

import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import small_training as small
import torch
from safetensors.torch import load_file

from fullbore.base.errors import InputError, RunFailed, UsageError
from fullbore.record import artifact
from fullbore.record.span import Recorder
from fullbore.train.loop import run
from fullbore.train.setup import TrainSetup


def _kept(folder: Path, **changes: Any) -> tuple[small.Kept, TrainSetup]:
    kept = small.Kept()
    plan = changes.pop("plan", small.plan())
    return kept, small.setup(folder, plan, recorder=Recorder(kept, began=time.time()), **changes)


def test_it_learns_and_says_so(tmp_path: Path) -> None:
    kept, setup = _kept(tmp_path, plan=small.plan(steps=40))
    feeds: list[small.Feed] = []

    def feed() -> small.Feed:
        feeds.append(small.Feed(8))
        return feeds[-1]

    shown: list[tuple[float, float | None, str, str]] = []

    def progress(stage: str, done: float, total: float | None, unit: str, *, detail: str = "", limit: str = "") -> None:
        shown.append((done, total, detail, limit))

    result = run(small.replace(setup, feed=feed, progress=progress))
    steps = kept.of("step")
    assert [event["step"] for event in steps] == list(range(1, 41))
    assert steps[-1]["loss"] < 0.7 * steps[0]["loss"]
    assert result.metrics["accuracy"] > 0.7
    assert {"learning_rate", "gradient_norm", "units", "samples", "seconds", "ids"} <= steps[0].keys()
    assert len({event["ids"] for event in steps}) == 25
    assert (result.steps, result.steps_here, result.samples, result.stopped) == (40, 40, 320, "budget")
    assert not result.module.training
    assert [event["step"] for event in kept.of("metric")] == list(range(4, 41, 4))
    assert [done for done, _, _, _ in shown] == list(range(1, 41))
    assert "samples/s" in shown[-1][2]
    assert all(feed.closed for feed in feeds)


def test_same_plan_and_seed_same_bits(tmp_path: Path) -> None:
    runs = []
    for name in ("one", "two"):
        kept, setup = _kept(tmp_path / name, build=partial(small.network, dropout=0.3, norm=True))
        runs.append((small.tensors(run(setup).module), [event["loss"] for event in kept.of("step")]))
        torch.rand(7)
    assert runs[0][1] == runs[1][1]
    assert small.same(runs[0][0], runs[1][0])


@pytest.mark.parametrize("stop_after", [1, 4, 7, 11])
def test_interrupted_and_resumed_is_bit_equal(tmp_path: Path, stop_after: int) -> None:
    build = partial(small.network, dropout=0.3, norm=True)
    kept, setup = _kept(tmp_path / "whole", build=build)
    whole = run(setup)
    losses = [event["loss"] for event in kept.of("step")]

    polled = 0

    def stop() -> bool:
        nonlocal polled
        polled += 1
        return polled == stop_after

    kept, setup = _kept(tmp_path / "parts", build=build, stop=stop)
    first = run(setup)
    assert (first.stopped, first.steps) == ("interrupted", stop_after)
    before = [event["loss"] for event in kept.of("step")]
    kept, setup = _kept(tmp_path / "parts", build=build, resume=True)
    second = run(setup)
    assert second.steps_here == 12 - stop_after
    assert before + [event["loss"] for event in kept.of("step")] == losses
    assert small.same(small.tensors(second.module), small.tensors(whole.module))
    assert (second.metrics, second.best_step) == (whole.metrics, whole.best_step)
    assert kept.of("resume")[0]["step"] == stop_after


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    first = run(_kept(tmp_path)[1])
    second = run(_kept(tmp_path, resume=True)[1])
    assert second.steps_here == 0
    assert (second.loss, second.metrics, second.best_step) == (first.loss, first.metrics, first.best_step)
    assert small.same(small.tensors(first.module), small.tensors(second.module))


def test_early_stopping_ends_with_the_best_weights(tmp_path: Path) -> None:
    class Worsening(small.Task):
        """The third evaluation is the best one."""

        metric = "loss"
        higher_is_better = False
        values = (3.0, 2.0, 1.0, 1.5, math.nan, 0.5)
        seen = 0

        def metrics(self, sums: dict[str, float]) -> dict[str, float]:
            self.seen += 1
            return {"loss": self.values[self.seen - 1]}

    plan = small.plan(steps=100, evaluate_every=2, checkpoint_every=5)
    setup = _kept(tmp_path, plan=plan, section=small.section(early_stopping=2))[1]
    result = run(small.replace(setup, task=Worsening()))
    assert (result.stopped, result.steps, result.best_step) == ("early stopping", 10, 6)
    assert result.metrics == {"loss": 1.0}
    at_six = run(_kept(tmp_path / "six", plan=small.replace(plan, steps=100), stop=_after(6))[1])
    assert small.same(small.tensors(result.module), small.tensors(at_six.module))
    assert '"step": 6' in (tmp_path / "checkpoints" / "best.json").read_text()


def _after(steps: int) -> Any:
    polls = iter([False] * (steps - 1) + [True])
    return lambda: next(polls)


def test_sampled_evaluations_are_followed_by_a_whole_one(tmp_path: Path) -> None:
    asked: list[int | None] = []

    class Counting(small.Validation):
        def __call__(self, *, limit: int | None = None) -> Any:
            asked.append(limit)
            return super().__call__(limit=limit)

    setup = _kept(tmp_path, section=small.section(evaluate_samples=10))[1]
    run(small.replace(setup, validation=Counting()))
    assert asked == [10, 10, 10, None]


@pytest.mark.parametrize("nothing", [None, lambda *, limit=None: iter(())])
def test_no_validation_gives_the_last_weights(tmp_path: Path, nothing: Any) -> None:
    setup = _kept(tmp_path)[1]
    result = run(small.replace(setup, validation=nothing))
    assert (result.metrics, result.best_step) == ({}, 12)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    kept, setup = _kept(tmp_path, poison=7)
    with pytest.raises(RunFailed, match=r"step 8: the loss is nan.*last good checkpoint is .*step-00000005") as failure:
        run(setup)
    assert "train.learning_rate" in str(failure.value)
    assert [path.name for path in (tmp_path / "checkpoints").glob("step-*")] == ["step-00000005"]
    assert artifact.verify(artifact.read(tmp_path / "checkpoints" / "step-00000005", "checkpoint")) == []
    assert kept.of("step")[-1]["step"] == 7
    assert run(_kept(tmp_path, resume=True)[1]).steps == 12


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    section = small.section(learning_rate=1e38, optimizer="sgd", warmup=0.0, clip=None)
    with pytest.raises(RunFailed, match="not finite"):
        run(_kept(tmp_path, plan=small.plan(warmup_steps=0, checkpoint_every=1), section=section)[1])
    for path in (tmp_path / "checkpoints").glob("step-*"):
        tensors = load_file(path / "model.safetensors")
        assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


def test_checkpoints_of_another_run_are_not_overwritten(tmp_path: Path) -> None:
    run(_kept(tmp_path)[1])
    with pytest.raises(UsageError, match="holds checkpoints"):
        run(_kept(tmp_path)[1])


def test_another_network_is_refused(tmp_path: Path) -> None:
    run(_kept(tmp_path, plan=small.plan(steps=3))[1])
    with pytest.raises(InputError, match=r"0.bias has shape \(16,\), expected \(8,\)"):
        run(_kept(tmp_path, resume=True, build=partial(small.network, width=8))[1])


def test_another_plan_is_said(tmp_path: Path) -> None:
    run(_kept(tmp_path, plan=small.plan(steps=3))[1])
    kept, setup = _kept(tmp_path, resume=True)
    assert run(setup).steps == 12
    assert "not bit for bit" in kept.of("message")[0]["text"]


def test_time_is_accounted_for(tmp_path: Path) -> None:
    kept, setup = _kept(tmp_path, plan=small.plan(steps=200, evaluate_every=50, checkpoint_every=100))
    run(setup)
    ledger = setup.recorder.ledger()
    assert {"data wait", "copy", "forward", "backward", "optimizer", "evaluate", "checkpoint"} <= ledger.seconds.keys()
    assert "checkpoint" in ledger.busy
    assert [event["step"] for event in kept.of("checkpoint")] == [100, 200]


def test_waiting_for_data_is_named_as_the_limit(tmp_path: Path) -> None:
    limits: list[str] = []

    def progress(stage: str, done: float, total: float | None, unit: str, *, detail: str = "", limit: str = "") -> None:
        limits.append(limit)

    run(_kept(tmp_path, pause=0.05, progress=progress)[1])
    assert limits[-1] == "data"


def test_tensorboard_reads_the_scalars(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    kept, setup = _kept(tmp_path, tensorboard=tmp_path / "tensorboard")
    run(setup)
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = found.Scalars("train/loss")
    assert [scalar.step for scalar in losses] == list(range(1, 13))
    assert [scalar.value for scalar in losses] == pytest.approx([event["loss"] for event in kept.of("step")])
    assert [scalar.step for scalar in found.Scalars("validation/accuracy")] == [4, 8, 12]
