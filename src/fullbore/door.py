"""The Python door: what the command line does, as functions, and a run as an object."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullbore.base.errors import InputError
from fullbore.record.ledger import Ledger
from fullbore.record.progress import Progress, no_progress

if TYPE_CHECKING:
    from fullbore.models.weights import LoadedModel
    from fullbore.spec.job import Job


@dataclass(frozen=True)
class Model:
    """A trained model, ready to answer."""

    loaded: LoadedModel

    def generate(self, prompt: str, *, max_tokens: int = 64, temperature: float = 0.0, seed: int | None = None) -> str:
        """What a causal language model writes after `prompt`; temperature 0 takes the likeliest token each time.

        Raises InputError if the model does something else.
        """
        from fullbore.models.generate import generate

        tokenizer = self.loaded.tokenizer
        if self.loaded.task.kind != "causal_lm" or tokenizer is None:
            raise InputError(f"{self.loaded.name}: does {self.loaded.task.kind}, not causal_lm", hint="use predict")
        end = tokenizer.end_of_text
        tokens = [int(token) for token in tokenizer.encode(prompt)] or [end]
        written = generate(
            self.loaded.module,
            tokens,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            stop_ids=[end],
        )
        return tokenizer.decode([token for token in written if token != end])

    def predict(self, samples: Sequence[Any]) -> list[dict[str, Any]]:
        """{"label", "score", "scores"} (classification) or {"value"} (regression) for each text, row or image.

        Raises InputError if a sample does not fit the model.
        """
        from fullbore.models.predict import predict

        return predict(self.loaded, samples)


@dataclass(frozen=True)
class Run:
    """A run on disk, finished or not."""

    name: str
    folder: Path
    result: Mapping[str, Any]
    """What `run --json` ends with; empty if the run has not ended by itself."""

    @classmethod
    def find(cls, name: str = "last") -> Run:
        """The run called `name`, `last` for the newest, or a path to a run folder. Raises InputError."""
        from fullbore.record.run import find

        found = find(name)
        return cls(found.name, found.paths.folder, found.result() or {})

    @property
    def ledger(self) -> Ledger:
        """Where its time went."""
        from fullbore.base.paths import RunPaths
        from fullbore.record import read

        written = self.result.get("ledger")
        return (
            Ledger.from_json(written, self.result.get("busy"))
            if written
            else read.ledger(RunPaths(self.folder).events())
        )

    @property
    def metrics(self) -> Mapping[str, float]:
        """What the model reached on held-out samples."""
        return dict(self.result.get("metrics") or {})

    @cached_property
    def model(self) -> Model:
        """Its model: the compressed one, else the trained one; loaded when first asked for. Raises InputError."""
        from fullbore.flow.serve import model_folder
        from fullbore.models import weights

        return Model(weights.load(model_folder(str(self.folder))))


def run(
    target: str | Path | Job,
    overrides: Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
    progress: Progress = no_progress,
) -> Run:
    """Run a job: a TOML path, `module:function`, or a Job. `overrides` are what `--set` takes: {"train.budget": "60s"}.

    Its ledger begins with this call. Raises what the job raises (FullboreError).
    """
    began = time.time()
    from fullbore.flow.run import run as execute
    from fullbore.spec.load import load

    result = execute(load(target, overrides), name=name, progress=progress, began=began)
    return Run.find(result["run"])


def resume(name: str = "last", *, progress: Progress = no_progress) -> Run:
    """Go on with a run that was stopped, killed or failed. Raises UsageError if it is finished."""
    began = time.time()
    from fullbore.flow.run import resume as execute

    return Run.find(execute(name, progress=progress, began=began)["run"])


def check(target: str | Path | Job, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a job would do here: choices, predicted duration, rate and memory. Raises DoesNotFit."""
    from fullbore.flow.check import check as predict
    from fullbore.spec.load import load

    return predict(load(target, overrides))


def explain(name: str = "last") -> dict[str, Any]:
    """Where a run's time went, what limited it and what to change."""
    from fullbore.flow.explain import explain as answer

    return answer(name)
