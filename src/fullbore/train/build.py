"""From the `[train]` section to a learning rate for each step and an optimizer.

The optimizer calls torch's fused kernels by their functional form. Fused: AdamW of 5 M parameters takes 2.3 ms on two
cores, 8.5 ms parameter by parameter, 33 ms by foreach. Functional: the kernel itself turns the gradient of a sum into
the clipped gradient of a mean, and a torch.optim.Optimizer imports the compiler when it is made (about 1 s).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim._muon import muon
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from fullbore.spec.train import TrainSection

_EPSILON = 1e-8
_BETA1_BESIDE_MUON = 0.9
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_STEPS = 5


def learning_rate(section: TrainSection, steps: int, warmup_steps: int, step: int) -> float:
    """The rate of step `step` (from 0) of `steps`: a linear rise, then the schedule, down to its final share."""
    if step < warmup_steps:
        return section.learning_rate * (step + 1) / warmup_steps
    if section.schedule == "constant":
        return section.learning_rate
    past = min(1.0, (step - warmup_steps) / max(1, steps - 1 - warmup_steps))
    falling = 1 - past if section.schedule == "linear" else (1 + math.cos(math.pi * past)) / 2
    return section.learning_rate * (section.final_learning_rate + (1 - section.final_learning_rate) * falling)


@dataclass(frozen=True)
class _Slot:
    """A parameter and what the optimizer remembers of it."""

    weight: nn.Parameter
    moments: dict[str, Tensor]


class Optimizer:
    """AdamW (Loshchilov and Hutter 2019), SGD with momentum, or Muon, with L1, L2 and clipping.

    Muon (Jordan 2024) steps along the orthogonalised momentum of each matrix, scaled to the size of AdamW's steps (Liu
    et al. 2025, Muon is Scalable for LLM Training), so that one learning rate fits both; what is no matrix, and
    embeddings, take AdamW's steps. Weight decay, L1 and L2 apply to matrices and kernels: not to norms, biases and
    embeddings. A parameter without a gradient stays as it is.
    """

    def __init__(self, network: nn.Module, section: TrainSection) -> None:
        self._section = section
        embeddings = {id(part.weight) for part in network.modules() if isinstance(part, nn.Embedding)}
        trained = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
        turned = [
            w for w in trained.values() if section.optimizer == "muon" and w.ndim == 2 and id(w) not in embeddings
        ]
        self._turned = {id(weight) for weight in turned}
        self._slots = {name: _Slot(weight, self._moments(weight)) for name, weight in trained.items()}
        slots = self._slots.values()
        self._decayed = [s for s in slots if s.weight.ndim > 1 and id(s.weight) not in embeddings]
        chosen = {id(slot) for slot in self._decayed}
        self._others = [slot for slot in slots if id(slot) not in chosen]

    def _moments(self, weight: Tensor) -> dict[str, Tensor]:
        if self._section.optimizer == "sgd" or id(weight) in self._turned:
            return {"momentum": torch.zeros_like(weight)}
        return {
            "first": torch.zeros_like(weight),
            "second": torch.zeros_like(weight),
            "step": torch.zeros((), dtype=torch.float32, device=weight.device),
        }

    def state(self) -> dict[str, Tensor]:
        """All that it remembers, by `<parameter>/<moment>`; restored by copying into these."""
        return {f"{name}/{key}": value for name, slot in self._slots.items() for key, value in slot.moments.items()}

    @torch.no_grad()
    def step(self, units: float, rate: float) -> float:
        """Take a step of the loss that the gradients are the sum over `units` of, made a mean, + l1·Σ|w| + l2·Σw².

        Returns the gradient's norm before clipping. If that is not finite no parameter changes.
        """
        scale = 1 / units if units else 0.0
        if self._section.l1 or self._section.l2:
            self._penalise(scale)
            scale = 1.0
        gradients = [slot.weight.grad for slot in self._slots.values() if slot.weight.grad is not None]
        norm = scale * float(nn.utils.get_total_norm(gradients))
        if math.isfinite(norm):
            clip = self._section.clip
            if clip is not None and norm > clip:
                scale *= clip / norm
            divisor = torch.tensor(1 / scale if scale else math.inf)
            decay = self._section.weight_decay
            self._turn([s for s in self._decayed if id(s.weight) in self._turned], rate, divisor)
            self._update([s for s in self._decayed if id(s.weight) not in self._turned], decay, rate, divisor)
            self._update(self._others, 0.0, rate, divisor)
        for slot in self._slots.values():
            slot.weight.grad = None
        return norm

    def _penalise(self, scale: float) -> None:
        for slot in self._slots.values():
            if slot.weight.grad is not None:
                slot.weight.grad.mul_(scale)
        for slot in self._decayed:
            if slot.weight.grad is not None:
                slot.weight.grad.add_(slot.weight.sign(), alpha=self._section.l1)
                slot.weight.grad.add_(slot.weight, alpha=2 * self._section.l2)

    def _turn(self, slots: list[_Slot], rate: float, divisor: Tensor) -> None:
        touched = [slot for slot in slots if slot.weight.grad is not None]
        muon(
            [slot.weight for slot in touched],
            [slot.weight.grad.div_(divisor) for slot in touched if slot.weight.grad is not None],
            [slot.moments["momentum"] for slot in touched],
            lr=rate,
            weight_decay=self._section.weight_decay,
            momentum=self._section.momentum,
            nesterov=True,
            ns_coefficients=_NEWTON_SCHULZ,
            ns_steps=_NEWTON_SCHULZ_STEPS,
            eps=1e-7,
            adjust_lr_fn="match_rms_adamw",
            has_complex=False,
        )

    def _update(self, slots: list[_Slot], decay: float, rate: float, divisor: Tensor) -> None:
        """The kernels divide the gradients by `divisor` on the way."""
        touched = [slot for slot in slots if slot.weight.grad is not None]
        weights: list[Tensor] = [slot.weight for slot in touched]
        gradients = [slot.weight.grad for slot in touched if slot.weight.grad is not None]

        def moments(key: str) -> list[Tensor]:
            return [slot.moments[key] for slot in touched]

        if self._section.optimizer == "sgd":
            sgd(
                weights,
                gradients,
                list[Tensor | None](moments("momentum")),
                fused=True,
                grad_scale=divisor,
                weight_decay=decay,
                momentum=self._section.momentum,
                lr=rate,
                dampening=0.0,
                nesterov=False,
                maximize=False,
            )
            return
        adamw(
            weights,
            gradients,
            moments("first"),
            moments("second"),
            [],
            moments("step"),
            fused=True,
            grad_scale=divisor,
            amsgrad=False,
            beta1=_BETA1_BESIDE_MUON if self._section.optimizer == "muon" else self._section.momentum,
            beta2=self._section.beta2,
            lr=rate,
            weight_decay=decay,
            eps=_EPSILON,
            maximize=False,
        )
