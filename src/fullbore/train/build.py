"""From the `[train]` section to an optimizer, a learning rate for each step and what regularisation adds."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from fullbore.spec.train import TrainSection


def decayed(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that weight decay, L1 and L2 apply to: matrices and kernels; no norms, biases or embeddings."""
    embeddings = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    return [p for p in module.parameters() if p.requires_grad and p.ndim > 1 and id(p) not in embeddings]


def optimizer(module: nn.Module, section: TrainSection) -> Optimizer:
    """AdamW (Loshchilov and Hutter 2019) or SGD with momentum; its learning rate is set at every step.

    Fused: on the CPU AdamW of 5 M parameters takes 2.3 ms fused, 8.5 ms parameter by parameter, 33 ms by foreach.
    """
    chosen = decayed(module)
    names = {id(p) for p in chosen}
    others = [p for p in module.parameters() if p.requires_grad and id(p) not in names]
    groups = [
        {"params": chosen, "weight_decay": section.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    rate = section.learning_rate
    if section.optimizer == "sgd":
        return SGD(groups, lr=rate, momentum=section.momentum, fused=True)
    return AdamW(groups, lr=rate, betas=(0.9, section.beta2), fused=True)


def learning_rate(section: TrainSection, steps: int, warmup_steps: int, step: int) -> float:
    """The rate of step `step` (from 0) of `steps`: a linear rise, then the schedule, down to its final share."""
    if step < warmup_steps:
        return section.learning_rate * (step + 1) / warmup_steps
    if section.schedule == "constant":
        return section.learning_rate
    past = min(1.0, (step - warmup_steps) / max(1, steps - 1 - warmup_steps))
    falling = 1 - past if section.schedule == "linear" else (1 + math.cos(math.pi * past)) / 2
    return section.learning_rate * (section.final_learning_rate + (1 - section.final_learning_rate) * falling)


class Gradients:
    """What happens to summed gradients before the optimizer sees them."""

    def __init__(self, module: nn.Module, section: TrainSection) -> None:
        self._all = [p for p in module.parameters() if p.requires_grad]
        self._decayed = decayed(module)
        self._section = section

    @torch.no_grad()
    def finish(self, units: float) -> float:
        """Gradients of a sum over `units` become those of the mean + l1·Σ|w| + l2·Σw², clipped; returns the norm
        before clipping."""
        section = self._section
        gradients = [p.grad for p in self._all if p.grad is not None]
        scale = 1 / units if units else 0.0
        if section.l1 or section.l2:
            torch._foreach_mul_(gradients, scale)
            scale = 1.0
            self._penalise()
        norm = scale * float(nn.utils.get_total_norm(gradients))
        if section.clip is not None and norm > section.clip:
            scale *= section.clip / norm
        if scale != 1:
            torch._foreach_mul_(gradients, scale)
        return norm

    def _penalise(self) -> None:
        weights: list[Tensor] = [p for p in self._decayed if p.grad is not None]
        gradients: list[Tensor] = [p.grad for p in self._decayed if p.grad is not None]
        if self._section.l1:
            torch._foreach_add_(gradients, torch._foreach_sign(weights), alpha=self._section.l1)
        if self._section.l2:
            torch._foreach_add_(gradients, weights, alpha=2 * self._section.l2)
