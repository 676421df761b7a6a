"""What limited a profiled program and what could be won: the partition of its time, replayed with a part removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fullbore.base.units import format_seconds, format_share
from fullbore.perf.plan.advise import Advice, gain, ranked

COMPUTE, COMMUNICATION, COPIES, MEMSET = "compute", "exposed communication", "exposed copies", "memset"
HOST_WAIT, KERNEL_WAIT, OTHER_IDLE = "host wait", "kernel wait", "other idle"
LOADER, PYTHON, NOTHING = "data loader", "Python between operators", "nothing recorded"

_CHANGES = {
    COMMUNICATION: "hide communication behind computation: overlap it with backward, larger buckets, fewer bytes",
    COPIES: "copy while computing: pinned host memory, non_blocking=True, a stream of its own",
    HOST_WAIT: "launch ahead of the device: no synchronisation in a step, compiled or captured graphs, larger batches",
    KERNEL_WAIT: "fewer and larger kernels: fused, compiled or captured in graphs",
    OTHER_IDLE: "find what the device waited for, such as an event of another stream or of another rank",
    LOADER: "feed the program: more loader workers, prefetching, data that needs less work",
    PYTHON: "less Python between the operators: compile the step",
    NOTHING: "record Python calls (with_stack=True) and find what the thread did or waited for",
}
_BECAUSE = {
    COMPUTE: "computing",
    COMMUNICATION: "communication that no computation hid",
    COPIES: "copies that no computation hid",
    MEMSET: "filling memory",
    HOST_WAIT: "waiting for the host to launch work",
    KERNEL_WAIT: "gaps between kernels that were launched in time",
    OTHER_IDLE: "waiting that no late launch explains",
    LOADER: "waiting for the data loader",
    PYTHON: "Python between the operators",
    NOTHING: "nothing that was recorded",
}
_STRAGGLES = 0.1


@dataclass(frozen=True)
class Share:
    """One device, or the main thread of a program without one: `parts` in seconds sum to its span."""

    rank: str
    parts: Mapping[str, float]
    idle_in: Mapping[str, float]
    """Idle seconds by what the host did meanwhile; empty where the parts are the host's own."""
    communication: float
    """Seconds, hidden or not."""

    @property
    def span(self) -> float:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Finding:
    limit: str
    """The part of the partition that took most."""
    sentence: str
    share: float
    """Of the span, over all ranks."""
    evidence: tuple[str, ...]
    advice: tuple[Advice, ...]
    """Each predicted gain is that of removing all of its part: no change wins more."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def finding(shares: Sequence[Share]) -> Finding:
    """What took most of the time of all ranks together, and what removing each other part would win at best."""
    span = sum(share.span for share in shares)
    if not span:
        return Finding("nothing", "Nothing was recorded that takes time.", 0.0, (), ())
    parts = _sums([share.parts for share in shares])
    idle_in = _sums([share.idle_in for share in shares])
    limit = max(parts, key=lambda part: parts[part])
    seconds, because = parts[limit], _BECAUSE.get(limit, limit)
    idle = sum(idle_in.values())
    if limit == HOST_WAIT and idle_in.get(LOADER, 0.0) > idle / 2:
        because = f"{because}, which was in the data loader"
    return Finding(
        limit=limit,
        sentence=f"{format_share(seconds / span)} of the time went to {because}.",
        share=seconds / span,
        evidence=(*_next(parts, limit, span), *_while_idle(idle_in, span), *_spread(shares, limit)),
        advice=what_ifs(parts, idle_in),
    )


def what_ifs(parts: Mapping[str, float], idle_in: Mapping[str, float]) -> tuple[Advice, ...]:
    """For each removable part the gain of the whole if it took no time: span / (span - part) - 1, largest first."""
    span = sum(parts.values())
    removable = {part: parts[part] for part in _CHANGES if parts.get(part)}
    if idle_in.get(LOADER):
        removable[LOADER] = idle_in[LOADER]
    return ranked(
        Advice(f"{_CHANGES[part]}; at best all of the {format_seconds(seconds)} of {part}", "", gain(span, seconds))
        for part, seconds in removable.items()
        if seconds > 0.005 * span
    )


def _sums(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for parts in each:
        for part, seconds in parts.items():
            found[part] = found.get(part, 0.0) + seconds
    return found


def _next(parts: Mapping[str, float], limit: str, span: float) -> list[str]:
    rest = sorted((part for part in parts if part != limit), key=lambda part: -parts[part])[:2]
    told = ", ".join(f"{part} {format_share(parts[part] / span)}" for part in rest if parts[part] > 0.005 * span)
    return [f"next: {told}"] if told else []


def _while_idle(idle_in: Mapping[str, float], span: float) -> list[str]:
    idle = sum(idle_in.values())
    if not idle:
        return []
    told = ", ".join(f"{what} {format_share(part / idle)}" for what, part in idle_in.items() if part > 0.005 * idle)
    return [f"while the device was idle ({format_share(idle / span)}) the host was in: {told}"]


def _spread(shares: Sequence[Share], limit: str) -> list[str]:
    """How the ranks differ; who enters the collectives last waits least in them."""
    if len(shares) < 2:
        return []
    by_rank = sorted(shares, key=lambda share: share.parts.get(limit, 0.0) / (share.span or 1.0))
    low, high = (
        f"{format_share(s.parts.get(limit, 0.0) / (s.span or 1.0))} ({s.rank})" for s in (by_rank[0], by_rank[-1])
    )
    told = [f"{limit}: from {low} to {high}"]
    least, most = (pick(shares, key=lambda share: share.communication) for pick in (min, max))
    if most.communication and least.communication < (1 - _STRAGGLES) * most.communication:
        told.append(
            f"{least.rank} spent least time in communication ({format_seconds(least.communication)}; {most.rank}: "
            f"{format_seconds(most.communication)}): the others may be waiting for it"
        )
    return told
