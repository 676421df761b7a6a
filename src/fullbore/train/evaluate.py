"""Judging a network on held-out samples, every rank its part."""

from __future__ import annotations

import torch
from torch import nn

from fullbore.record.ledger import State
from fullbore.train import precision
from fullbore.train.parallel import Exchange
from fullbore.train.setup import TrainSetup


@torch.no_grad()
def evaluate(
    setup: TrainSetup, network: nn.Module, exchange: Exchange, limit: int | None = None
) -> dict[str, float] | None:
    """The task's metrics on the validation samples (with `limit`, on so many of them); none if there are none.

    Runs in eval mode and in the plan's precision; leaves the network in the mode that it was in.
    """
    if setup.validation is None:
        return None
    sums: dict[str, float] = {}
    training, device = network.training, next(network.parameters()).device
    with setup.recorder.state(State.EVALUATE):
        network.eval()
        with precision.autocast(setup.plan.precision, device):
            for batch in setup.validation(limit=limit):
                moved = {name: value.to(device) for name, value in batch.items()}
                for key, value in setup.task.judge(network, moved).items():
                    sums[key] = sums.get(key, 0.0) + value
        network.train(training)
        total = exchange.sums(sums)
        return setup.task.metrics(total) if total else None
