"""A run's ledgers read back: per rank, per session, over time; and whether they account for the wall time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fullbore.base.paths import RunPaths
from fullbore.record import read
from fullbore.record.ledger import Ledger, State

_RANK = re.compile(r"events\.rank(\d+)\.jsonl")


@dataclass(frozen=True)
class Interval:
    """A closed stretch of a rank's time, in seconds since the epoch, and its seconds by state."""

    begin: float
    end: float
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Session:
    """One process that worked on a run, from its exec to its last recorded moment."""

    began: float
    ended: float
    ledger: Ledger

    @property
    def wall(self) -> float:
        return self.ended - self.began


@dataclass(frozen=True)
class Timeline:
    ranks: Mapping[int, tuple[Interval, ...]]

    @property
    def wall(self) -> float:
        """Seconds from the first to the last moment recorded by any rank."""
        ends = [interval.end for intervals in self.ranks.values() for interval in intervals]
        begins = [interval.begin for intervals in self.ranks.values() for interval in intervals]
        return max(ends) - min(begins) if ends else 0.0


@dataclass(frozen=True)
class Check:
    """`accounted`: share of the wall time that the states add up to (1 is all); `other`: share in no named state."""

    accounted: float
    other: float

    @property
    def sound(self) -> bool:
        """The promise: 100 +- 1 % accounted for, at most 1 % of it unnamed."""
        return abs(self.accounted - 1) <= 0.01 and self.other <= 0.01


def event_files(paths: RunPaths) -> dict[int, Path]:
    """The events file of each rank that wrote one."""
    found = {0: paths.events(0)} if paths.events(0).exists() else {}
    for entry in sorted(paths.folder.glob("events.rank*.jsonl")):
        if match := _RANK.fullmatch(entry.name):
            found[int(match[1])] = entry
    return found


def timeline(paths: RunPaths) -> Timeline:
    """The ledger intervals of every rank, in order of time."""
    return Timeline({rank: _intervals(path) for rank, path in event_files(paths).items()})


def _intervals(path: Path) -> tuple[Interval, ...]:
    found = [Interval(e["begin"], e["end"], e["seconds"]) for e in read.events(path, "ledger")]
    return tuple(sorted(found, key=lambda interval: interval.begin))


def ranks(paths: RunPaths) -> tuple[Ledger, ...]:
    """The whole ledger of every rank, by rank."""
    return tuple(read.ledger(path) for _, path in sorted(event_files(paths).items()))


def sessions(paths: RunPaths, rank: int = 0) -> list[Session]:
    """The sessions of one rank, oldest first; a rank that announced none began with its first interval."""
    starts: list[float] = []
    intervals: list[Interval] = []
    for event in read.events(paths.events(rank)):
        if event["kind"] == "session":
            starts.append(float(event["began"]))
        elif event["kind"] == "ledger":
            intervals.append(Interval(event["begin"], event["end"], event["seconds"]))
    if not intervals:
        return []
    starts = sorted(starts) or [intervals[0].begin]
    found = []
    for began, until in zip(starts, [*starts[1:], float("inf")], strict=True):
        own = [interval for interval in intervals if began - 0.5 <= interval.begin < until - 0.5]
        if own:
            total = sum((Ledger(interval.seconds) for interval in own), Ledger({}))
            found.append(Session(began, max(interval.end for interval in own), total))
    return found


def check(ledger: Ledger, wall_seconds: float) -> Check:
    """Judge a ledger against wall time taken from outside, from exec to exit."""
    if wall_seconds <= 0:
        return Check(0.0, 0.0)
    return Check(ledger.wall / wall_seconds, ledger.seconds.get(State.OTHER, 0.0) / wall_seconds)
