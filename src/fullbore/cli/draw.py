"""Results as lines of text: tables, bars, the ledger, the verdict. Whoever calls prints them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fullbore.base.units import format_bytes, format_count, format_joules, format_of, format_seconds, format_share
from fullbore.cli.ink import Ink

_BAR = 28
_LINE = 88
_LINES = 12
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def table(
    rows: Sequence[Sequence[str]], head: Sequence[str] = (), right: Iterable[int] = (), indent: int = 2
) -> list[str]:
    """Aligned columns, two spaces apart; `right` names the columns that are aligned to the right."""
    everything = [*([head] if head else []), *rows]
    widths = [max(len(row[column]) for row in everything) for column in range(len(everything[0]))] if everything else []
    to_right = set(right)

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.rjust(width) if column in to_right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return (" " * indent + "  ".join(cells)).rstrip()

    return [line(row) for row in everything]


def short(text: str) -> str:
    """At most a line of it."""
    return text if len(text) <= _LINE else f"{text[: _LINE - 1]}…"


def bar(share: float, width: int = _BAR) -> str:
    """A bar of `width` cells for the whole, drawn to an eighth of a cell."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def number(value: Any, unit: str = "") -> str:
    """A figure with its unit, rounded to what is significant."""
    if value is None:
        return "–"
    if not isinstance(value, int | float) or isinstance(value, bool):
        return str(value)
    if unit == "share":
        return format_share(value)
    if unit in ("s", "seconds"):
        return format_seconds(value)
    if unit in ("B", "bytes"):
        return format_bytes(value)
    if isinstance(value, int) and abs(value) < 10_000:
        return f"{value} {unit}".strip()
    rounded = format_count(value) if abs(value) >= 1000 else f"{value:.4g}"
    return f"{rounded} {unit}".strip()


def ledger(
    value: Mapping[str, Any],
    ink: Ink,
    title: str = "Where the time went",
    energy: Mapping[str, Any] | None = None,
) -> list[str]:
    """The states, longest first, with bars; they sum to the wall time, and their joules to those of `energy`."""
    rows = [[state, format_seconds(item["seconds"]), format_share(item["share"])] for state, item in value.items()]
    whole = sum(item["seconds"] for item in value.values())
    rows.append(["total", format_seconds(whole), format_share(1.0 if value else 0.0)])
    if energy:
        joules = [*(energy["states"].get(state, {}).get("joules", 0.0) for state in value), energy["joules"]["value"]]
        rows = [[*row, format_joules(spent)] for row, spent in zip(rows, joules, strict=True)]
    lines = table(rows, right=range(1, len(rows[0])))
    bars = [ink.state(bar(item["share"]), state) for state, item in value.items()] + [""]
    width = max(len(line) for line in lines)
    return ["", ink.bold(title), *(f"{line.ljust(width)}  {drawn}" for line, drawn in zip(lines, bars, strict=True))]


def energy(value: Mapping[str, Any] | None, ink: Ink) -> list[str]:
    """What it used or will use, what that costs and emits, and by what it is known."""
    if not value:
        return []
    tariff, unit = value["tariff"], value["unit"]
    told: list[tuple[str, Mapping[str, float] | None, Callable[[float], str]]] = [
        (f"energy ({value['source']})", value["joules"], format_joules),
        (f"  a {unit}, trained", value["joules_per_unit"], format_joules),
        (f"  with a PUE of {tariff['pue']:g}", value["kilowatt_hours"], lambda amount: f"{amount:.3g} kWh"),
        ("cost", value["cost"], lambda amount: f"{amount:.3g} {tariff['currency']}"),
        ("emissions", value["carbon_grams"], lambda amount: f"{amount:.3g} g CO2"),
    ]
    rows = [
        [name, said(amount["value"]), f"{said(amount['low'])} … {said(amount['high'])}" if _spread(amount) else ""]
        for name, amount, said in told
        if amount is not None
    ]
    notes = [f"  · {part['part']} {part['source']}: {part['how']}" for part in value["parts"]]
    return ["", ink.bold("Energy"), *table(rows, right=(1,)), *(ink.dim(note) for note in notes)]


def _spread(amount: Mapping[str, float]) -> bool:
    return amount["low"] < amount["high"]


def utilisation(entries: Sequence[Mapping[str, Any]] | None, ink: Ink) -> list[str]:
    """How busy each resource was while the job trained: the busiest is the limit."""
    ordered = sorted(entries or (), key=lambda entry: -entry["utilisation"])
    rows = [
        [entry["resource"], format_share(entry["utilisation"]), _of_ceiling(entry), bar(entry["utilisation"])]
        for entry in ordered
    ]
    title = ink.bold("How busy each resource was, of what was measured here at most")
    return ["", title, *table(rows, right=(1, 2))] if rows else []


def _of_ceiling(entry: Mapping[str, Any]) -> str:
    ceiling = entry.get("ceiling")
    return format_of(entry["utilisation"], ceiling, entry["unit"]) if ceiling else ""


def busy(value: Mapping[str, float], whole: float, ink: Ink) -> list[str]:
    """What worked beside the main thread, of `whole` seconds."""
    rows = [
        [name, format_seconds(seconds), format_share(seconds / whole)] for name, seconds in value.items() if seconds
    ]
    return ["", ink.bold("Busy beside it"), *table(rows, right=(1, 2))] if rows else []


def verdict(value: Mapping[str, Any] | None, ink: Ink, title: str = "What limited it") -> list[str]:
    """What limited the run, and by what it is known."""
    if not value:
        return []
    evidence = [f"  · {line}" for line in value.get("evidence", [])]
    return ["", ink.bold(title), f"  {value.get('sentence', '')}", *(ink.dim(line) for line in evidence)]


def _unit(key: str, item: Mapping[str, Any]) -> str:
    return "share" if key == "mfu" else str(item.get("unit", ""))


def predicted(value: Mapping[str, Any] | None, ink: Ink) -> list[str]:
    """Predicted beside measured."""
    rows = []
    for key, item in (value or {}).items():
        if key.startswith("line."):
            continue
        guess, fact = item.get("predicted"), item.get("measured")
        unit = _unit(key, item)
        off = f"{fact / guess - 1:+.0%}" if guess and fact is not None else "–"
        rows.append([key.replace("_", " "), number(guess, unit), number(fact, unit), off])
    head = ("", "predicted", "measured", "off by")
    return ["", ink.bold("Predicted and measured"), *table(rows, head, right=(1, 2, 3))] if rows else []


def foretold(entries: Sequence[Mapping[str, Any]] | None, ink: Ink) -> list[str]:
    """What was predicted of this job while it was only a what-if."""
    rows = [
        [
            f"{item['figure']}, from {item['run']}",
            number(item["predicted"], item["unit"]),
            number(item["measured"], item["unit"]),
            f"{item['measured'] / item['predicted'] - 1:+.0%}",
        ]
        for item in entries or ()
    ]
    head = ("", "predicted", "measured", "off by")
    return ["", ink.bold("What explain --if said of it"), *table(rows, head, right=(1, 2, 3))] if rows else []


def metrics(result: Mapping[str, Any], ink: Ink) -> list[str]:
    """What the model reached, beside its baselines, and how fast it learnt."""
    rows = [[key.replace("_", " "), number(value)] for key, value in (result.get("metrics") or {}).items()]
    rows += [[f"  {name} baseline", number(value)] for name, value in (result.get("baselines") or {}).items()]
    for unit in ("tokens", "samples"):
        if result.get(f"{unit}_per_second") is not None:
            rows.append(["training rate", number(result[f"{unit}_per_second"], f"{unit}/s")])
    if result.get("mfu") is not None:
        rows.append(["MFU (of the measured peak)", f"{result['mfu']:.1%}"])
    return ["", ink.bold("What came out"), *table(rows)] if rows else []


def compression(
    rows: Sequence[Mapping[str, Any]] | None, ink: Ink, chosen: str | None = None, metric: str | None = None
) -> list[str]:
    """The variants that were judged, by `metric`: ✓ within the limit, → the one that was kept."""
    if not rows:
        return []
    drawn = [
        [
            f"{'→' if row['variant'] == chosen else '✓' if row.get('kept') else ' '} {row['variant']}",
            number(row.get("value")),
            "–" if row.get("drop") is None else f"{row['drop']:+.2%}",
            *_speed(row),
            number(row.get("bytes") or None, "bytes"),
            str(row.get("reason", "")),
        ]
        for row in rows
    ]
    judged = (metric or "quality").replace("_", " ")
    head = ["  variant", judged, "drop", "samples/s", "spread", "latency", "size", ""]
    if not any(row.get("spread") for row in rows):
        drawn, head = [row[:4] + row[5:] for row in drawn], head[:4] + head[5:]
    return ["", ink.bold("Compression"), *table(drawn, head, right=range(1, len(head) - 1))]


def _speed(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """A variant's rate, between what it was in its rounds, and what one sample takes."""
    spread = " … ".join(number(float(end)) for end in row.get("spread") or ())
    latency = row.get("latency_ms")
    return number(row.get("samples_per_second") or None), spread or "–", number(latency / 1e3 if latency else None, "s")


def completion(value: Mapping[str, Any] | None, ink: Ink) -> list[str]:
    """What the served model was asked and what it answered."""
    if not value:
        return []
    asked, answered = str(value.get("prompt", "")), str(value.get("text", ""))
    lines = [f"  │ {short(line)}" for line in (answered.splitlines() or [""])[:_LINES]]
    return ["", ink.bold("Served"), f"  asked: {asked!r}", *(ink.dim(line) for line in lines)]


def stages(entries: Sequence[Mapping[str, Any]] | None, ink: Ink) -> list[str]:
    """What each stage took, or that its result was there already."""
    rows = [
        [
            entry["stage"],
            "cached" if entry.get("cached") else number(entry.get("seconds"), "s"),
            short(str(entry.get("detail") or "")),
        ]
        for entry in entries or ()
    ]
    return ["", ink.bold("Stages"), *table(rows, right=(1,))] if rows else []


def error(value: Mapping[str, Any] | None, ink: Ink) -> list[str]:
    """What ended a run that did not end well, and what to do about it."""
    if not value:
        return []
    first, *more = str(value["message"]).splitlines() or [""]
    lines = ["", f"  {ink.bad('error:')} {first}", *(f"  {line}" for line in more)]
    return [*lines, f"  {ink.bold('hint:')} {value['hint']}"] if value.get("hint") else lines


def outcome(result: Mapping[str, Any], ink: Ink) -> list[str]:
    """All that a run ended with, and the next commands."""
    took = f" in {format_seconds(result['seconds'])}" if result.get("seconds") is not None else ""
    status = ink.good("done") if result["status"] == "done" else ink.bad(str(result["status"]))
    lines = [
        "",
        f"{ink.bold(result['run'])} ({result['job']}): {status}{took}",
    ]
    lines += [
        *error(result.get("error"), ink),
        *warnings(result.get("warnings"), ink),
        *stages(result.get("stages"), ink),
        *completion(result.get("completion"), ink),
        *metrics(result, ink),
    ]
    lines += compression(result.get("compression"), ink, result.get("chosen"), result.get("metric"))
    if result.get("ledger"):
        lines += ledger(result["ledger"], ink, energy=result.get("energy"))
    lines += energy(result.get("energy"), ink)
    lines += [*verdict(result.get("verdict"), ink), *predicted(result.get("predicted"), ink)]
    lines += foretold(result.get("foretold"), ink)
    if result.get("model"):
        lines += ["", f"The model is in {result['model']}"]
    commands = result.get("next") or []
    return [*lines, *(["", ink.bold("Next"), *(f"  {command}" for command in commands)] if commands else [])]


def warnings(texts: Sequence[str] | None, ink: Ink) -> list[str]:
    """What went, or will go, otherwise than one would wish."""
    return [*(f"{ink.bad('warning:')} {text}" for text in texts), ""] if texts else []


def plan(answer: Mapping[str, Any], ink: Ink) -> list[str]:
    """What would be read and done, why, and what it would take."""
    planned = answer.get("plan") or {}
    return [
        *warnings(answer.get("warnings"), ink),
        *source(answer.get("source"), ink),
        *choices(planned.get("choices") or (), ink),
        *forecast(answer.get("predicted") or {}, ink),
        *([f"  from {answer['basis']}"] if answer.get("basis") else []),
        *memory(answer.get("memory"), ink, (answer.get("predicted") or {}).get("memory_bytes", {}).get("error")),
        *energy(answer.get("energy"), ink),
    ]


def source(value: Mapping[str, Any] | None, ink: Ink) -> list[str]:
    """What lies at the source."""
    if not value:
        return []
    about = "about " if value.get("estimated") else ""
    samples = ", ".join(f"{count:,} {split}" for split, count in value["samples"].items() if count)
    files = f"{value['files']:,} file{'' if value['files'] == 1 else 's'}, {format_bytes(value['bytes'])}"
    kept = f"  kept from before: {', '.join(value['kept'])}" if value.get("kept") else ""
    return [ink.bold("Data"), f"  {files} ({value['format']}): {about}{samples} samples", *filter(None, [kept]), ""]


def memory(value: Mapping[str, float] | None, ink: Ink, error: float | None = None) -> list[str]:
    """What a rank's memory would hold, and how far such predictions were off."""
    rows = [[name.replace("_", " "), format_bytes(size), ""] for name, size in (value or {}).items() if size]
    doubt = f"± {error:.0%}" if error is not None else "error not known yet"
    rows += [["total", format_bytes(sum((value or {}).values())), doubt]]
    return ["", ink.bold("Memory of one rank"), *table(rows, right=(1,))] if value else []


def choices(entries: Sequence[Mapping[str, Any]], ink: Ink) -> list[str]:
    """Each automatic choice with its reason."""
    rows = [[entry["key"], str(entry["value"]), str(entry["reason"])] for entry in entries]
    return [ink.bold("Choices (--set KEY=VALUE overrides)"), *table(rows)] if rows else []


def forecast(value: Mapping[str, Mapping[str, Any]], ink: Ink) -> list[str]:
    """Predicted figures, each with the error that such predictions had."""
    rows = []
    for key, item in value.items():
        error = f"± {abs(item['error']):.0%}" if item.get("error") is not None else "error not known yet"
        rows.append([key.replace("_", " "), number(item["value"], _unit(key, item)), error])
    return ["", ink.bold("Prediction"), *table(rows, right=(1,))] if rows else []
