"""The evidence of a run: predictions against measurements, compression, plan, provenance, events."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fullbore.base.units import format_bytes, format_count, format_flops, format_seconds
from fullbore.ui import charts
from fullbore.ui.charts import Point
from fullbore.ui.markup import colour, percent, quality, said, table
from fullbore.ui.reading import listing, mapping, number, numbers
from fullbore.ui.view import Provenance, View

_JOB_TEXT = 40_000
_LINE = "line."
_FIGURES = {
    "step_seconds": "one step",
    "train_seconds": "training",
    "total_seconds": "the whole run",
    "rate": "rate",
    "memory_bytes": "memory",
}


def predicted(view: View) -> str:
    """Every predicted figure beside the measured one."""
    plan = mapping(view.plan.get("predicted"))
    pairs = mapping(view.result.get("predicted")) or {
        key: {"predicted": mapping(item).get("value"), "unit": mapping(item).get("unit")} for key, item in plan.items()
    }
    figures = {key: mapping(item) for key, item in list(pairs.items())[:80] if not key.startswith(_LINE)}
    rows = [_compared(key, item, mapping(plan.get(key))) for key, item in figures.items()]
    head = ("figure", "#predicted", "#measured", "#off by", "−100 % … +100 %")
    return (table(head, rows, "predicted") if rows else "") + _lines(view, pairs)


def _lines(view: View, pairs: Mapping[str, Any]) -> str:
    """The predicted ledger beside the measured one, the largest residual first."""
    found = []
    for key, item in list(pairs.items())[:80]:
        if key.startswith(_LINE):
            state, guess = key.removeprefix(_LINE), number(mapping(item).get("predicted")) or 0.0
            fact = number(mapping(item).get("measured"))
            fact = view.ledger.seconds.get(state, 0.0) if fact is None else fact
            found.append((state, guess, fact, number(mapping(item).get("error"))))
    if not found:
        return ""
    found.sort(key=lambda line: -abs(line[2] - line[1]))
    longest = max(max(guess, fact) for _, guess, fact, _ in found) or 1.0
    rows = [
        (
            f'<i class="box" style="background:{colour(state)}"></i>{said(state, 60)}',
            (format_seconds(guess) if guess else "–")
            + (f' <span class="quiet">± {percent(error)}</span>' if error else ""),
            format_seconds(fact),
            f"{fact - guess:+.2f} s".replace("-", "−"),
            _pair(guess / longest, fact / longest, colour(state)),
        )
        for state, guess, fact, error in found
    ]
    head = ("line of the ledger", "#predicted", "#measured", "#residual", "predicted (thin), measured (thick)")
    return f"<h3>By line, the largest residual first</h3>{table(head, rows, 'predicted')}"


def _pair(guess: float, fact: float, ink: str) -> str:
    """Two bars, one under the other."""
    return (
        f'<span class="both"><i class="thin" style="width:{guess:.1%}"></i>'
        f'<i style="width:{fact:.1%};background:{ink}"></i></span>'
    )


def _compared(key: str, item: Mapping[str, Any], planned: Mapping[str, Any]) -> tuple[str, ...]:
    guess, fact, usual = number(item.get("predicted")), number(item.get("measured")), number(planned.get("error"))
    off = fact / guess - 1 if guess and fact is not None else None
    unit = str(item.get("unit") or "")
    name = _FIGURES.get(key, key.removeprefix("state.").replace("_", " "))
    return (
        said(name, 80),
        _amount(guess, unit) + (f' <span class="quiet">± {percent(usual)}</span>' if usual is not None else ""),
        _amount(fact, unit),
        "" if off is None else percent(off, sign=True),
        "" if off is None else _deviation(off),
    )


def _amount(value: float | None, unit: str) -> str:
    if value is None:
        return '<span class="quiet">–</span>'
    match unit:
        case "s" | "seconds":
            return format_seconds(value)
        case "bytes" | "B":
            return format_bytes(value)
    return f"{format_count(value)} {said(unit, 20)}"


def _deviation(off: float) -> str:
    """A bar from the middle, which is as predicted, to what was measured."""
    width = min(1.0, abs(off)) * 50
    left = 50 if off >= 0 else 50 - width
    return f'<span class="off"><i style="left:{left:.1f}%;width:{width:.1f}%"></i></span>'


def compression(view: View) -> str:
    """Each variant's quality, speed and size, and why it was kept or not."""
    variants = [_variant(mapping(item)) for item in listing(view.result.get("compression"))[:30]]
    if not variants:
        return ""
    chosen = next((item for item in variants if item.name == view.result.get("chosen")), None)
    metric = quality(view)
    head = (
        "variant",
        f"#{said(metric.replace('_', ' ') or 'quality', 40)}",
        "#drop",
        "#samples/s",
        "#latency",
        "#size",
        "verdict",
    )
    pictures = "".join(
        charts.scatter_chart(name, points, x_unit=unit, unit="drop, interval: %, lower is better")
        for name, unit, points in (
            ("Lost quality against speed", "samples/s", _points(variants, chosen, lambda item: item.speed)),
            ("Lost quality against size", "MB", _points(variants, chosen, lambda item: item.size and item.size / 1e6)),
        )
        if points
    )
    return f'{table(head, [_row(item, item is chosen) for item in variants])}<div class="pair">{pictures}</div>'


@dataclass(frozen=True)
class _Variant:
    name: str
    value: float | None
    """None: it could not be built or judged."""
    drop: float | None
    low: float | None
    high: float | None
    """Relative to the trained model, and the interval of that."""
    speed: float | None
    slowest: float | None
    fastest: float | None
    """samples/s, and what it was in the slowest and the fastest round."""
    latency: float | None
    size: float | None
    kept: bool
    reason: str


def _variant(row: Mapping[str, Any]) -> _Variant:
    low, high = (*(number(item) for item in listing(row.get("interval"))), None, None)[:2]
    value, drop, speed, latency, size = (
        number(row.get(key)) for key in ("value", "drop", "samples_per_second", "latency_ms", "bytes")
    )
    slowest, fastest = (*(number(item) for item in listing(row.get("spread"))), None, None)[:2]
    name, reason = str(row.get("variant", ""))[:40], str(row.get("reason", ""))
    return _Variant(name, value, drop, low, high, speed, slowest, fastest, latency, size, bool(row.get("kept")), reason)


def _points(
    variants: Iterable[_Variant], chosen: _Variant | None, x: Callable[[_Variant], float | None]
) -> list[Point]:
    return [
        Point(
            item.name,
            across,
            100 * item.drop,
            item.low and 100 * item.low,
            item.high and 100 * item.high,
            item is chosen,
        )
        for item in variants
        if (across := x(item)) is not None and item.drop is not None
    ]


def _row(item: _Variant, chosen: bool) -> tuple[str, ...]:
    fate = "kept" if item.kept else "rejected"
    verdict = f'<span class="{fate}">{"served" if chosen else fate}</span> {said(item.reason, 300)}'
    if item.value is None:
        return said(item.name), "–", "–", "–", "–", "–", verdict
    interval = ""
    if item.low is not None and item.high is not None and item.low < item.high:
        interval = f' <span class="quiet">{percent(item.low, 2)} … {percent(item.high, 2)}</span>'
    spread = ""
    if item.slowest is not None and item.fastest is not None:
        spread = f' <span class="quiet">{charts.plain(item.slowest)} … {charts.plain(item.fastest)}</span>'
    return (
        f"<b>{said(item.name)}</b>" if chosen else said(item.name),
        charts.plain(item.value),
        (percent(item.drop, 2) if item.drop is not None else "–") + interval,
        (charts.plain(item.speed) if item.speed else "–") + spread,
        format_seconds(item.latency / 1e3) if item.latency else "–",
        format_bytes(item.size) if item.size is not None else "–",
        verdict,
    )


def plan(view: View) -> str:
    """What was decided, by whom and why, and how to decide otherwise."""
    rows = []
    for choice in view.choices[:60]:
        key, chosen = said(choice.get("key", ""), 80), str(choice.get("chosen", ""))
        override = "" if chosen == "set" else f"<code>--set {_setting(choice)}</code>"
        cells = (said(choice.get("value", ""), 80), said(choice.get("reason", ""), 300))
        rows.append((key, f"<b>{cells[0]}</b>", cells[1], said({"set": "by you"}.get(chosen, chosen), 20), override))
    facts = " · ".join(
        f"{said(key.replace('_', ' '))} <b>{said(value, 40)}</b>"
        for key, value in view.plan.items()
        if key not in ("choices", "predicted", "schema") and isinstance(value, str | int | float)
    )
    body = table(("setting", "chosen", "because", "how", "override"), rows) if rows else ""
    return body + (f'<p class="note">The frozen plan: {facts}</p>' if facts else "")


def _setting(choice: Mapping[str, Any]) -> str:
    """What to type to decide otherwise: another value if the run names one."""
    return said(
        shlex.quote(f"{choice.get('key', '')}={choice['instead']}")
        if choice.get("instead")
        else f"{choice.get('key', '')}=…",
        120,
    )


def provenance(view: View) -> str:
    """The machine and program, the artifacts and their parents, the job as it was resolved."""
    facts = "".join(
        f"<div><dt>{said(key.replace('_', ' '), 60)}</dt><dd>{said(value, 600)}</dd></div>"
        for key, value in [*_facts(view.environment), *_ceilings(view.ceilings)][:40]
    )
    rows = [
        (
            said(item.name, 120),
            f'<code id="a-{said(item.digest)}">{said(item.digest[:12])}</code>' if item.digest else "–",
            format_bytes(item.bytes) if item.digest else "–",
            _origin(item),
        )
        for item in view.artifacts
    ]
    body = f'<dl class="facts">{facts}</dl>'
    body += table(("artifact", "digest", "#size", "made from"), rows) if rows else ""
    if view.artifacts_left_out:
        body += f'<p class="note">{view.artifacts_left_out} more artifacts are in the run folder.</p>'
    if not view.job_toml:
        return body
    text = view.job_toml if len(view.job_toml) <= _JOB_TEXT else f"{view.job_toml[:_JOB_TEXT]}\n# the rest is left out"
    sections = "".join(f"<div>{said(part.strip(), _JOB_TEXT)}</div>" for part in re.split(r"\n(?=\[)", text))
    return f'{body}<h3>The job as it was resolved</h3><pre class="job">{sections}</pre>'


def _origin(item: Provenance) -> str:
    if item.problem:
        return f'<span class="rejected">{said(item.problem, 300)}</span>'
    parents = (
        f'{said(kind, 40)} <a href="#a-{said(d)}"><code>{said(d[:12])}</code></a>' for kind, d in item.parents[:8]
    )
    return ", ".join(parents) or "raw data"


def _facts(value: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """The environment as (name, text); what it nests is listed in one line."""
    for key, item in value.items():
        if key in ("schema", "created") or item is None:
            continue
        if isinstance(item, Mapping):
            yield key, ", ".join(" ".join(_fact(str(k), v)) for k, v in item.items() if v is not None)
        else:
            yield _fact(key, item)


def _ceilings(found: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """What was measured of the machine."""
    rates = {
        name: max(numbers(by_threads).values(), default=0.0)
        for name, by_threads in mapping(found.get("matmul_flops")).items()
    }
    if rates:
        yield "measured matrix product", ", ".join(f"{name} {format_flops(rate)}" for name, rate in rates.items())
    for name in ("memory_bandwidth", "disk_write", "disk_read"):
        if (rate := number(found.get(name))) is not None:
            yield f"measured {name.replace('_', ' ')}", f"{format_bytes(rate)}/s"


def _fact(key: str, value: Any) -> tuple[str, str]:
    if key.endswith("_bytes") and (size := number(value)) is not None:
        return key.removesuffix("_bytes"), format_bytes(size)
    return key.replace("_", " "), " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def events(view: View) -> str:
    """What was said while it ran."""
    rows = [
        (
            charts.clock(round(message.seconds, 1)),
            *((str(message.rank),) if view.ranks > 1 else ()),
            f'<span class="level {said(message.level, 12)}">{said(message.level, 12)}</span>',
            said(message.text, 600),
        )
        for message in view.messages
    ]
    body = ""
    if rows:
        body = table(("#at", *(("#rank",) if view.ranks > 1 else ()), "level", "message"), rows, "events")
    if view.messages_left_out:
        body += (
            f'<p class="note">{view.messages_left_out} messages in the middle are left out; events.jsonl has them.</p>'
        )
    if view.dropped:
        body += f'<p class="note">{view.dropped} events came faster than they could be written and were dropped.</p>'
    return body
