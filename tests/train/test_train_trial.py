"""Trials measure real steps and leave nothing behind."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import small_training as small
import torch

from fullbore.train.step import Outcome, Step
from fullbore.train.trial import opened, step_seconds


def test_a_trial_measures_and_leaves_no_trace(tmp_path: Path) -> None:
    kept = small.Kept()
    plan = small.plan(precision="bf16", micro_batch_size=2, accumulation=4)
    setup = small.setup(tmp_path, plan, recorder=small.Recorder(kept))
    before = torch.get_rng_state(), torch.get_num_threads(), torch.get_deterministic_debug_mode()
    seconds = dict(setup.recorder.ledger().seconds)
    trial = step_seconds(setup, steps=3)
    assert trial.seconds > 0 and len(trial.taken) == 3 and trial.waited > 0
    assert set(trial.parts) == {"copy", "forward", "backward", "optimizer"}
    assert all(value > 0 for value in trial.parts.values())
    assert 0 < trial.loss < 5
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (torch.get_num_threads(), torch.get_deterministic_debug_mode()) == before[1:]
    assert {event["kind"] for event in kept.events} <= {"ledger"}
    assert setup.recorder.ledger().seconds.keys() == seconds.keys()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_burst_does_not_reach_the_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of five steps are caught by something else; and steps go on until they took the time that is asked for."""
    slow, calls = iter([0.0, 0.5, 0.0, 0.5, 0.0, 0.0]), list[int]()
    plain = Step.__call__

    def step(self: Step, *arguments: Any) -> Outcome:
        calls.append(1)
        time.sleep(next(slow, 0.02))
        return plain(self, *arguments)

    monkeypatch.setattr(Step, "__call__", step)
    setup = small.setup(tmp_path, small.plan())
    assert step_seconds(setup, steps=5).seconds < 0.25
    assert len(calls) == 6
    step_seconds(setup, steps=2, seconds=0.2)
    assert 6 + 1 + 2 <= len(calls) <= 6 + 1 + 10


@pytest.mark.parametrize("micro_batch", [3, 8])
def test_trials_take_the_same_steps_whatever_the_micro_batch(tmp_path: Path, micro_batch: int) -> None:
    losses = [
        step_seconds(small.setup(tmp_path, small.plan(micro_batch_size=size)), steps=2).loss
        for size in (micro_batch, 1)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_portions_go_on_where_the_last_one_ended(tmp_path: Path) -> None:
    """So that several settings can be timed in turns: the first step is paid once, and training moves on."""
    whole = step_seconds(small.setup(tmp_path, small.plan()), steps=5)
    with opened(small.setup(tmp_path, small.plan())) as trials:
        portions = [trials.measure(steps) for steps in (2, 3)]
    assert [len(portion.taken) for portion in portions] == [2, 3]
    assert portions[1].loss == whole.loss != portions[0].loss


def test_what_a_checkpoint_costs_is_measured_on_real_ones(tmp_path: Path) -> None:
    with opened(small.setup(tmp_path, small.plan())) as trials:
        first = trials.measure(1)
        place = tmp_path / "checkpoints"
        place.mkdir()
        assert trials.save_seconds(place) > 0
        assert [path.name for path in place.iterdir()] == ["step-00000002"]
        assert trials.measure(1).loss != first.loss, "training goes on"
