"""What a profiler's traces say, as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fullbore.base.units import format_seconds, format_share, plural
from fullbore.cli import analysis, draw
from fullbore.cli.ink import Ink

_STEPS = 12
_NAMES = 5
_NAME_CHARACTERS = 60
_COLOURS = {
    "compute": "forward",
    "operators": "forward",
    "Python between operators": "optimizer",
    "exposed communication": "exposed communication",
    "exposed copies": "copy",
    "memset": "pack",
    "host wait": "data wait",
    "data loader": "data wait",
    "kernel wait": "pipeline bubble",
}
"""Part → the ledger's state whose colour it has."""


def show(answer: Mapping[str, Any], ink: Ink) -> Iterator[str]:
    """The verdict over all ranks, then each rank."""
    names = answer["traces"]
    yield ink.bold(names[0] if len(names) == 1 else plural(len(names), "trace"))
    yield from (f"  {ink.bad('missing:')} {line}" for line in answer["missing"])
    yield from draw.verdict(answer["verdict"], ink)
    yield from analysis.advice(answer["verdict"]["advice"], ink)
    for rank in answer["ranks"]:
        yield from _rank(rank, ink, alone=len(answer["ranks"]) == 1)


def _rank(rank: Mapping[str, Any], ink: Ink, *, alone: bool) -> Iterator[str]:
    where = "main thread" if rank["device"] is None else f"device {rank['device']}"
    title = f"Where the time went ({rank['rank']}, {where}"
    title += ")" if alone else f", begins at {format_seconds(rank['begins'])})"
    yield from _partition(rank["partition"], ink, title)
    if rank["device"] is None:
        yield from _threads(rank["threads"], ink)
        return
    communication, copies = rank["communication"], rank["copies"]
    rows = [["communication", *_hidden(communication)], ["copies", *_hidden(copies)]]
    if communication["overlap"] is not None:
        rows[0].append(f"{format_share(communication['overlap'])} overlapped by compute")
        rows[1].append("")
    yield from ("", *draw.table(rows, ["", "in all", "exposed"] + [""] * (len(rows[0]) - 3), right=(1, 2)))
    yield from _streams(rank["streams"], ink)
    yield from _steps(rank["steps"], ink)
    yield from _names(rank["kernels"], ink, "Longest kernels")
    yield from _names(copies["kinds"], ink, "Copies")


def _partition(parts: Mapping[str, Any], ink: Ink, title: str) -> list[str]:
    """The parts, longest first, with bars; they sum to the span."""
    shown = sorted((entry for entry in parts.items() if entry[1]["seconds"]), key=lambda entry: -entry[1]["seconds"])
    rows = [[part, format_seconds(item["seconds"]), format_share(item["share"])] for part, item in shown]
    rows.append(["total", format_seconds(sum(item["seconds"] for _, item in shown)), format_share(1.0)])
    lines = draw.table(rows, right=(1, 2))
    bars = [ink.state(draw.bar(item["share"]), _COLOURS.get(part, "other")) for part, item in shown] + [""]
    return ["", ink.bold(title), *(f"{line}  {drawn}" for line, drawn in zip(lines, bars, strict=True))]


def _hidden(entry: Mapping[str, Any]) -> list[str]:
    return [format_seconds(entry["seconds"]), format_seconds(entry["exposed"])]


def _streams(streams: Sequence[Mapping[str, Any]], ink: Ink) -> list[str]:
    rows = [
        [stream["stream"], f"{stream['events']:,}", format_seconds(stream["busy"])]
        + [format_seconds(time) for time in stream["idle"].values()]
        for stream in streams
    ]
    head = ("stream", "events", "busy", "host wait", "kernel wait", "other idle")
    return ["", ink.bold("By stream"), *draw.table(rows, head, right=range(1, len(head)))] if rows else []


def _steps(steps: Sequence[Mapping[str, Any]], ink: Ink) -> list[str]:
    if not steps:
        return []
    parts = [part for part in steps[0]["partition"] if any(step["partition"][part]["seconds"] for step in steps)]
    rows = [
        [step["step"].removeprefix("ProfilerStep"), format_seconds(step["seconds"])]
        + [format_share(step["partition"][part]["share"]) for part in parts]
        for step in steps[:_STEPS]
    ]
    head = ["step", "time", *(part.replace("exposed ", "exp. ").replace("idle, host in ", "idle: ") for part in parts)]
    more = [f"  … {plural(len(steps) - _STEPS, 'more step')}"] if len(steps) > _STEPS else []
    return [
        "",
        ink.bold("By step (idle by what the host did)"),
        *draw.table(rows, head, right=range(1, len(head))),
        *more,
    ]


def _names(entries: Sequence[Mapping[str, Any]], ink: Ink, title: str) -> list[str]:
    rows = [
        [format_seconds(entry["seconds"]), f"{entry['count']:,}x", _cut(entry["name"])] for entry in entries[:_NAMES]
    ]
    return ["", ink.bold(title), *draw.table(rows, right=(0, 1))] if rows else []


def _cut(name: str) -> str:
    return name if len(name) <= _NAME_CHARACTERS else f"{name[: _NAME_CHARACTERS - 1]}…"


def _threads(threads: Sequence[Mapping[str, Any]], ink: Ink) -> Iterator[str]:
    parts = list(dict.fromkeys(part for thread in threads for part in thread["partition"]))
    parts = [part for part in parts if part != "nothing recorded"] + ["nothing recorded"]
    rows = [
        [thread["thread"]] + [format_share(thread["partition"].get(part, {"share": 0.0})["share"]) for part in parts]
        for thread in threads[:_STEPS]
    ]
    yield from ("", ink.bold("By thread (own time)"))
    yield from draw.table(rows, ["process thread", *parts], right=range(1, len(parts) + 1))
    yield from _names(threads[0]["operators"], ink, "Longest in the busiest thread (own time)")
