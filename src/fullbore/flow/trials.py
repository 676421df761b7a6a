"""The trials of `tune`: each in a process of its own, kept as lines of JSON that a kill leaves readable."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fullbore.base.files import write_atomic
from fullbore.engine.child import Child, Died
from fullbore.flow.trial import OUT_OF_MEMORY
from fullbore.perf.measure import stats
from fullbore.perf.plan.choose import CROWDED, Setting

_STEPS = 3
_SECONDS = 0.6
"""A trial takes as many steps as fit in this time, though at least `_STEPS`."""
_ROUND_SECONDS = 0.3
"""The same of each turn of a comparison, one step at least."""
_REPEATED_SECONDS, _REPEATS = 3.0, 4
"""A trial whose steps took less is repeated so many times while other processes disturb it."""
_DISTURBED_NOISE = 0.1
_KILLED = -9
Round = dict[str, float]
"""Seconds of a step by the name of the setting, each measured once in turn; one is measured in two processes."""
TWIN = "again: "
"""Before the name of the setting, of the second of them."""


@dataclass(frozen=True)
class Trial:
    """A setting and what came of it."""

    setting: Setting
    predicted: float
    """Seconds of a step by the cost model, before any trial of this job."""
    expected: float
    """The same corrected by the trials before."""
    status: Literal["measured", "out of memory", "failed"]
    taken: tuple[float, ...] = ()
    """Seconds of each step, waiting for its batch included."""
    waited: float = 0.0
    """Mean seconds of a step's wait for its batch."""
    fed: float = 0.0
    """Seconds that making a batch took beside the step."""
    first_seconds: float = 0.0
    """What the first step took on top: compiling."""
    peak_bytes: int = 0
    others: float = 0.0
    """Cores that other processes used meanwhile."""
    spent: float = 0.0
    """Seconds of the whole trial."""
    told: str = ""
    """Why it failed."""

    @property
    def seconds(self) -> float:
        """Of a step: the median of the faster half, which a burst of other work does not reach."""
        return usual(self.taken)

    @property
    def noise(self) -> float:
        """About its standard error, relative; more where others used the cores."""
        if self.others > CROWDED:
            return _DISTURBED_NOISE
        low, high = stats.interval(self.taken)
        return min(0.1, (high - low) / self.seconds / 4)


def usual(taken: tuple[float, ...]) -> float:
    return statistics.median(sorted(taken)[: (len(taken) + 1) // 2])


def name_of(setting: Setting) -> str:
    return json.dumps(asdict(setting))


class Kept:
    """What was measured of a job on this machine, in `path`: the first line says of what, each other one what."""

    def __init__(self, path: Path, asked: Mapping[str, Any]) -> None:
        """What `path` holds of something else is forgotten; `changed` names in what that differs."""
        self._path = path
        self.trials: list[Trial] = []
        self.rounds: list[Round] = []
        self.compiled: dict[str, float] = {}
        """Seconds that compiling took the second time, by setting: the machine keeps what it compiled."""
        self.save_seconds: float | None = None
        lines, plain = _lines(path), json.loads(json.dumps(asked))
        self.changed = _differing(lines[0], plain) if lines else []
        if not lines or self.changed:
            write_atomic(path, json.dumps(plain) + "\n")
            return
        for line in lines[1:]:
            self._take(line)
        self._mend()

    def _mend(self) -> None:
        """Cut off the line that a kill tore."""
        whole = self._path.read_bytes()
        if not whole.endswith(b"\n"):
            write_atomic(self._path, whole[: whole.rfind(b"\n") + 1])

    def _take(self, line: Mapping[str, Any]) -> None:
        if "trial" in line:
            fields = dict(line["trial"])
            fields |= {"setting": Setting(**fields["setting"]), "taken": tuple(fields["taken"])}
            self.trials.append(Trial(**fields))
        elif "round" in line:
            self.rounds.append(dict(line["round"]))
        elif "compiled" in line:
            self.compiled |= line["compiled"]
        elif "save_seconds" in line:
            self.save_seconds = float(line["save_seconds"])

    def add(self, line: Mapping[str, Any]) -> None:
        """Keep a line, durably, before anything else is done."""
        plain = json.loads(json.dumps(line))
        with open(self._path, "a") as file:
            file.write(json.dumps(plain) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._take(plain)

    def measured(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.status == "measured"]


def _lines(path: Path) -> list[dict[str, Any]]:
    """Those that are whole; none if there is no file."""
    found = []
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        try:
            found.append(dict(json.loads(line)))
        except ValueError:
            break
    return found


def _differing(before: Mapping[str, Any], now: Mapping[str, Any], above: str = "") -> list[str]:
    """Dotted names of what differs."""
    found = []
    for name in [*now, *(name for name in before if name not in now)]:
        one, two = before.get(name), now.get(name)
        if isinstance(one, dict) and isinstance(two, dict):
            found += _differing(one, two, f"{above}{name}.")
        elif one != two:
            found.append(f"{above}{name}")
    return found


@dataclass
class Lab:
    """Makes trials of the job in `folder`, until `deadline` (of the monotonic clock)."""

    folder: Path
    deadline: float
    start_seconds: float = 4.0
    """What it takes until a trial's process can take its first step."""

    @property
    def remaining(self) -> float:
        return self.deadline - time.monotonic()

    @contextmanager
    def child(self, setting: Setting) -> Iterator[Child]:
        child = Child("fullbore.flow.trial", [str(self.folder), json.dumps(asdict(setting))])
        try:
            yield child
        finally:
            child.close()

    def ask(self, child: Child, steps: int, seconds: float) -> dict[str, Any]:
        """Raises Died, and TimeoutError at the deadline."""
        return child.ask({"steps": steps, "seconds": seconds}, max(0.0, self.remaining))

    def turn(self, child: Child) -> float:
        """Seconds of a step, for a comparison. Raises Died, TimeoutError."""
        return usual(tuple(self.ask(child, 1, _ROUND_SECONDS)["taken"]))

    def trial(self, setting: Setting, predicted: float, expected: float) -> Trial:
        """Raises TimeoutError if the deadline comes first: nothing is known of the setting then."""
        began = time.monotonic()
        try:
            with self.child(setting) as child:
                found = self.ask(child, _STEPS, _SECONDS)
                for _ in range(_REPEATS):
                    if found.get("others", 0.0) <= CROWDED or sum(found["taken"]) > _REPEATED_SECONDS:
                        break
                    again = self.ask(child, _STEPS, _SECONDS)
                    found = min(found, again, key=lambda each: usual(tuple(each["taken"])))
        except Died as died:
            spent = time.monotonic() - began
            if died.error is not None:
                raise died.error from None
            status: Literal["out of memory", "failed"] = "out of memory" if died.code == _KILLED else "failed"
            return Trial(setting, predicted, expected, status, spent=spent, told=str(died))
        spent = time.monotonic() - began
        if found.get("ended") == OUT_OF_MEMORY:
            return Trial(setting, predicted, expected, "out of memory", spent=spent)
        fields = {name: found[name] for name in ("waited", "fed", "first_seconds", "peak_bytes", "others")}
        made = Trial(setting, predicted, expected, "measured", tuple(found["taken"]), spent=spent, **fields)
        self.start_seconds = min(self.start_seconds, spent)
        return made
