"""`bench`: two commands, jobs or settings in interleaved pairs, and whether they differ by more than the noise."""

from __future__ import annotations

import json
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from fullbore.base.errors import FullboreError, Interrupted, RunFailed, UsageError
from fullbore.base.files import write_atomic
from fullbore.base.refusals import about
from fullbore.base.units import plural
from fullbore.engine import command
from fullbore.flow.interrupt import Interrupts
from fullbore.perf.measure import stats
from fullbore.perf.measure.condition import Watch, condition
from fullbore.perf.measure.probe import machine
from fullbore.perf.plan.difference import difference
from fullbore.record.progress import Progress, no_progress

ROUNDS = 20
_REPEATS = 2
"""Pairs are run at most so many times as often as asked for, when neighbours disturb them."""
_MOST = 1000
"""Pairs that a budget may buy: each is compared with each."""
_SAVE_SECONDS = 1.0
"""Between two savings of what is measured so far."""
_LAST_LINES = 10
_RATES = ("tokens_per_second", "samples_per_second")
"""What jobs are judged by, the first that a run has."""
_DRIFT = 0.1
"""Relative change of the cores' frequency that is worth a note."""
Pair = dict[str, Any]


@dataclass(frozen=True)
class Contender:
    """What is measured as A or as B."""

    label: str
    command: tuple[str, ...]
    is_job: bool = False


@dataclass
class Bench:
    """One comparison under way: what was asked, and the pairs so far."""

    contenders: tuple[Contender, Contender]
    metric: str | None
    """None: of jobs, what the first run has of `_RATES`."""
    seed: int
    warm_up: int
    fingerprint: str
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    pairs: list[Pair] = field(default_factory=list)
    before: dict[str, Any] = field(default_factory=condition)

    @property
    def same(self) -> bool:
        """A against itself: what the noise is."""
        return self.contenders[0] == self.contenders[1]

    def asked(self) -> dict[str, Any]:
        """What makes pairs comparable; the metric is known after the first run at the latest."""
        commands = {name: each.label for name, each in zip("AB", self.contenders, strict=True)}
        return {"contenders": commands, "metric": self.metric, "seed": self.seed, "machine": self.fingerprint}

    def measured(self) -> list[Pair]:
        """The pairs after those that warm up."""
        return [pair for pair in self.pairs if not pair["warm_up"]]

    def clean(self) -> list[Pair]:
        return [pair for pair in self.measured() if not pair["disturbed"]]

    def pair(self, *, warm_up: bool) -> None:
        """Measure both once. Raises RunFailed."""
        order = _order(self.seed, len(self.measured()))
        pair: Pair = {"order": order, "warm_up": warm_up}
        for name in order:
            pair[name] = self._once(name)
        pair["disturbed"] = any(pair[name].pop("disturbed") for name in order)
        self.pairs.append(pair)

    def _once(self, name: str) -> dict[str, Any]:
        contender = self.contenders["AB".index(name)]
        watch = Watch()
        try:
            ended = command.run(contender.command, self.environment)
        except OSError as error:
            raise RunFailed(f"{name} cannot be started: {error.strerror}: {contender.label}") from error
        around = watch.ended(ended.cpu_seconds)
        if ended.code:
            told = ended.stderr.strip() or ended.stdout.strip()
            lines = "".join(f"\n  {line}" for line in told.splitlines()[-_LAST_LINES:])
            found = f"{name} ended with {ended.how} in pair {len(self.pairs) + 1}: {contender.label}"
            raise RunFailed(f"{found}{lines}", hint="a command that is measured ends with exit code 0")
        used = {key: getattr(ended, key) for key in ("seconds", "cpu_seconds", "peak_bytes")}
        return {"value": self._value(name, ended, used), **used, **around}

    def _value(self, name: str, ended: command.Ended, used: Mapping[str, float]) -> float:
        """The metric of a run, above zero: measured from outside, or read from its last line. Raises RunFailed."""
        if self.metric is not None and self.metric in used:
            return used[self.metric]
        last = next((line for line in reversed(ended.stdout.splitlines()) if line.strip()), "")
        try:
            said = json.loads(last)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise RunFailed(
                f"{name}: the last line of its stdout is no JSON object: {last[:80]!r}",
                hint=f"print one with the metric {self.metric!r} in it, or measure {', '.join(used)}",
            )
        if self.metric is None:
            self.metric = next((rate for rate in _RATES if said.get(rate)), "seconds")
        value: Any = {**used, **said}
        for part in self.metric.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            known = ", ".join(key for key, item in said.items() if isinstance(item, int | float))
            raise RunFailed(
                f"{name}: {self.metric} is {value!r}, expected a number above zero",
                hint=f"its last line has {known or 'no numbers'}",
            )
        return float(value)

    def answer(self, status: str) -> dict[str, Any]:
        """What is measured so far and what it tells (schema 1). Disturbed pairs count only where too few are clean."""
        measured, clean = self.measured(), self.clean()
        used = clean if len(clean) >= stats.FEWEST_PAIRS else measured
        values = {name: [float(pair[name]["value"]) for pair in used] for name in "AB"}
        told = difference(self.metric or "", values["A"], values["B"], same=self.same) if used else None
        return {
            "schema": 1,
            "status": status,
            **self.asked(),
            "same": self.same,
            "pairs_measured": len(measured),
            "pairs_disturbed": len(measured) - len(clean),
            "pairs_used": len(used),
            "figures": {name: _figures(name, used) for name in ("A" if self.same else "AB") if used},
            "verdict": told.to_json() if told else None,
            "notes": self._notes(used),
            "before": self.before,
            "after": condition(),
            "pairs": self.pairs,
        }

    def _notes(self, used: Sequence[Pair]) -> list[str]:
        measured, found = self.measured(), []
        if disturbed := len(measured) - len(self.clean()):
            taken = [pair[name]["others"] + pair[name]["steal"] for pair in measured for name in "AB"]
            kept = "left out" if len(used) < len(measured) else "kept, for too few others are left"
            found.append(
                f"{plural(disturbed, 'pair')} of {len(measured)} were disturbed by other processes "
                f"(up to {max(taken):.1f} of {self.before['cores']} cores) and {kept}"
            )
        clocks = [pair[name]["megahertz"] for pair in used for name in "AB" if pair[name]["megahertz"]]
        if clocks and max(clocks) > (1 + _DRIFT) * min(clocks):
            found.append(f"the cores ran at {min(clocks):.0f} to {max(clocks):.0f} MHz: each pair saw about the same")
        load, cores = self.before["load"][0], self.before["cores"]
        if load > cores:
            found.append(f"the machine was busy before: load {load:.1f} on {cores} cores")
        return found


def _order(seed: int, pair: int) -> str:
    """Pairs come in twos, one the mirror of the other (ABBA, BAAB), so that a steady drift favours nobody."""
    first = random.Random(f"{seed}:{pair // 2}").random() < 0.5
    return "AB" if first == (pair % 2 == 0) else "BA"


def _figures(name: str, pairs: Sequence[Pair]) -> dict[str, Any]:
    runs = [pair[name] for pair in pairs]
    values = [float(run["value"]) for run in runs]
    return {
        "median": median(values),
        "interval": stats.interval(values),
        "least": min(values),
        "most": max(values),
        **{key: median(run[key] for run in runs) for key in ("seconds", "cpu_seconds", "peak_bytes")},
    }


def contenders(
    targets: Sequence[str], overrides: Mapping[str, Any], against: Mapping[str, Any]
) -> tuple[Contender, Contender]:
    """A and B of one or two command lines or jobs. `overrides` hold for both, `against` for B, over them.

    Raises UsageError, and JobError for a job that does not load.
    """
    if not 1 <= len(targets) <= 2:
        raise UsageError(f"found {len(targets)} things to compare, expected one or two", hint="quote each command")
    jobs = [_is_job(target) for target in targets]
    if len(set(jobs)) > 1:
        raise UsageError("a job cannot be compared with a command", hint="two jobs, or two commands")
    if not jobs[0]:
        if overrides or against:
            raise UsageError("--set and --against are for jobs", hint="put the setting into the command")
        made = [Contender(target, command.words(target)) for target in targets]
        return made[0], made[-1]
    return _job(targets[0], overrides), _job(targets[-1], {**overrides, **against})


def _is_job(target: str) -> bool:
    """A TOML file, or module:function."""
    module, colon, name = target.partition(":")
    return target.endswith(".toml") or bool(colon and name.isidentifier() and module.replace(".", "_").isidentifier())


def _job(target: str, overrides: Mapping[str, Any]) -> Contender:
    from fullbore.spec.load import load
    from fullbore.spec.write import toml_value

    load(target, overrides)
    written = {key: value if isinstance(value, str) else toml_value(value) for key, value in overrides.items()}
    settings = [word for key, value in written.items() for word in ("--set", f"{key}={value}")]
    label = " ".join([target, *(word for word in settings if word != "--set")])
    line = (sys.executable, "-m", "fullbore.cli.main", "run", target, *settings, "--json", "--quiet")
    return Contender(label, line, is_job=True)


def bench(
    targets: Sequence[str],
    overrides: Mapping[str, Any] | None = None,
    against: Mapping[str, Any] | None = None,
    *,
    rounds: int | None = None,
    budget: float | None = None,
    metric: str | None = None,
    warm_up: int = 1,
    seed: int = 0,
    out: Path | None = None,
    keep: bool = False,
    progress: Progress = no_progress,
    notify: Callable[[str], None],
) -> dict[str, Any]:
    """Measure until `rounds` pairs are undisturbed (or twice as many are measured) or `budget` seconds are over, and
    say what they tell (schema 1). `door.bench` says the rest.

    A failure or an interrupt carries what was measured so far as its `result`.
    """
    if warm_up < 0 or (rounds is not None and rounds < 1):
        raise UsageError("--rounds is at least 1, --warm-up at least 0")
    one, two = contenders(targets, overrides or {}, against or {})
    asked = metric or (None if one.is_job else "seconds")
    made = Bench((one, two), asked, seed, warm_up, machine().fingerprint)
    made.pairs = _kept(made, out)
    wanted = rounds or (_MOST if budget is not None else ROUNDS)
    try:
        with Interrupts(notify).handled(), _runs(made, keep):
            _measure(made, wanted, budget, out, progress)
    except (FullboreError, KeyboardInterrupt) as error:
        failure = error if isinstance(error, FullboreError) else Interrupted("interrupted")
        interrupted = isinstance(failure, Interrupted)
        failure.result = _save(made, out, "interrupted" if interrupted else "failed")
        if interrupted:
            failure.hint = "the same command goes on" if out else "with --out FILE the same command goes on from there"
        raise failure from error
    return _save(made, out, "done")


@contextmanager
def _runs(made: Bench, keep: bool) -> Iterator[None]:
    """Runs of jobs go to a folder that is removed, unless they are to be kept."""
    if keep or not made.contenders[0].is_job:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="fullbore-bench-") as folder:
        made.environment = {**made.environment, "FULLBORE_RUNS": folder}
        yield


def _measure(made: Bench, rounds: int, budget: float | None, out: Path | None, progress: Progress) -> None:
    began, saved, longest, warming = time.monotonic(), 0.0, 0.0, made.warm_up
    while len(made.clean()) < rounds and len(made.measured()) < _REPEATS * rounds:
        clock = time.monotonic()
        if budget is not None and made.measured() and clock - began + longest > budget:
            return
        made.pair(warm_up=warming > 0)
        now = time.monotonic()
        longest = max(longest, now - clock) if warming <= 0 else 0.0
        warming -= 1
        if now - saved > _SAVE_SECONDS:
            _save(made, out, "running")
            saved = now
        progress("bench", len(made.clean()), rounds, "pairs", detail=_so_far(made))


def _so_far(made: Bench) -> str:
    if not (pairs := made.measured()):
        return "warming up"
    one, two = (median(pair[name]["value"] for pair in pairs) for name in "AB")
    return f"{made.metric}: A/B {one / two:.3f}, {len(pairs) - len(made.clean())} disturbed"


def _save(made: Bench, out: Path | None, status: str) -> dict[str, Any]:
    """The answer so far, in `out` too if there is one."""
    if out is None and status == "running":
        return {}
    answer = made.answer(status)
    if out is not None:
        with about(out):
            write_atomic(out, json.dumps(answer, indent=1) + "\n")
    return answer


def _kept(made: Bench, out: Path | None) -> list[Pair]:
    """The pairs that `out` holds from before. Raises UsageError if it holds anything else, or has no folder."""
    if out is not None and not out.parent.is_dir():
        raise UsageError(f"{out}: there is no folder {out.parent}", hint="make it first, or name another place")
    if out is None or not out.exists():
        return []
    with about(out):
        text = out.read_bytes()
    try:
        before = json.loads(text)
        asked = {key: before[key] for key in made.asked()}
        pairs = list(before["pairs"])
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{out} exists and is no file of fullbore bench", hint="name another file") from None
    if made.metric is None:
        made.metric = asked["metric"]
    differs = [key for key, value in made.asked().items() if asked[key] != value]
    if differs:
        raise UsageError(f"{out} holds another comparison: its {differs[0]} differs", hint="name another file")
    return pairs
