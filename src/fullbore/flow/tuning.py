"""A job being tuned: which settings are tried, what is believed of the others, and what is left to win.

Nothing here decides what is written: `flow.tune` does.
"""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

from fullbore.base.errors import DoesNotFit, RunFailed
from fullbore.base.units import format_seconds, plural
from fullbore.engine.child import Died
from fullbore.flow import forecast
from fullbore.flow.lines import model_kind
from fullbore.flow.trials import TWIN, Kept, Lab, Round, Trial, name_of
from fullbore.perf.measure import stats
from fullbore.perf.plan import choose, search
from fullbore.perf.plan.choose import Setting
from fullbore.perf.plan.difference import Difference, difference
from fullbore.perf.plan.search import Measured
from fullbore.perf.plan.space import Space, label
from fullbore.record.progress import Progress
from fullbore.spec.hardware import Ceilings
from fullbore.spec.load import LoadedJob
from fullbore.spec.plan import Plan
from fullbore.spec.train import TrainSection
from fullbore.spec.work import Work

WORTH = 0.02
"""Trials end once nothing that was not tried is likely (19 in 20) to win more than this share of the time, ..."""
LITTLE = 0.006
"""... or once no more than this is expected of the best of them."""
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
        """What compiling takes: the second time, if the setting was compiled twice, else as its trial found it, else as
        others did, else as it is remembered."""
        if (name := name_of(setting)) in self.kept.compiled:
            return self.kept.compiled[name]
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
            if len(self.rounds) >= _MOST_ROUNDS or self._told(names):
                return
            children = {name: stack.enter_context(self.lab.child(s)) for name, s in zip(names, finalists, strict=True)}
            children[twin] = stack.enter_context(self.lab.child(finalists[0]))
            for name, child in children.items():
                warm = self.lab.ask(child, 1, 0.0)
                if warm.get("ended"):
                    return
                if name in names and finalists[names.index(name)].compile:
                    self.kept.add({"compiled": {name: warm["first_seconds"]}})
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
