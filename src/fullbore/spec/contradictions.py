"""Settings that are each allowed but cannot stand together; every complaint names both places."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fullbore.base.errors import Problem
from fullbore.spec.data import DataSection, TokenizerSection
from fullbore.spec.energy import EnergySection
from fullbore.spec.layers import Layer
from fullbore.spec.model import ATTENTION, BLOCKS, TASKS, DecoderModel, ModelSection, TaskSection, TextCNNModel
from fullbore.spec.section import Section
from fullbore.spec.serve import ServeSection
from fullbore.spec.train import TrainSection

_TEXT_TASKS = ("causal_lm", "masked_lm")


@dataclass(frozen=True)
class Site:
    """Where the settings of a job were written."""

    layer: Layer
    sections: dict[str, Any]

    def written(self, key: str) -> bool:
        return tuple(key.split(".")) in self.layer.where

    def problem(self, key: str, message: str, *others: str) -> Problem:
        """A complaint about `key`; each `{}` in `message` becomes one of the `others`, its value and its place."""
        return Problem(self.layer.place(tuple(key.split("."))), key, message.format(*map(self._named, others)))

    def _named(self, key: str) -> str:
        path = tuple(key.split("."))
        if len(path) == 1:
            return f"[{key}] ({self.layer.place(path)})"
        value = getattr(self.sections[path[0]], path[1])
        return f"{key} = {value} ({self.layer.place(path) if self.written(key) else 'default'})"


Check = Callable[..., Iterator[Problem]]
_CHECKS: list[tuple[tuple[str, ...], Check]] = []


def _about(*names: str) -> Callable[[Check], Check]:
    """Register a check that takes these sections of a job; it is left out if one of them is itself wrong."""

    def register(check: Check) -> Check:
        _CHECKS.append((names, check))
        return check

    return register


def contradictions(layer: Layer, sections: dict[str, Section | None]) -> list[Problem]:
    """Problems between `sections` (name → section, or none if absent; those that are wrong are left out)."""
    site = Site(layer, sections)
    return [
        problem
        for names, check in _CHECKS
        if all(name in sections for name in names)
        for problem in check(site, *(sections[name] for name in names))
    ]


@_about("task", "model", "train", "compress", "serve")
def _stages(site: Site, task: Any, model: Any, train: Any, compress: Any, serve: Any) -> Iterator[Problem]:
    for name, section in (("task", task), ("model", model)):
        if train is not None and section is None:
            yield site.problem("train", f"needs a section [{name}]")
    for name, section in (("compress", compress), ("serve", serve)):
        if section is not None and train is None:
            yield site.problem(name, "needs a section [train]: without one there is no model")
    if model is not None and train is None:
        yield site.problem("model", "needs a section [train]: without one it is never built")


@_about("task", "model", "tokenizer")
def _tokens(site: Site, task: TaskSection | None, model: ModelSection | None, tokenizer: Any) -> Iterator[Problem]:
    if tokenizer is not None:
        return
    if task is not None and task.kind in _TEXT_TASKS:
        yield site.problem("task.kind", f"{task.kind} needs a section [tokenizer]")
    elif model is not None and model.kind == "textcnn":
        yield site.problem("model.kind", "textcnn needs a section [tokenizer]")


@_about("task", "model")
def _pairing(site: Site, task: TaskSection | None, model: ModelSection | None) -> Iterator[Problem]:
    if task is None or model is None or task.kind in TASKS[model.kind]:
        return
    able = ", ".join(kind for kind, tasks in TASKS.items() if task.kind in tasks)
    yield site.problem("model.kind", f"{model.kind} cannot do {{}}; {able} can", "task.kind")


@_about("model")
def _heads(site: Site, model: ModelSection | None) -> Iterator[Problem]:
    if not isinstance(model, DecoderModel):
        return
    for key, message, other in model.misfits():
        yield site.problem(f"model.{key}", message, f"model.{other}")


@_about("model", "train")
def _kernels(site: Site, model: ModelSection | None, train: TrainSection | None) -> Iterator[Problem]:
    if isinstance(model, TextCNNModel) and train is not None and max(model.kernels) > train.sequence_length:
        yield site.problem("model.kernels", f"{max(model.kernels)} is longer than {{}}", "train.sequence_length")


@_about("model", "train")
def _execution(site: Site, model: ModelSection | None, train: TrainSection | None) -> Iterator[Problem]:
    if model is None or train is None:
        return
    if train.attention != "auto" and train.attention not in ATTENTION.get(model.kind, ()):
        kinds = " or ".join(kind for kind, ways in ATTENTION.items() if train.attention in ways)
        yield site.problem("train.attention", f"{train.attention} is for model.kind = {kinds}, not {{}}", "model.kind")
    if train.recompute is True and model.kind not in BLOCKS:
        yield site.problem("train.recompute", f"is for models of blocks ({', '.join(BLOCKS)}), not {{}}", "model.kind")


@_about("train")
def _batches(site: Site, train: TrainSection | None) -> Iterator[Problem]:
    if train is None:
        return
    if train.world_size > train.global_batch_size:
        message = f"{train.world_size} processes cannot share {{}}"
        yield site.problem("train.world_size", message, "train.global_batch_size")
        return
    share = -(-train.global_batch_size // train.world_size)
    if isinstance(train.micro_batch_size, int) and train.micro_batch_size > share:
        message = f"{train.micro_batch_size} is more than the {share} samples of one rank: {{}}, {{}}"
        yield site.problem("train.micro_batch_size", message, "train.global_batch_size", "train.world_size")


@_about("task")
def _task(site: Site, task: TaskSection | None) -> Iterator[Problem]:
    if task is None:
        return
    if task.class_weights != "none" and task.kind != "classification":
        yield site.problem(
            "task.class_weights", f"{task.class_weights} is for classification only, not {{}}", "task.kind"
        )
    if task.baselines and task.kind != "causal_lm":
        yield site.problem("task.baselines", "are for causal_lm only, not {}", "task.kind")
    if task.mask_share != TaskSection.model_fields["mask_share"].default and task.kind != "masked_lm":
        yield site.problem("task.mask_share", "is for masked_lm only, not {}", "task.kind")


@_about("task", "train")
def _budget(site: Site, task: TaskSection | None, train: TrainSection | None) -> Iterator[Problem]:
    if task is not None and train is not None and train.budget.unit == "tokens" and task.kind not in _TEXT_TASKS:
        message = (
            f"{train.budget}: only language models count tokens; expected time, steps, samples or epochs with {{}}"
        )
        yield site.problem("train.budget", message, "task.kind")


@_about("data", "train")
def _held_out(site: Site, data: DataSection, train: TrainSection | None) -> Iterator[Problem]:
    if data.validation + data.test >= 1:
        message = f"{data.validation:g} leaves nothing to train on beside {{}}"
        yield site.problem("data.validation", message, "data.test")
    if train is not None and train.early_stopping is not None and data.validation == 0:
        yield site.problem("train.early_stopping", "needs validation samples, but {}", "data.validation")


@_about("data", "compress")
def _judged(site: Site, data: DataSection, compress: Any) -> Iterator[Problem]:
    """Images and IDX files may say themselves which samples are held out."""
    if compress is None or data.validation or data.test or data.format in ("images", "idx"):
        return
    message = "has no held-out samples to judge variants on: {}, {}; raise one of them, or leave [compress] out"
    if data.format == "auto":
        message += '; files that hold a validation or test split of their own need data.format = "images" or "idx"'
    yield site.problem("compress", message, "data.validation", "data.test")


@_about("data", "task")
def _labels(site: Site, data: DataSection, task: TaskSection | None) -> Iterator[Problem]:
    if task is not None and task.kind not in _TEXT_TASKS and data.format in ("csv", "jsonl") and data.label is None:
        yield site.problem(
            "data.label", f"missing; {task.kind} needs the column that holds the answer with {{}}", "data.format"
        )


@_about("tokenizer")
def _tokenizer(site: Site, tokenizer: TokenizerSection | None) -> Iterator[Problem]:
    if tokenizer is None:
        return
    if tokenizer.kind == "folder" and tokenizer.folder is None:
        yield site.problem(
            "tokenizer.folder", "missing; expected a folder with tokenizer.json for {}", "tokenizer.kind"
        )
    if tokenizer.kind != "folder" and tokenizer.folder is not None:
        yield site.problem("tokenizer.folder", "is for kind = folder only, not {}", "tokenizer.kind")


@_about("serve", "task")
def _served(site: Site, serve: ServeSection | None, task: TaskSection | None) -> Iterator[Problem]:
    if serve is not None and task is not None and task.kind == "masked_lm":
        yield site.problem("serve", "has no answer to give of {}; leave [serve] out", "task.kind")


@_about("serve")
def _answers(site: Site, serve: ServeSection | None) -> Iterator[Problem]:
    if serve is not None and serve.prompt_tokens > serve.max_tokens:
        yield site.problem("serve.prompt_tokens", f"{serve.prompt_tokens} is more than {{}}", "serve.max_tokens")


@_about("energy")
def _watts(site: Site, energy: EnergySection | None) -> Iterator[Problem]:
    if energy is None:
        return
    idle, busy = energy.idle_watts, energy.busy_watts
    if (idle is None) != (busy is None):
        known, missing = ("busy", "idle") if idle is None else ("idle", "busy")
        yield site.problem(
            f"energy.{missing}_watts",
            "missing; a machine's draw goes from one to the other: {}",
            f"energy.{known}_watts",
        )
    elif idle is not None and busy is not None and busy < idle:
        yield site.problem("energy.busy_watts", f"{busy:g} is less than {{}}", "energy.idle_watts")
