"""What tuning came to: the answer, its reasons, and the better job file."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullbore.base.errors import UsageError
from fullbore.base.files import write_atomic
from fullbore.base.refusals import about
from fullbore.base.units import format_seconds, format_share, plural
from fullbore.flow.trials import Trial, name_of
from fullbore.perf.measure import stats
from fullbore.perf.plan import steps
from fullbore.perf.plan.choose import Setting
from fullbore.perf.plan.space import KEYS, label
from fullbore.spec.layers import SET
from fullbore.spec.load import LoadedJob, to_toml
from fullbore.spec.model import MIXING
from fullbore.spec.train import TrainSection
from fullbore.spec.write import toml_value

if TYPE_CHECKING:
    from fullbore.flow.tuning import Tuning

Draw = Callable[[Mapping[str, Any]], str]
"""From the answer to an SVG: predicted beside measured."""
HEAD = "# Written by fullbore tune"


def place(loaded: LoadedJob, out: Path | None, force: bool) -> Path:
    """Where the better job goes: `out`, else `<job>.tuned.toml` beside the job, or here if that is no file.

    Raises UsageError if something else than a file of `tune` lies there and it is not to be forced.
    """
    beside = (
        loaded.path.with_suffix(".tuned.toml") if loaded.path is not None else Path(f"{loaded.job.name}.tuned.toml")
    )
    chosen = out or beside
    with about(chosen):
        if not chosen.parent.is_dir():
            raise UsageError(
                f"{chosen}: there is no folder {chosen.parent}", hint="make it first, or name another place"
            )
        if loaded.path is not None and chosen.exists() and chosen.samefile(loaded.path):
            raise UsageError(f"{chosen}: is the job that is tuned", hint="name another file with --out")
        if chosen.exists() and not force and not chosen.read_text(errors="replace").startswith(HEAD):
            raise UsageError(
                f"{chosen} exists and was not written by fullbore tune", hint="--force replaces it, --out names another"
            )
    return chosen


def answer(
    tuning: Tuning, chosen: Setting, stands: Setting, status: str, budget: float, out: Path, draw: Draw
) -> dict[str, Any]:
    """What was measured and what it tells (schema 1); the better job, the table and the picture are written."""
    changes = list(_changes(tuning, chosen))
    folder = tuning.lab.folder
    made: dict[str, Any] = {
        "schema": 1,
        "job": tuning.loaded.job.name,
        "status": status,
        "budget_seconds": budget,
        "seconds": budget - tuning.lab.remaining,
        "settings": len(tuning.settings),
        "tried": len({trial.setting for trial in tuning.kept.trials} & set(tuning.settings)),
        "knobs": {KEYS[name]: list(values) for name, values in tuning.space.values.items()},
        "trials": [_row(tuning, trial, chosen) for trial in tuning.kept.trials],
        "stopped": tuning.stopped,
        "left": None if tuning.left is None else asdict(tuning.left),
        "chosen": asdict(chosen),
        "chosen_label": label(chosen),
        "as_it_stands": asdict(stands),
        "as_it_stands_label": label(stands),
        "changes": changes,
        "gain": _gain(tuning, chosen, stands),
        "noise": _noise(tuning, stands),
        "rounds": len(tuning.rounds),
        "machine": tuning.ceilings.fingerprint,
        "folder": str(folder),
        "table": str(folder / "trials.jsonl"),
        "picture": str(folder / "predicted-measured.svg"),
        "out": str(out),
    }
    write_atomic(folder / "predicted-measured.svg", draw(made))
    write_atomic(folder / "answer.json", json.dumps(made, indent=1) + "\n")
    with about(out):
        write_atomic(out, job_file(tuning.loaded, made, out))
    return made


def _row(tuning: Tuning, trial: Trial, chosen: Setting) -> dict[str, Any]:
    row: dict[str, Any] = {
        "setting": asdict(trial.setting),
        "label": label(trial.setting),
        "status": trial.status,
        "told": trial.told,
        "predicted_seconds": trial.predicted,
        "expected_seconds": trial.expected,
        "predicted_bytes": tuning.space.memory_of(trial.setting),
        "spent_seconds": trial.spent,
        "chosen": trial.setting == chosen,
    }
    if trial.status == "measured":
        row |= {
            "seconds": trial.seconds,
            "interval": list(stats.interval(trial.taken)),
            "charged_seconds": tuning.value(trial),
            "first_seconds": trial.first_seconds,
            "waited_seconds": trial.waited,
            "peak_bytes": trial.peak_bytes,
            "others": trial.others,
        }
    return row


def _gain(tuning: Tuning, chosen: Setting, stands: Setting) -> dict[str, Any]:
    """Over the job as it stands: how many times as much work is done in the same time."""
    if chosen == stands:
        return {"ratio": 1.0, "interval": None, "differs": False, "sentence": "the job as it stands is as fast as any"}
    if len(tuning.rounds) < stats.FEWEST_PAIRS:
        ratio = _charged(tuning, stands) / _charged(tuning, chosen)
        told = f"{ratio:.2f}x as fast as the job as it stands, by single trials: there was no time to compare them"
        return {"ratio": ratio, "interval": None, "differs": False, "sentence": told}
    found = tuning.difference(name_of(stands), name_of(chosen))
    low, high = found.ratio.interval or (found.ratio.value, found.ratio.value)
    pairs = plural(found.ratio.pairs, "pair")
    told = f"{found.ratio.value:.3f}x as fast as the job as it stands (95 % interval {low:.3f}–{high:.3f}, {pairs})"
    return {"ratio": found.ratio.value, "interval": [low, high], "differs": found.differs, "sentence": told}


def _charged(tuning: Tuning, setting: Setting) -> float:
    """By its trial if it had one, else as it is believed."""
    own = [tuning.value(trial) for trial in tuning.kept.measured() if trial.setting == setting]
    return own[-1] if own else tuning.charge(setting, tuning.belief([setting]).seconds(setting)[0])


def _noise(tuning: Tuning, stands: Setting) -> dict[str, Any] | None:
    """What two processes of the job as it stands differ by."""
    if len(tuning.rounds) < stats.FEWEST_PAIRS:
        return None
    found = tuning.noise(name_of(stands))
    return {
        "ratio": found.ratio.value,
        "interval": list(found.ratio.interval or ()),
        "tells": found.tells,
        "sentence": found.sentence,
    }


def _changes(tuning: Tuning, chosen: Setting) -> Iterator[dict[str, Any]]:
    """Each setting that was open, as it is now written, and why."""
    for name, key in KEYS.items():
        if name not in tuning.space.values:
            if name == "micro_batch_size" and tuning.kind in MIXING and tuning.asked.micro_batch_size == "auto":
                yield _change(key, "auto", chosen.micro_batch_size, "not tuned: with batch norm it changes the result")
            continue
        value = getattr(chosen, name)
        yield _change(key, getattr(tuning.asked, name), value, _reason(tuning, name, chosen))
    every, cost = tuning.asked.checkpoint_every, tuning.kept.save_seconds
    if every == "auto" and cost is not None:
        seconds = max(1, round(steps.checkpoint_interval(max(cost, 1e-3))))
        told = f"a checkpoint costs {format_seconds(cost)} of the steps, measured"
        yield _change("train.checkpoint_every", every, f"{seconds}s", told)


def _change(key: str, before: Any, value: Any, reason: str) -> dict[str, Any]:
    written = value if isinstance(value, str) else toml_value(value)
    option = f"--set {shlex.quote(f'{key}={written}')}"
    return {"key": key, "from": before, "to": value, "reason": reason, "set": option}


def _reason(tuning: Tuning, name: str, chosen: Setting) -> str:
    """The best trial with another value of this knob, beside what was chosen."""
    own = _charged(tuning, chosen)
    others = [trial for trial in tuning.kept.measured() if getattr(trial.setting, name) != getattr(chosen, name)]
    if others:
        best = min(others, key=tuning.value)
        other = toml_value(getattr(best.setting, name))
        return f"{format_seconds(own)} a step; {format_seconds(tuning.value(best))} at best with {other}, measured"
    if name in ("prefetch", "feed_threads"):
        waited = [trial.waited / trial.seconds for trial in tuning.kept.measured() if trial.setting == chosen]
        return f"steps wait {format_share(waited[-1] if waited else 0.0)} of their time for batches"
    untried = [setting for setting in tuning.settings if getattr(setting, name) != getattr(chosen, name)]
    if not untried:
        return "nothing else fits in memory"
    belief = tuning.belief(untried)
    least = min(tuning.charge(setting, belief.seconds(setting)[0]) for setting in untried)
    return f"{format_seconds(own)} a step; {format_seconds(least)} at best otherwise, predicted"


def job_file(loaded: LoadedJob, made: Mapping[str, Any], out: Path) -> str:
    """The better job as TOML: what changed, on top of the job that was tuned; or all of it, if that is no file."""
    when = time.strftime("%Y-%m-%d")
    best = made["chosen_label"]
    lines = [f"{HEAD} on {when}: {best}.", f"# {made['gain']['sentence'][0].upper()}{made['gain']['sentence'][1:]}."]
    if loaded.path is None and loaded.job.train is not None:
        written = {change["key"].removeprefix("train."): change["to"] for change in _real(made["changes"])}
        train = TrainSection.model_validate({**_plain(loaded.job.train), **written})
        return "\n".join([*lines, "", to_toml(loaded.job.model_copy(update={"train": train}))])
    base = os.path.relpath(Path(loaded.path or "").resolve(), out.resolve().parent)
    lines += [f"extends = {toml_value(base)}"]
    tables: dict[str, list[str]] = {}
    tuned = {change["key"] for change in _real(made["changes"])}
    for key, origin in loaded.origins.items():
        if origin == SET and key not in tuned:
            section, _, name = key.partition(".")
            held = getattr(loaded.job, section)
            line = f"{name or section} = {toml_value(getattr(held, name) if name else held)}  # --set"
            if name:
                tables.setdefault(section, []).append(line)
            else:
                lines.append(line)
    for change in _real(made["changes"]):
        name = change["key"].partition(".")[2]
        tables.setdefault("train", []).append(f"{name} = {toml_value(change['to'])}  # {change['reason']}")
    for section, entries in tables.items():
        lines += ["", f"[{section}]", *entries]
    return "\n".join(lines) + "\n"


def _real(changes: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that say something else than the job."""
    return [change for change in changes if change["from"] != change["to"]]


def _plain(section: Any) -> dict[str, Any]:
    return dict(section.model_dump(mode="json", include=section.model_fields_set))
