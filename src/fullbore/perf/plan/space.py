"""The settings that a job leaves open: what may be tried without changing the mathematics beyond what it allows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from fullbore.base.units import plural
from fullbore.perf.plan import choose
from fullbore.perf.plan.choose import Attention, Limits, Setting
from fullbore.spec.train import TrainSection

KEYS = {
    "precision": "train.precision",
    "compile": "train.compile",
    "attention": "train.attention",
    "micro_batch_size": "train.micro_batch_size",
    "recompute": "train.recompute",
    "threads": "train.threads",
    "prefetch": "train.prefetch",
    "feed_threads": "train.feed_threads",
}
"""What is tried, by its name in a `Setting`: the key in a job."""
_FEED = ("prefetch", "feed_threads")
_FEW_CORES = 4
"""So many threads are tried one by one; of more, their halves, and one less than all, which leaves the feed a core."""
_DEPTHS = (0, 4, 16)
"""Batches ahead, where the feed is waited for; 0 makes each where the step is taken."""


@dataclass(frozen=True)
class Model:
    """What the job's network lets be chosen."""

    attention: tuple[Attention, ...] = ()
    """The paths that its attention can take."""
    has_blocks: bool = False


@dataclass(frozen=True)
class Space:
    """Values by knob; `settings` are all combinations that fit in memory, feed apart."""

    section: TrainSection
    limits: Limits
    model: Model
    values: Mapping[str, tuple[Any, ...]]

    @property
    def settings(self) -> tuple[Setting, ...]:
        return tuple(self._settings())

    def _settings(self) -> Iterator[Setting]:
        first = self.resolved(choose.setting(choose.plan(self.section, [], self.limits)))
        names = [name for name in self.values if name not in _FEED]
        for values in product(*(self.values[name] for name in names)):
            made = self.completed(replace(first, **dict(zip(names, values, strict=True))))
            if self.memory_of(made) <= choose.room(self.section, self.limits) or made == first:
                yield made

    def completed(self, setting: Setting) -> Setting:
        """With as many micro-batches as make a step."""
        return replace(setting, accumulation=choose.per_rank(self.section) // setting.micro_batch_size)

    def resolved(self, setting: Setting) -> Setting:
        """The path of attention said outright, so that one setting has one name."""
        if setting.attention != "auto" or self.limits.attends is None:
            return setting
        return replace(setting, attention=self.limits.attends(setting.precision))

    def memory_of(self, setting: Setting) -> float:
        """Predicted peak bytes of one rank."""
        again = self.limits.recomputing_memory_of
        memory_of = again if setting.recompute and again is not None else self.limits.memory_of
        return memory_of(setting.micro_batch_size)

    def fed(self, setting: Setting, *, busy: bool) -> list[Setting]:
        """`setting` with other feeds: what is worth a trial where batches are waited for; the feed is `busy` or not."""
        if not busy:
            inline = replace(setting, prefetch=0, feed_threads=1)
            return [inline] if "prefetch" in self.values and inline != setting else []
        names = [name for name in _FEED if name in self.values]
        fed = (
            replace(setting, **dict(zip(names, values, strict=True)))
            for values in product(*(self.values[name] for name in names))
        )
        others = [other for other in fed if other != setting and other.prefetch]
        if self.section.threads == "auto" and setting.threads > 1:
            others.append(replace(setting, threads=setting.threads - 1))
        return others


def space(section: TrainSection, limits: Limits, model: Model, opened: Collection[str]) -> Space:
    """Of the knobs in `opened` (keys of a job), those that this network has.

    Raises DoesNotFit if no micro-batch fits in memory.
    """
    most = choose.most_threads(section, limits)
    values: dict[str, tuple[Any, ...]] = {}
    if len(limits.expected) > 1:
        values["precision"] = tuple(sorted(limits.expected))
    values["threads"] = _thread_counts(most)
    values["micro_batch_size"] = tuple(choose.divisors(choose.per_rank(section)))
    values["attention"] = model.attention
    if model.has_blocks:
        values["recompute"] = (False, True)
    values["compile"] = (False, True)
    values["prefetch"] = tuple(sorted({section.prefetch, *_DEPTHS}))
    values["feed_threads"] = tuple(sorted({section.feed_threads, min(2, limits.cores)}))
    return Space(
        section,
        limits,
        model,
        {name: found for name, found in values.items() if KEYS[name] in opened and len(found) > 1},
    )


def _thread_counts(most: int) -> tuple[int, ...]:
    if most <= _FEW_CORES:
        return tuple(range(1, most + 1))
    halves = {most >> power for power in range(most.bit_length())}
    return tuple(sorted({*halves, most - 1}))


def label(setting: Setting) -> str:
    """In a line: `bf16, 2 threads, 4 x 8 samples, plain attention, compiled`."""
    told = [
        setting.precision,
        plural(setting.threads, "thread"),
        f"{setting.accumulation} x {setting.micro_batch_size}",
        "" if setting.attention == "auto" else f"{setting.attention} attention",
        "recomputed" if setting.recompute else "",
        "compiled" if setting.compile else "",
        "" if setting.prefetch == 4 else f"{setting.prefetch} ahead",
        "" if setting.feed_threads == 1 else f"{setting.feed_threads} feed threads",
    ]
    return ", ".join(filter(None, told))
