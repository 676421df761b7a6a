"""`tune`: the settings that a job leaves open, chosen by timing its real step, within a budget.

The cost model ranks all combinations, trials correct it (`perf.plan.search`), and it ends when what is left to win is
small. The best of the trials are then measured in turns with the job as it stands, beside themselves (the noise).
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import random
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fullbore.base.errors import DoesNotFit, Interrupted, RunFailed, UsageError
from fullbore.base.files import write_atomic
from fullbore.base.paths import RunPaths, runs_root
from fullbore.base.units import format_seconds, plural
from fullbore.base.version import VERSION
from fullbore.engine.child import Died
from fullbore.engine.process import settle
from fullbore.flow import forecast, materials, prepare, tuned
from fullbore.flow.interrupt import Interrupts
from fullbore.flow.lines import model_kind
from fullbore.flow.plan import limits as limits_of
from fullbore.flow.run import quiet
from fullbore.flow.session import Session
from fullbore.flow.trials import TWIN, Kept, Lab, Round, Trial, name_of
from fullbore.models import work as works
from fullbore.perf.measure import probe, stats
from fullbore.perf.plan import choose, search
from fullbore.perf.plan.choose import Setting
from fullbore.perf.plan.difference import Difference, difference
from fullbore.perf.plan.search import Measured
from fullbore.perf.plan.space import KEYS, Model, Space, label, space
from fullbore.record.progress import Progress, no_progress
from fullbore.record.run import RunFolder
from fullbore.record.span import Recorder
from fullbore.spec.hardware import Ceilings
from fullbore.spec.load import DEFAULT, LoadedJob, to_toml
from fullbore.spec.model import ATTENTION, BLOCKS, MIXING
from fullbore.spec.plan import Plan
from fullbore.spec.train import TrainSection
from fullbore.spec.work import Work

BUDGET_SECONDS = 300.0
WORTH = 0.02
"""Trials end once nothing that was not tried is likely (19 in 20) to win more than this share of the time, ..."""
LITTLE = 0.006
"""... or once no more than this is expected of the best of them."""
_NEAR = 0.05
"""Settings that are not more slower than this than the best are compared with it in turns."""
_FINALISTS = 3
_MOST_ROUNDS = 20
_TOLD = 0.01
"""Rounds end once a difference is told, or is below this."""
_WAITED = 0.01
"""Share of a step that waits for its batch from which on other feeds are worth a trial."""
_BUSY = 0.5
"""Share of a step from which on making its batch may hold it up."""
_FAILURES = 3
"""Trials that may fail before any has succeeded."""
_SMALLER = "make the model, train.sequence_length or train.global_batch_size smaller"
Notify = Callable[[str], None]


@dataclass
class Tuning:
    """One job being tuned: what is known of it before, and what was measured of it so far."""

    loaded: LoadedJob
    section: TrainSection
    """With `auto` for what was asked to be tried although the job sets it."""
    asked: TrainSection
    """As the job has it."""
    work: Work
    ceilings: Ceilings
    space: Space
    draft: Plan
    kept: Kept
    lab: Lab
    notify: Notify
    progress: Progress
    stopped: str = ""
    """Why no further setting was tried."""
    left: search.Left | None = None
    rounds: list[Round] = field(default_factory=list)

    @cached_property
    def settings(self) -> tuple[Setting, ...]:
        return self.space.settings

    @property
    def kind(self) -> str:
        """Of the model."""
        return model_kind(self.loaded.job)

    def predicted(self, setting: Setting) -> float:
        """Seconds of a step by the cost model."""
        if setting not in self._predicted:
            made = replace(self.draft, **asdict(setting))
            found = forecast.step_of(self.loaded.job, self.section, self.work, self.ceilings, made)
            self._predicted[setting] = found.value
        return self._predicted[setting]

    @cached_property
    def _predicted(self) -> dict[Setting, float]:
        return {}

    def compile_seconds(self, setting: Setting) -> float:
        """What compiling takes: as the latest trial of the setting found it (the machine keeps what it compiled), else
        as others did, else as it is remembered."""
        found = [trial for trial in self.kept.measured() if trial.setting.compile]
        own = [trial.first_seconds for trial in found if trial.setting == setting]
        if found:
            return own[-1] if own else statistics.median(trial.first_seconds for trial in found)
        return self._compiling

    @cached_property
    def _compiling(self) -> float:
        step = forecast.step_of(self.loaded.job, self.section, self.work, self.ceilings, self.draft)
        known = replace(self.draft, predicted={"step_seconds": step, "train_seconds": step})
        return forecast.compiling(self.loaded.job, self.work, self.ceilings, known).seconds

    def charge(self, setting: Setting, seconds: float) -> float:
        """What a step costs the job's own budget, compiling shared out: infinite if compiling alone is longer."""
        if not setting.compile:
            return seconds
        first, budget = self.compile_seconds(setting), self.section.budget
        if budget.unit == "seconds":
            return seconds * budget.amount / (budget.amount - first) if first < budget.amount else math.inf
        return seconds + first / self.draft.steps

    def value(self, trial: Trial) -> float:
        return self.charge(trial.setting, trial.seconds)

    @property
    def best(self) -> Trial:
        return min(self.kept.measured(), key=self.value)

    def belief(self, settings: Sequence[Setting]) -> search.Belief:
        known = [Measured(trial.setting, trial.seconds, trial.noise) for trial in self.kept.measured()]
        return search.believe(settings, self.predicted, known)

    def open(self) -> list[Setting]:
        """What was not tried and is not known to be too large."""
        tried = {trial.setting for trial in self.kept.trials}
        full = [self.space.memory_of(t.setting) for t in self.kept.trials if t.status == "out of memory"]
        peaks = [t.peak_bytes / self.space.memory_of(t.setting) for t in self.kept.measured() if t.peak_bytes]
        ratio = max(1.0, statistics.median(peaks)) if peaks else 1.0
        most = min([choose.room(self.section, self.space.limits) / ratio, *full])
        return [s for s in self.settings if s not in tried and self.space.memory_of(s) < most]

    def try_all(self) -> None:
        """Trials until little is left to win, or the time is over that the comparison leaves."""
        while not self.kept.measured():
            self.begin()
        while True:
            untried = self.open()
            belief = self.belief(untried)
            best = self.value(self.best)
            self.left = search.left(belief, self.charge, best)
            if self.left.bound < WORTH or self.left.expected < LITTLE:
                self.stopped = "little is left to win" if untried else "every setting was tried"
                return
            costs = {setting: self.cost(setting) for setting in untried}
            time_left = self.lab.remaining - self.comparing_seconds()
            costs = {setting: cost for setting, cost in costs.items() if cost < time_left}
            setting = search.next_setting(belief, self.charge, best, costs)
            if setting is None:
                self.stopped = "the budget is spent"
                return
            self.measure(setting, belief.seconds(setting)[0])

    def begin(self) -> None:
        """The first trial, of what the job would begin with; where that fails, of what needs less memory, or another.

        Raises DoesNotFit if nothing fits, RunFailed if trials fail for other reasons.
        """
        trials, untried = self.kept.trials, self.open()
        if not trials:
            first = self.space.resolved(choose.setting(self.draft))
            return self.measure(first, self.predicted(first))
        last = trials[-1]
        if last.status == "out of memory" and not untried:
            raise DoesNotFit(f"{label(last.setting)} ran out of memory, and no setting needs less", hint=_SMALLER)
        if not untried or len(trials) > _FAILURES:
            raise RunFailed(f"{plural(len(trials), 'trial')} failed, the last one, {label(last.setting)}: {last.told}")
        key = self.space.memory_of if last.status == "out of memory" else self.predicted
        setting = min(untried, key=key)
        return self.measure(setting, self.predicted(setting))

    def cost(self, setting: Setting) -> float:
        """About the seconds of a trial."""
        compiling = self.compile_seconds(setting) if setting.compile else 0.0
        return self.lab.start_seconds + compiling + max(0.6, 4 * self.predicted(setting))

    def comparing_seconds(self) -> float:
        """About what the comparison at the end takes: its processes, and as many rounds as tell anything."""
        if not self.kept.measured():
            return 0.0
        turn = max(0.3, self.best.seconds)
        compiling = self.compile_seconds(self.best.setting) if self.best.setting.compile else 0.0
        return 3 * (self.lab.start_seconds + compiling + 2 * turn) + stats.FEWEST_PAIRS * 3 * turn

    def measure(self, setting: Setting, expected: float) -> None:
        """A trial, kept and told. Raises TimeoutError."""
        trial = self.lab.trial(setting, self.predicted(setting), expected)
        self.kept.add({"trial": asdict(trial)})
        found = format_seconds(trial.seconds) if trial.status == "measured" else trial.status
        told = f": {trial.told}" if trial.told else ""
        self.notify(
            f"trial {len(self.kept.trials)}: {label(setting)}: {found} (expected {format_seconds(expected)}){told}"
        )
        self.progress("tune", len(self.kept.trials), None, "trials")

    def feed(self) -> None:
        """Other feeds for the best setting, where its steps wait for batches: more of it where it is busy half the
        time or more, else none beside the steps, for then they wait for no more than a thread to hand a batch over."""
        best = self.best
        busy = best.fed / best.setting.feed_threads > _BUSY * best.seconds
        tried = {trial.setting for trial in self.kept.trials}
        if best.waited > _WAITED * best.seconds:
            for setting in self.space.fed(best.setting, busy=busy):
                if setting not in tried and self.cost(setting) < self.lab.remaining - self.comparing_seconds():
                    self.measure(setting, best.seconds)

    def as_it_stands(self) -> Setting:
        """What the job's own run would choose by the trials that it makes itself, were they as these show."""
        job, limits, trials = self.loaded.job, self.space.limits, list[choose.Trial]()

        def seconds(setting: Setting) -> float:
            return self.belief([self.space.resolved(setting)]).seconds(self.space.resolved(setting))[0]

        while (setting := choose.next_setting(self.asked, trials, limits)) is not None:
            trials.append(choose.Trial(setting, seconds(setting)))
        plain = choose.plan(self.asked, trials, limits)
        limits = replace(limits, compiling=forecast.compiling(job, self.work, self.ceilings, plain))
        if (setting := choose.worth_compiling(self.asked, trials, limits)) is not None:
            first = self.compile_seconds(self.space.resolved(setting))
            trials.append(choose.Trial(setting, seconds(setting), first_seconds=first))
        return self.space.resolved(choose.chosen(self.asked, trials, limits))

    def fitting(self, finalists: Sequence[Setting]) -> list[Setting]:
        """As many of them, and the first twice, as fit in memory together."""
        room, found = choose.room(self.section, self.space.limits), list(finalists)
        while len(found) > 1 and sum(map(self.space.memory_of, [found[0], *found])) > room:
            found.pop()
        return found

    def compare(self, finalists: Sequence[Setting]) -> None:
        """Measure in turns, the first one twice over, until its differences from the others are told or small."""
        names, twin = [name_of(setting) for setting in finalists], TWIN + name_of(finalists[0])
        self.rounds = [found for found in self.kept.rounds if {*names, twin} <= found.keys()]
        with ExitStack() as stack, suppress(TimeoutError, Died):
            if self._told(names):
                return
            children = {name: stack.enter_context(self.lab.child(s)) for name, s in zip(names, finalists, strict=True)}
            children[twin] = stack.enter_context(self.lab.child(finalists[0]))
            for name, child in children.items():
                warm = self.lab.ask(child, 1, 0.0)
                if warm.get("ended"):
                    return
                if name == names[0] and self.kept.save_seconds is None:
                    saved = child.ask({"save": True}, max(0.0, self.lab.remaining))
                    self.kept.add({"save_seconds": saved["seconds"]})
            while len(self.rounds) < _MOST_ROUNDS and not self._told(names):
                order = random.Random(len(self.rounds)).sample([*children], len(children))
                found = {name: self.lab.turn(children[name]) for name in order}
                self.kept.add({"round": found})
                self.rounds.append(found)
                self.progress("compare", len(self.rounds), _MOST_ROUNDS, "rounds")

    def _told(self, names: Sequence[str]) -> bool:
        """Whether the first is told from each other, or as good."""
        if len(self.rounds) < stats.FEWEST_PAIRS:
            return False
        return all(_clear(self.difference(names[0], name)) for name in names[1:]) and _clear(self.noise(names[0]))

    def difference(self, one: str, two: str) -> Difference:
        """Of two contestants, as they are charged."""
        first, second = (
            [self.charge(Setting(**json.loads(name)), seconds) for seconds in column]
            for name, column in zip((one, two), _columns(self.rounds, one, two), strict=True)
        )
        return difference("seconds", first, second)

    def noise(self, name: str) -> Difference:
        """Of the first contestant and its twin."""
        return difference("seconds", *_columns(self.rounds, name, TWIN + name), same=True)


def _columns(rounds: Sequence[Round], *names: str) -> list[list[float]]:
    return [[found[name] for found in rounds] for name in names]


def _clear(found: Difference) -> bool:
    """Whether a difference is told, or is small at most."""
    if found.ratio.interval is None:
        return False
    low, high = found.ratio.interval
    return found.ratio.differs or math.log(high / low) / 2 < _TOLD


def tune(
    loaded: LoadedJob,
    *,
    budget: float = BUDGET_SECONDS,
    out: Path | None = None,
    also: Sequence[str] = (),
    force: bool = False,
    again: str = "fullbore tune",
    progress: Progress = no_progress,
    notify: Notify,
    draw: tuned.Draw,
) -> dict[str, Any]:
    """Tune what `loaded` leaves open, and write the better job (schema 1). `door.tune` says the rest.

    `again`: the command that goes on with it, for a message.
    """
    deadline = time.monotonic() + budget
    _require(loaded, budget)
    opened = _opened(loaded, also)
    place = tuned.place(loaded, out, force)
    settle()
    interrupts = Interrupts(notify)
    with alone(loaded.job.name) as folder, interrupts.handled():
        try:
            tuning = prepared(loaded, folder, deadline, opened, interrupts, progress, notify)
        except (Interrupted, KeyboardInterrupt) as error:
            raise Interrupted("interrupted before the first trial", hint=f"Resume with: {again}") from error
        if time.monotonic() >= deadline:
            raise _too_short(budget, "its data were read")
        status, failure = "done", None
        try:
            tuning.try_all()
            tuning.feed()
        except TimeoutError:
            tuning.stopped = "the budget is spent"
        except (Interrupted, KeyboardInterrupt) as error:
            status, failure = "interrupted", error
            tuning.stopped = "it was interrupted"
        if not tuning.kept.measured():
            if failure is not None:
                raise Interrupted("interrupted before a trial ended", hint=f"Resume with: {again}") from failure
            raise _too_short(budget, "the first trial had ended")
        try:
            chosen, stands = tuning.best.setting, tuning.as_it_stands()
            if failure is None:
                chosen = _compared(tuning, stands)
        except (Interrupted, KeyboardInterrupt) as error:
            status, failure = "interrupted", error
        answer = tuned.answer(tuning, chosen, stands, status, budget, place, draw)
        if failure is not None:
            told = "interrupted; the best so far is written" if answer["out"] else "interrupted"
            raised = Interrupted(told, hint=f"Resume with: {again}")
            raised.result = answer
            raise raised from failure
        return answer


def _compared(tuning: Tuning, stands: Setting) -> Setting:
    """What is best, of those that trials cannot tell apart and of the job as it stands, measured in turns."""
    ranked = sorted(tuning.kept.measured(), key=tuning.value)
    near = [trial.setting for trial in ranked if tuning.value(trial) <= (1 + _NEAR) * tuning.value(ranked[0])]
    finalists = [setting for setting in near if setting != stands][:_FINALISTS]
    finalists = tuning.fitting([stands, *finalists])
    if len(finalists) > 1 or finalists[0] == ranked[0].setting:
        tuning.compare(finalists)
    names = [name_of(setting) for setting in finalists]
    if len(tuning.rounds) < stats.FEWEST_PAIRS:
        return ranked[0].setting
    better = [name for name in names[1:] if tuning.difference(names[0], name).faster == "B"]
    values = {name: tuning.difference(names[0], name).ratio.value for name in better}
    return finalists[names.index(max(values, key=values.__getitem__))] if values else stands


def _require(loaded: LoadedJob, budget: float) -> None:
    """Raises UsageError if there is nothing to tune."""
    where = loaded.path or f"job {loaded.job.name}"
    if loaded.job.train is None:
        raise UsageError(
            f"{where}: has no [train], so there is nothing to tune", hint="add [train], [model] and [task]"
        )
    if not 0 < budget < math.inf:
        raise UsageError(f"--budget: found {budget:g} s, expected a time above zero", hint="for example --budget 5m")


def _opened(loaded: LoadedJob, also: Sequence[str]) -> frozenset[str]:
    """Keys that may be tried: what the job leaves to the program or says nothing of, and what is asked for.

    With batch norm the micro-batch is part of the mathematics, so it must be asked for.
    """
    unknown = [key for key in also if key not in KEYS.values()]
    if unknown:
        raise UsageError(f"--also {unknown[0]}: is not tuned; expected one of {', '.join(KEYS.values())}")
    train = loaded.job.train
    values = {key: getattr(train, name) for name, key in zip(KEYS, KEYS.values(), strict=True)}
    free = {key for key, value in values.items() if value == "auto" or loaded.origins[key] == DEFAULT}
    mixes = loaded.job.model is not None and loaded.job.model.kind in MIXING
    return frozenset({*(free - {KEYS["micro_batch_size"]} if mixes else free), *also})


def _too_short(budget: float, before: str) -> DoesNotFit:
    return DoesNotFit(
        f"--budget: {format_seconds(budget)} were over before {before}",
        hint="give it more time: what was prepared is kept, so the next start is shorter",
    )


@contextmanager
def alone(name: str) -> Iterator[RunPaths]:
    """The folder where what is measured of a job is kept. Raises UsageError if the same job is being tuned."""
    folder = runs_root() / ".tune" / name
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"{name} is being tuned", hint="wait for it, or stop it first") from None
        yield RunPaths(folder)


def prepared(
    loaded: LoadedJob,
    paths: RunPaths,
    deadline: float,
    opened: frozenset[str],
    interrupts: Interrupts,
    progress: Progress = no_progress,
    notify: Notify = quiet,
) -> Tuning:
    """Data, work and ceilings, and what was measured of the same job before. `opened`: keys that may be tried."""
    asked = loaded.job.train
    if asked is None:
        raise UsageError(f"job {loaded.job.name}: has no [train]")
    job = loaded.job
    names = {name for name, key in zip(KEYS, KEYS.values(), strict=True) if key in opened}
    free = {name: "auto" for name in names if TrainSection.model_fields[name].default == "auto"}
    section = asked.model_copy(update=free)
    seen = prepare.look(loaded)
    shutil.rmtree(paths.artifacts, ignore_errors=True)
    paths.artifacts.mkdir(parents=True)
    write_atomic(paths.job, to_toml(job))
    session = Session(RunFolder(job.name, paths), job, Recorder(), progress, notify, interrupts)
    last = prepare.prepare_data(session, seen.source)
    ceilings = probe.probe(folder=paths.folder)
    prepared = materials.load(job, paths)
    work = works.work(prepared.model, prepared.task_section, prepared.sizes, launched=True)
    limits = limits_of(replace(prepared, train=section), work, ceilings)
    draft = choose.plan(section, [], limits)
    write_atomic(paths.plan, json.dumps(draft.to_json(), indent=1) + "\n")
    kept = Kept(paths.folder / "trials.jsonl", _identity(loaded, last.digest))
    if kept.changed:
        notify(f"measured anew: {', '.join(kept.changed)} changed since this job was tuned")
    elif kept.trials:
        notify(f"going on from {plural(len(kept.trials), 'trial')} of {paths.folder}")
    return Tuning(
        loaded=loaded,
        section=section,
        asked=asked,
        work=work,
        ceilings=ceilings,
        space=space(section, limits, _model(prepared, limits), opened),
        draft=draft,
        kept=kept,
        lab=Lab(paths.folder, deadline),
        notify=notify,
        progress=progress,
    )


def _identity(loaded: LoadedJob, digest: str) -> dict[str, Any]:
    """What trials depend on: all of the job that a step sees, its data, the machine, the programs."""
    whole = loaded.job.model_dump(mode="json", include={"tokenizer", "task", "model", "train"})
    tried = {*KEYS, "budget", "checkpoint_every"}
    whole["train"] = {name: value for name, value in whole["train"].items() if name not in tried}
    host = probe.machine()
    programs = {"fullbore": VERSION, "torch": host.torch, "python": host.python}
    return {**whole, "data": digest, "machine": host.fingerprint, "cores": len(os.sched_getaffinity(0)), **programs}


def _model(prepared: materials.Materials, limits: choose.Limits) -> Model:
    kind = prepared.model.kind
    return Model(ATTENTION[kind] if limits.attends is not None else (), kind in BLOCKS)
