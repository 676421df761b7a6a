"""Checkpoints: written beside the training, whole or not at all; resuming takes the newest that is intact.

`checkpoints/step-00001234/` is an artifact of kind `checkpoint`: model.safetensors (parameters and buffers),
optimizer.safetensors (`<parameter>/<moment>`), best.safetensors (the weights that were judged best, where these are
others), state.json (the Position) and the manifest with a checksum of each. So any one checkpoint is all that a run
needs, and how often the network improves costs no saving. `checkpoints/best.json` says where the best weights lie.
Ranks are replicas: rank 0 writes alone.

The files are safetensors and JSON, not what torch.distributed.checkpoint writes by default: its `.metadata` is a
pickle, and nothing that lies on a disk is unpickled here. DCP's own HuggingFaceStorageReader opens model.safetensors
and optimizer.safetensors as they are, so sharded training can load them to any number of ranks.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fullbore.base.errors import InputError, RunFailed
from fullbore.base.files import remove_drafts, write_atomic
from fullbore.base.log import logger
from fullbore.record import artifact
from fullbore.record.ledger import State
from fullbore.record.span import Recorder
from fullbore.train.build import Optimizer

KIND = "checkpoint"
_MODEL, _OPTIMIZER, _BEST, _STATE = "model.safetensors", "optimizer.safetensors", "best.safetensors", "state.json"

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Best:
    step: int
    value: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class Position:
    """Where a run stands, apart from its tensors; random numbers are a pure function of the step."""

    step: int = 0
    """Steps done."""
    loss: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the last evaluation."""
    best: Best | None = None
    worse: int = 0
    """Evaluations since the best one."""
    feed: dict[str, Any] = field(default_factory=dict)
    plan: str = ""
    """Digest of the plan that made it."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Position:
        best = value["best"]
        return cls(**{**value, "best": None if best is None else Best(**best)})


def weights(network: nn.Module) -> Tensors:
    """Parameters and persistent buffers by name, shared ones once."""
    found: Tensors = {}
    seen: set[int] = set()
    for name, tensor in network.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor.detach()
    return found


def restore(mine: Tensors, stored: Tensors, source: Path) -> None:
    """Copy `stored` into `mine`. Raises InputError if they are of another network; `source` is where they come from."""
    for name in sorted(stored.keys() | mine.keys()):
        found, expected = (tuple(t[name].shape) if name in t else None for t in (stored, mine))
        if found != expected:
            raise InputError(
                f"{source}: {name} has shape {found}, expected {expected}",
                hint="resume with the [model] and [train] sections that the run began with",
            )
    for name, tensor in mine.items():
        tensor.copy_(stored[name])


def load(folder: Path, network: nn.Module, optimizer: Optimizer) -> tuple[Position, Tensors]:
    """Make network and optimizer what they were; returns where the run stood and the best weights (empty if none were
    judged yet). Raises InputError if the checkpoint is of another network."""
    for file, mine in ((_MODEL, weights(network)), (_OPTIMIZER, optimizer.state())):
        restore(mine, load_file(folder / file), folder / file)
    position = Position.from_json(json.loads((folder / _STATE).read_text()))
    best = position.best
    return position, {} if best is None else load_file(folder / (_MODEL if best.step == position.step else _BEST))


class Checkpoints:
    """A run's checkpoints. `save` copies the state and returns; one thread writes it."""

    def __init__(self, folder: Path, keep: int, recorder: Recorder, metric: str = "") -> None:
        self.folder = folder
        self._keep, self._recorder, self._metric = keep, recorder, metric
        self._copies: dict[str, Tensors] = {_MODEL: {}, _OPTIMIZER: {}}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="fullbore-checkpoint")
        self._writing: Future[str | None] | None = None
        self._best: Tensors = {}
        self._position: Position | None = None
        self._failures = 0

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Steps that there are checkpoints of, oldest first."""
        return sorted(int(path.name[5:]) for path in self.folder.glob("step-*") if path.name[5:].isdigit())

    def newest(self) -> tuple[int | None, list[str]]:
        """The step of the newest intact checkpoint, and why newer ones are not used; those are renamed `damaged-*`.

        Every byte is read. Drafts of a killed process are removed.
        """
        remove_drafts(self.folder)
        skipped: list[str] = []
        for step in reversed(self.steps()):
            try:
                artifact.require_intact(artifact.read(self.path(step), KIND))
            except InputError as error:
                skipped.append(error.message)
                aside = self.folder / f"damaged-{self.path(step).name}"
                shutil.rmtree(aside, ignore_errors=True)
                self.path(step).rename(aside)
                self._say("warning", f"{error.message}; this checkpoint is not used, it is kept as {aside.name}")
            else:
                return step, skipped
        return None, skipped

    def save(self, position: Position, network: nn.Module, optimizer: Optimizer, best: Tensors) -> None:
        """Copy the state and let it be written, once the checkpoint before is. `best` is not copied: leave it alone.

        Raises RunFailed if the weights are not finite, or if two checkpoints in a row could not be written.
        """
        with self._recorder.state(State.CHECKPOINT):
            began = time.perf_counter()
            self._require_finite(position.step, network)
            self._await()
            _copy(weights(network), self._copies[_MODEL])
            _copy(optimizer.state(), self._copies[_OPTIMIZER])
            self._best = best if position.best is not None and position.best.step != position.step else {}
            self._position = position
            self._writing = self._pool.submit(self._write, position, time.perf_counter() - began)

    def finish(self) -> None:
        """Wait until what was saved last is durable; one that failed is tried again. Raises RunFailed."""
        with self._recorder.state(State.CHECKPOINT):
            self._await()
            if self._failures and self._position is not None:
                self._writing = self._pool.submit(self._write, self._position, 0.0)
                self._await()

    def close(self) -> None:
        with self._recorder.state(State.CHECKPOINT):
            self._pool.shutdown()

    def last_good(self) -> str:
        """For messages: the newest checkpoint, once what is being written is."""
        self._pool.shutdown()
        steps = self.steps()
        return f"the last good checkpoint is {self.path(steps[-1])}" if steps else "there is no checkpoint yet"

    def _require_finite(self, step: int, network: nn.Module) -> None:
        for name, tensor in weights(network).items():
            if tensor.is_floating_point() and tensor.numel():
                low, high = torch.aminmax(tensor)
                if not (torch.isfinite(low) and torch.isfinite(high)):
                    raise RunFailed(
                        f"step {step}: the weights of {name} are not finite; {self.last_good()}",
                        hint="lower train.learning_rate, or set train.clip",
                    )

    def _await(self) -> None:
        if self._writing is None:
            return
        problem, self._writing = self._writing.result(), None
        self._failures = self._failures + 1 if problem else 0
        if self._failures > 1:
            raise RunFailed(problem or "", hint="make room on the disk, then resume the run")

    def _write(self, position: Position, exposed: float) -> str | None:
        """The events of the steps behind it are durable first, so that a resumed run has no hole in its record."""
        began = time.perf_counter()
        try:
            with artifact.create(self.path(position.step), KIND) as draft:
                for name, tensors in self._copies.items():
                    save_file(tensors, draft.folder / name)
                if self._best:
                    save_file(self._best, draft.folder / _BEST)
                (draft.folder / _STATE).write_text(json.dumps(asdict(position), indent=1) + "\n")
                draft.info |= {"step": position.step, "loss": position.loss, "plan": position.plan}
                draft.info |= {"metric": position.metrics.get(self._metric)}
                self._recorder.settle()
            self._name_best(position)
            for step in self.steps()[: -self._keep]:
                shutil.rmtree(self.path(step), ignore_errors=True)
        except (OSError, SafetensorError) as error:
            problem = f"the checkpoint of step {position.step} could not be written to {self.folder}: {error}"
            self._say("warning", f"{problem}; those before it are intact")
            return problem
        seconds = time.perf_counter() - began
        self._recorder.busy("checkpoint", seconds)
        self._recorder.event(
            "checkpoint",
            step=position.step,
            seconds_exposed=exposed,
            seconds_background=seconds,
            bytes=artifact.read(self.path(position.step)).bytes,
            best=position.best is not None and position.best.step == position.step,
        )
        return None

    def _name_best(self, position: Position) -> None:
        if position.best is None:
            return
        named = {
            "step": position.best.step,
            "metric": self._metric,
            "value": position.best.value,
            "file": f"{self.path(position.step).name}/{_BEST if self._best else _MODEL}",
        }
        write_atomic(self.folder / "best.json", json.dumps(named, indent=1) + "\n")

    def _say(self, level: str, text: str) -> None:
        self._recorder.event("message", level=level, text=text)
        logger.warning(text)


def _copy(source: Tensors, target: Tensors) -> None:
    """Into the memory of the copy before, where there is one."""
    for name, tensor in source.items():
        if name in target:
            target[name].copy_(tensor)
        else:
            target[name] = tensor.clone(memory_format=torch.contiguous_format)
