"""The Python door: what each verb of the command line does, as a function, and a run as an object.

The verbs call these functions and print what they return.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullbore.base.errors import InputError
from fullbore.flow import runs
from fullbore.record.ledger import Ledger
from fullbore.record.progress import Progress, no_progress

if TYPE_CHECKING:
    from fullbore.models.weights import LoadedModel
    from fullbore.perf.measure.ledger import LoopLedger
    from fullbore.record.run import RunFolder
    from fullbore.spec.job import Job
    from fullbore.spec.load import LoadedJob

__all__ = [
    "Model",
    "Run",
    "bench",
    "check",
    "compress",
    "doctor",
    "explain",
    "explain_traces",
    "init",
    "inspect",
    "pack",
    "report",
    "resume",
    "roofline",
    "run",
    "runs",
    "schema",
    "serve",
    "tune",
]

Overrides = Mapping[str, Any]
"""What `--set` takes, by key: {"train.budget": "60s"}."""


def to_stderr(text: str) -> None:
    """A line to stderr: where notes go unless the caller hands in a `notify`."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


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

    def report(self, output: Path | None = None) -> Path:
        """Write its report to `output` (none: `report.html` in its folder) and return where it is. Raises OSError."""
        from fullbore.record.run import find
        from fullbore.ui.report import write

        return write(find(str(self.folder)), output)


def _report(folder: RunFolder) -> Path:
    """Write a run's report; what draws it is imported when there is something to draw, not before the run begins."""
    from fullbore.ui.report import write

    return write(folder)


def run(
    target: str | Path | Job,
    overrides: Overrides | None = None,
    *,
    name: str | None = None,
    progress: Progress = no_progress,
    notify: Callable[[str], None] = to_stderr,
    began: float | None = None,
) -> Run:
    """Run a job: a TOML path, `module:function`, or a Job. Its folder gets a report too.

    `notify` is told each automatic choice with its reason, and how each stage went. The ledger begins at `began`
    (seconds since the epoch; none means with this call). Raises what the job raises (FullboreError).
    """
    started = time.time() if began is None else began
    from fullbore.base.paths import runs_root
    from fullbore.flow.run import run as execute
    from fullbore.spec.load import load

    job = load(target, overrides)
    result = execute(job, name=name, progress=progress, notify=notify, write_report=_report, began=started)
    return Run(result["run"], runs_root() / result["run"], result)


def resume(
    name: str = "last",
    *,
    progress: Progress = no_progress,
    notify: Callable[[str], None] = to_stderr,
    began: float | None = None,
) -> Run:
    """Go on with a run that was stopped, killed or failed, as `run` does. Raises UsageError if it is finished."""
    started = time.time() if began is None else began
    from fullbore.flow.run import resume as execute

    found = Run.find(name)
    result = execute(str(found.folder), progress=progress, notify=notify, write_report=_report, began=started)
    return replace(found, result=result)


def check(target: str | Path | Job, overrides: Overrides | None = None, *, resolved: bool = False) -> dict[str, Any]:
    """What a job would do here: choices, predicted duration, rate and memory (schema 1). Raises DoesNotFit.

    `resolved` adds every setting with its value as TOML and its origin.
    """
    from fullbore.flow.check import check as predict
    from fullbore.spec.load import load

    job = load(target, overrides)
    answer = predict(job)
    return {**answer, "resolved": _settings(job)} if resolved else answer


def _settings(loaded: LoadedJob) -> dict[str, dict[str, str]]:
    """Dotted key → value as TOML, and where it was written."""
    from fullbore.spec.write import toml_value

    def value(key: str) -> Any:
        section, _, name = key.partition(".")
        held = getattr(loaded.job, section)
        return getattr(held, name) if name else held

    return {
        key: {"value": toml_value(value(key)) if value(key) is not None else "–", "origin": origin}
        for key, origin in loaded.origins.items()
    }


def explain(name: str | LoopLedger = "last", what_if: Overrides | None = None) -> dict[str, Any]:
    """Where a run's time went, or that of a `fullbore.ledger()`, what limited it and what to change (schema 1).

    `what_if`: settings of which is told, too (`if`), what the run would have taken with them. Raises InputError.
    """
    if not isinstance(name, str):
        from fullbore.flow.loop import explain as of_a_loop

        return of_a_loop(name)
    from fullbore.flow.explain import explain as answer

    return answer(name, what_if)


def roofline(name: str = "last", output: str | Path = "roofline.svg") -> Path:
    """Draw a run's operations under the roofs of its machine, as one SVG. Raises InputError if it did not train."""
    from fullbore.base.files import write_atomic
    from fullbore.base.refusals import about
    from fullbore.flow.explain import explain as answer
    from fullbore.ui.roofline import picture

    told, target = answer(name), Path(output)
    if told["roofline"] is None:
        raise InputError(f"{told['run']}: it trained too little for a roofline", hint="it needs a step and its work")
    with about(target):
        write_atomic(target, picture(told["roofline"], told["run"]))
    return target


def explain_traces(*paths: str | Path, drop_last_step: bool = False) -> dict[str, Any]:
    """Where the time in traces of PyTorch's profiler went, one file of each rank, and what to change (schema 1).

    `drop_last_step` leaves out each trace's last profiler step, as HTA does. Raises UsageError, InputError, OSError.
    """
    from fullbore.flow.trace import explain_traces as answer

    return answer([Path(path) for path in paths], drop_last_step=drop_last_step)


def bench(
    *targets: str,
    overrides: Overrides | None = None,
    against: Overrides | None = None,
    rounds: int | None = None,
    budget: float | None = None,
    metric: str | None = None,
    warm_up: int = 1,
    seed: int = 0,
    out: str | Path | None = None,
    keep: bool = False,
    progress: Progress = no_progress,
    notify: Callable[[str], None] = to_stderr,
) -> dict[str, Any]:
    """Measure two commands or jobs in interleaved pairs, or one against itself, and say what they tell (schema 1).

    `targets`: command lines (no shell), or jobs, whose `overrides` hold for both and `against` for the second, over
    them. Until `rounds` pairs (20) are undisturbed, twice as many are measured, or `budget` seconds are over; `warm_up`
    pairs come first and do not count. `metric`: `seconds`, `cpu_seconds`, `peak_bytes`, or a dotted key of the JSON
    object on the last line of stdout (jobs: their training rate). `out` keeps every pair as JSON; the same question
    goes on from it. Runs of jobs are removed unless `keep`.

    Raises UsageError, JobError, RunFailed for what ends with another exit code than 0, and Interrupted; the `result` of
    the last two is what was measured. From the main thread only if Ctrl-C is to be heard.
    """
    from fullbore.flow.bench import bench as execute

    return execute(
        targets,
        overrides,
        against,
        rounds=rounds,
        budget=budget,
        metric=metric,
        warm_up=warm_up,
        seed=seed,
        out=None if out is None else Path(out),
        keep=keep,
        progress=progress,
        notify=notify,
    )


def tune(
    target: str | Path | Job,
    overrides: Overrides | None = None,
    *,
    budget: float = 300.0,
    also: Sequence[str] = (),
    out: str | Path | None = None,
    force: bool = False,
    again: str = "fullbore tune",
    progress: Progress = no_progress,
    notify: Callable[[str], None] = to_stderr,
) -> dict[str, Any]:
    """Choose what a job leaves open by timing its real step, for `budget` seconds at most, and say what came of it
    (schema 1).

    Open is what the job sets to "auto" or says nothing of, and `also` (keys of `train`). The better job goes to `out`,
    else to `<job>.tuned.toml` beside it; only `force` replaces a file that `tune` did not write. Each trial is a
    process of its own. What was measured is kept: called again, it goes on; `again` is how people do so.

    Raises UsageError, JobError, InputError, DoesNotFit if `budget` ends before the first trial, and Interrupted, whose
    `result` is the answer so far. From the main thread only if Ctrl-C is to be heard.
    """
    from fullbore.flow.tune import tune as execute
    from fullbore.spec.load import load
    from fullbore.ui.tuning import picture

    return execute(
        load(target, overrides),
        budget=budget,
        also=also,
        out=None if out is None else Path(out),
        force=force,
        again=again,
        progress=progress,
        notify=notify,
        draw=picture,
    )


def report(name: str = "last", output: Path | None = None) -> dict[str, Any]:
    """Write a run's report, one HTML file that opens offline; {"run", "report": its path} (schema 1)."""
    found = Run.find(name)
    return {"schema": 1, "run": found.name, "report": str(found.report(output))}


def pack(
    source: str | Path, out: str | Path, overrides: Overrides | None = None, *, progress: Progress = no_progress
) -> dict[str, Any]:
    """Read, clean, split and pack `source` into shards at `out`, without a run (schema 1).

    Overrides are `data.*` settings. Raises UsageError if something else lies at `out`, InputError for bad data.
    """
    from fullbore.flow.pack import pack as execute

    return execute(str(source), str(out), overrides or {}, progress=progress)


def inspect(target: str | Path = "last", *, verify: bool = False) -> dict[str, Any]:
    """What an artifact's folder or a run holds (schema 1). `verify` reads every byte; raises CorruptError."""
    from fullbore.flow.inspect import inspect as answer

    return answer(str(target), verify=verify)


def compress(
    name: str = "last",
    out: str | Path | None = None,
    overrides: Overrides | None = None,
    *,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Make a run's trained model smaller or faster within its quality limit (schema 1).

    It goes to `out`, or else into the run, whose result and report then say so. Overrides are `compress.*` settings.
    Raises GateFailed if no variant qualifies, UsageError while the run is running.
    """
    from fullbore.flow.compress import compress as execute
    from fullbore.ui.report import write

    place = None if out is None else str(out)
    return execute(name, place, overrides or {}, progress=progress, write_report=write)


def serve(
    target: str | Path = "last",
    overrides: Overrides | None = None,
    *,
    ready: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Serve a run's model, or a model folder, over HTTP until SIGTERM or SIGINT. Overrides are `serve.*` settings.

    `ready` is told once requests are accepted: {"target", "url", "models"} (schema 1); none means a line to stderr.
    """
    from fullbore.flow.serve import serve as execute

    execute(str(target), overrides or {}, ready=ready or (lambda answer: to_stderr(f"Serving at {answer['url']}")))


def doctor(*, refresh: bool = False, brief: bool = False) -> dict[str, Any]:
    """This machine, what it was measured to reach (`refresh` measures again) and what it lacks (schema 2).

    `brief`: kernels, by which steps are predicted, are left out: seconds instead of a minute.
    """
    from fullbore.flow.doctor import doctor as answer

    return answer(refresh=refresh, brief=brief)


def schema() -> dict[str, Any]:
    """The JSON Schema of job files, for editors: {"job"} (schema 1)."""
    from fullbore.spec.schema import schema as made

    return {"schema": 1, "job": made()}


def init(kind: str, path: str | Path | None = None, data: str | None = None) -> dict[str, Any]:
    """Write a commented job to start from: {"path", "kind", "next"} (schema 1). Raises UsageError; never overwrites."""
    from fullbore.flow.init import init as write

    return write(kind, None if path is None else Path(path), data)
