"""What `explain` and `check` know of a run's lines, steps and settings, as lines of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fullbore.base.units import format_count, format_flops, format_seconds, format_share, plural
from fullbore.cli.draw import bar, table
from fullbore.cli.ink import Ink

LINE = "line."
_LINES = 12


def notes(texts: Sequence[str], ink: Ink) -> list[str]:
    """What is missing of a run, or was otherwise than it should be."""
    return ["", *(f"{ink.bad('note:')} {text}" for text in texts)] if texts else []


def advice(entries: Sequence[Mapping[str, Any]], ink: Ink) -> list[str]:
    """What to change, the largest gain first, each with the exact setting."""
    lines = ["", ink.bold("What to change")] if entries else []
    for position, entry in enumerate(entries, 1):
        other = "; changes the training" if entry.get("changes_training") else ""
        lines.append(f"  {position}. {entry['change']}{_gain(entry)}{other}")
        if entry.get("set"):
            lines.append(f"     {ink.good('--set ' + entry['set'].removeprefix('--set '))}")
    return lines


def _gain(entry: Mapping[str, Any]) -> str:
    gain, error = entry.get("predicted_gain"), entry.get("error")
    if gain is None:
        return ""
    doubt = f" ± {error:.1%}" if error is not None else ""
    if not entry.get("figure"):
        return f" (predicted {gain:+.0%}{doubt})"
    unknown = "" if error is not None else ", error not known yet"
    return f" ({entry['figure']} {_change(entry)}{doubt}: {gain:+.0%}{unknown})"


def _change(figure: Mapping[str, Any]) -> str:
    one, two, unit = figure["now"], figure["then"], figure["unit"]
    if unit == "s":
        return f"{format_seconds(one)} → {format_seconds(two)}"
    return f"{format_count(one)} → {format_count(two)} {unit}"


def what_if(value: Mapping[str, Any] | None, ink: Ink) -> list[str]:
    """One change: its figure, and the ledger that the run would have had."""
    if not value:
        return []
    figure, error = value["figure"], value["error"]
    doubt = f"± {error:.1%}" if error is not None else "error not known yet"
    said = f"  {figure['name']} {_change(figure)} ({figure['gain']:+.1%}, {doubt}; known by {value['known_by']})"
    rows = [
        [state, format_seconds(line["value"]), "–" if line["error"] is None else f"± {line['error']:.0%}"]
        for state, line in sorted(value["ledger"].items(), key=lambda item: -item[1]["value"])
        if line["value"] >= 0.0005
    ]
    other = ["  it changes what is learnt: how well is not predicted"] if value["changes_training"] else []
    told = [*other, *(f"  {note}" for note in value["notes"])]
    return ["", ink.bold(f"If {value['change']}"), said, *told, *table(rows, ("", "would take", ""), right=(1,))]


def lines(value: Mapping[str, Mapping[str, Any]] | None, ink: Ink) -> list[str]:
    """Predicted beside measured by line of the ledger, the largest residual first."""
    found = [(key.removeprefix(LINE), item) for key, item in (value or {}).items() if key.startswith(LINE)]
    found.sort(key=lambda entry: -abs(_residual(entry[1])))
    rows = [
        [
            state,
            f"{format_seconds(item['predicted'])}" if item["predicted"] else "–",
            "" if item.get("error") is None else f"± {item['error']:.0%}",
            format_seconds(item["measured"] or 0.0),
            f"{_residual(item):+.2f} s",
        ]
        for state, item in found[:_LINES]
    ]
    head = ("", "predicted", "", "measured", "residual")
    title = "Predicted and measured by line, the largest residual first"
    return ["", ink.bold(title), *table(rows, head, right=(1, 3, 4))] if rows else []


def _residual(item: Mapping[str, Any]) -> float:
    return float(item["measured"] or 0.0) - float(item["predicted"] or 0.0)


def forecast(value: Mapping[str, Mapping[str, Any]] | None, ink: Ink) -> list[str]:
    """The ledger that is predicted of a job, longest line first."""
    if not value:
        return []
    whole = sum(item["value"] for item in value.values()) or 1.0
    rows = [
        [
            state,
            format_seconds(item["value"]),
            "error not known yet" if item["error"] is None else f"± {item['error']:.0%}",
            ink.state(bar(item["value"] / whole), state),
        ]
        for state, item in value.items()
        if item["value"] >= 0.0005
    ]
    return ["", ink.bold("Where the time would go"), *table(rows, right=(1,))]


def steps(value: Mapping[str, Any] | None, ink: Ink) -> list[str]:
    """Warm-up set apart, jitter, and where slow steps lost their time."""
    if not value:
        return []
    p50, p95, p99 = (format_seconds(value[key]) for key in ("median", "p95", "p99"))
    spread = f"p99/p50 {value['p99'] / value['median']:.2f}" if value["median"] else "–"
    beyond = f"{format_seconds(value['warm_up_seconds'])} more than steady ones"
    rows = [
        ["warm-up", plural(value["warm_up"], "step"), beyond],
        ["steady", plural(value["steps"], "step"), f"p50 {p50}, p95 {p95}, p99 {p99}: {spread}"],
    ]
    if value["slow"]:
        where = ", ".join(f"{state} {format_seconds(seconds)}" for state, seconds in list(value["lost_in"].items())[:3])
        told = f"{format_seconds(value['slow_seconds'])}, {format_share(value['share'])} of the time of steady steps"
        rows.append(["slow", plural(value["slow"], "step"), told + (f"; in {where}" if where else "")])
    return ["", ink.bold("Steps"), *table(rows), ink.dim(f"  warm-up: {value['rule']}")]


def mfu(value: Mapping[str, Any] | None) -> list[str]:
    """How much of the measured peak the model's own work reached, and of which."""
    if not value:
        return []
    peak, rate = (format_flops(value[key]) for key in ("peak_flops_per_second", "flops_per_second"))
    of = f"the {value['dtype']} peak measured here on {plural(value['threads'], 'core')}"
    return ["", f"MFU {value['share']:.1%}: {rate} of the model's own work over all of its steps, of {peak}, {of}"]


def roofline(value: Mapping[str, Any] | None, ink: Ink) -> list[str]:
    """Each class of operations beside what its intensity allows."""
    if not value:
        return []
    rows = [
        [
            point["name"],
            f"{point['intensity']:.3g}",
            format_flops(point["rate"]),
            format_flops(point["roof"]),
            format_share(point["rate"] / point["roof"]),
            format_share(point["share"]),
        ]
        for point in value["points"]
    ]
    head = ("", "FLOP/byte", "reached", "roof", "of the roof", "of the compute time")
    return ["", ink.bold("Under the roofline"), *table(rows, head, right=range(1, 6))]
