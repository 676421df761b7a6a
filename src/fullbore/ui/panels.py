"""The panels of a report, in reading order: each is a pure function from the View to HTML, or "" without data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import log
from typing import Any

from fullbore.base.colours import FAMILY
from fullbore.base.units import format_bytes, format_count, format_seconds, format_share
from fullbore.ui import charts
from fullbore.ui.charts import Layer, Line, Mark, Part, Point
from fullbore.ui.series import Series
from fullbore.ui.view import Stage, View, listing, mapping, number

_TEXT = 2000
_JOB_TEXT = 40_000
_INK, _VALIDATION, _TEST = "var(--ink)", "var(--evaluate)", "var(--serve)"
_US, _OTHERS = "var(--forward)", "var(--copy)"
_QUALITY = ("bits_per_byte", "accuracy", "mean_squared_error", "perplexity")


def colour(state: str, role: str = "") -> str:
    """The CSS variable of a ledger state; `role="on-"`: of text on it."""
    return f"var(--{role}{re.sub(r'[^a-z0-9]+', '-', state.lower())})"


def said(value: Any, limit: int = _TEXT) -> str:
    """Escaped text of whatever a run wrote, cut where it is very long."""
    text = str(value)
    return escape(text if len(text) <= limit else f"{text[:limit]} … ({len(text) - limit} characters left out)")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """Rows of ready HTML; a heading that starts with `#` heads a column of figures."""
    figures = [name.startswith("#") for name in head]
    top = "".join(f'<th scope="col"{_figure_class(f)}>{name.lstrip("#")}</th>' for name, f in zip(head, figures, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{_figure_class(f)}>{cell}</td>" for cell, f in zip(row, figures, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _figure_class(figure: bool) -> str:
    return ' class="n"' if figure else ""


def verdict(view: View) -> str:
    """What limited the run, or what ended it; the evidence; what to do first."""
    found = mapping(view.result.get("verdict"))
    error = mapping(view.result.get("error"))
    share = number(found.get("share"))
    limit = str(found.get("limit", ""))
    tone = "failed" if error or view.status == "failed" else FAMILY.get(limit, "work")
    body = _ending(view, error)
    if found:
        body += f'<p class="say">{f"<b>{share:.0%}</b> " if share is not None else ""}{said(found.get("sentence", limit))}</p>'
        evidence = "".join(f"<li>{said(line, 400)}</li>" for line in listing(found.get("evidence"))[:6])
        body += f'<ul class="evidence">{evidence}</ul>' if evidence else ""
    elif view.ledger.ranked():
        state, seconds = view.ledger.ranked()[0]
        body += (
            f'<p class="say">Most of its time went to <b>{said(state)}</b>: '
            f"{format_seconds(seconds)}, {format_share(view.ledger.share(state))}.</p>"
        )
    else:
        body += '<p class="say">Nothing was recorded of where its time went.</p>'
    advice = [mapping(item) for item in listing(found.get("advice"))[:3]]
    body += "".join(_advice(item, index == 0) for index, item in enumerate(advice))
    rule = colour(limit) if limit in FAMILY else "var(--tone)"
    return f'<div class="verdict {tone}" style="border-color:{rule if tone != "failed" else "var(--tone)"}">{body}</div>'


def _ending(view: View, error: Mapping[str, Any]) -> str:
    resume = f"<code>fullbore resume {said(view.name)}</code>"
    match view.status:
        case "failed":
            hint = f'<p class="hint">hint: {said(error["hint"])}</p>' if error.get("hint") else ""
            return f'<p class="end">Failed: {said(error.get("message") or "no reason was recorded")}</p>{hint}'
        case "killed":
            after = format_seconds(view.seconds)
            return f'<p class="end">Killed after {after}: it wrote no result. Go on with {resume}</p>'
        case "interrupted":
            return f'<p class="end">Interrupted on request. Go on with {resume}</p>'
        case "running":
            return '<p class="end">Still running when this was written.</p>'
    return ""


def _advice(item: Mapping[str, Any], first: bool) -> str:
    gain, error = number(item.get("predicted_gain")), number(item.get("error"))
    figure = f"{gain:+.0%} predicted" if gain is not None else ""
    figure += f" ± {error:.0%}" if figure and error is not None else ""
    setting = str(item.get("set") or "")
    change = f"<code>{said(setting if setting.startswith('-') else f'--set {setting}', 200)}</code>" if setting else ""
    lead = "Do first" if first else "Then"
    return f'<p class="advice"><b>{lead}</b> {said(item.get("change", ""), 400)} {change} <span class="quiet">{figure}</span></p>'


def figures(view: View) -> str:
    """The few numbers that people compare."""
    result, cells = view.result, []
    rate = number(result.get("tokens_per_second")) or number(result.get("samples_per_second"))
    series = view.steps.get("rate", Series())
    if rate is None and series:
        rate = sorted(series.mean)[len(series.mean) // 2]
    if rate is not None:
        cells.append((format_count(rate), f"{view.units}/s", "in training"))
    if (mfu := number(result.get("mfu"))) is not None:
        precision = said(view.plan.get("precision", ""))
        cells.append((f"{mfu * 100:.1f} %", "MFU", f"of the measured {precision} peak here"))
    metrics = mapping(result.get("metrics"))
    name = next((name for name in (*_QUALITY, *metrics) if number(metrics.get(name)) is not None), "")
    if name:
        against = " · ".join(f"{said(k)} {charts.plain(v)}" for k, v in _baselines(view))
        cells.append((charts.plain(float(metrics[name])), said(name.replace("_", " ")), against))
    loss = number(result.get("loss")) or view.steps.get("loss", Series()).last
    if loss:
        cells.append((charts.plain(loss), "loss", "validation" if number(result.get("loss")) else "last training step"))
    wall = number(result.get("seconds")) or view.ledger.wall
    waiting = view.ledger.share("data wait")
    cells.append((format_seconds(wall), "wall time", f"{format_share(waiting)} waiting for data"))
    steps = int(number(result.get("steps")) or view.step_count)
    if steps:
        resumed = f"resumed {len(view.sessions)} ×" if view.sessions else "in one go"
        cells.append((f"{steps:,}".replace(",", " "), "steps", resumed))
    return "".join(
        f'<div><dt>{unit}</dt><dd>{value}</dd><dd class="quiet">{note}</dd></div>' for value, unit, note in cells
    )


def _baselines(view: View) -> list[tuple[str, float]]:
    found = mapping(view.result.get("baselines"))
    return [(str(name), value) for name, item in found.items() if (value := number(item)) is not None][:4]


def flow(view: View) -> str:
    """The pipe: one piece per stage, the longest stage the narrowest."""
    timed = [stage.seconds for stage in view.stages if stage.seconds and not stage.cached]
    longest, whole = max(timed, default=0.0), sum(timed) or 1.0
    bores = [_bore(stage, longest, min(timed, default=0.0)) for stage in view.stages]
    pieces = ""
    for index, stage in enumerate(view.stages):
        own = bores[index]
        entry = (bores[index - 1] + own) / 2 if index else own
        leave = (own + bores[index + 1]) / 2 if index + 1 < len(bores) else own
        lit = not stage.cached and stage.seconds == longest and longest > 0
        time = "not finished" if stage.seconds is None else format_seconds(stage.seconds)
        share = "cached" if stage.cached else f"{stage.seconds / whole:.0%}" if stage.seconds else ""
        kind = " ".join(name for name, holds in (("lit", lit), ("cached", stage.cached)) if holds)
        pieces += (
            f'<li class="{kind}"><svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">'
            f'<path d="{_pipe(entry, own, leave)}"/></svg><b>{said(stage.name, 40)}</b>'
            f'<span class="time">{time}</span> <span class="quiet">{share}</span><small>{said(stage.detail, 160)}</small></li>'
        )
    return f'<ol class="ribbon">{pieces}</ol>' if pieces else ""


def _bore(stage: Stage, longest: float, shortest: float) -> float:
    if stage.cached or not stage.seconds or longest <= shortest:
        return 88.0
    return 14 + 74 * log(longest / stage.seconds) / log(longest / shortest)


def _pipe(entry: float, own: float, leave: float) -> str:
    def side(sign: int) -> tuple[float, float, float]:
        return (50 + sign * entry / 2, 50 + sign * own / 2, 50 + sign * leave / 2)

    (a, b, c), (d, e, f) = side(-1), side(1)
    return (
        f"M0 {a:.1f}C16 {a:.1f} 16 {b:.1f} 32 {b:.1f}H68C84 {b:.1f} 84 {c:.1f} 100 {c:.1f}"
        f"V{f:.1f}C84 {f:.1f} 84 {e:.1f} 68 {e:.1f}H32C16 {e:.1f} 16 {d:.1f} 0 {d:.1f}Z"
    )


def time(view: View) -> str:
    """Time by state over the run, a row per rank, and the ledger as one bar with its table."""
    ranked = view.ledger.ranked()
    if not ranked:
        return ""
    across = charts.time_scale(view.seconds)
    body = ""
    order = [state for state in FAMILY if any(state in line.shares for line in view.timelines)]
    for line in view.timelines:
        states = [*order, *(state for state in line.shares if state not in FAMILY)]
        bins = len(next(iter(line.shares.values()), ()))
        edges = [view.seconds * index / bins for index in range(bins + 1)] if bins else [0.0]
        layers = [Layer(state, colour(state), line.shares[state]) for state in states if state in line.shares]
        name = f"rank {line.rank}" if view.ranks > 1 else "state of the main thread"
        body += charts.stack_chart(
            name, edges, layers, unit="share of the time", x=across, top=1.0, short=len(view.timelines) > 1,
            key=False, y_format="share",
        )  # fmt: skip
    if view.ranks > len(view.timelines):
        body += f'<p class="note">{view.ranks} ranks; the first {len(view.timelines)} that recorded are drawn.</p>'
    if view.sessions:
        moments = ", ".join(charts.clock(moment) for moment in view.sessions)
        body += f'<p class="note">Resumed at {moments}; the time in between is not drawn.</p>'
    shares = tenths([seconds for _, seconds in ranked])
    parts = [
        Part(s, t / view.ledger.wall, f"{p:.1f} %", colour(s), colour(s, "on-"))
        for (s, t), p in zip(ranked, shares, strict=True)
    ]
    rows = [
        (f'<i class="box" style="background:{colour(s)}"></i>{said(s)}', format_seconds(t), f'<span class="share">{p:.1f} %</span>')
        for (s, t), p in zip(ranked, shares, strict=True)
    ]
    rows.append(("<b>wall time</b>", f"<b>{format_seconds(view.ledger.wall)}</b>", f"<b>{sum(shares):.1f} %</b>"))
    beside = [(said(k), format_seconds(v)) for k, v in sorted(view.ledger.busy.items(), key=lambda item: -item[1])[:12]]
    tables = f"<div>{table(('state', '#seconds', '#share'), rows, 'ledger')}</div>"
    if beside:
        note = '<p class="note">Worked while the main thread did the above; never part of the 100 %.</p>'
        tables += f"<div>{table(('beside the main thread', '#busy'), beside)}{note}</div>"
    return f'{body}<div class="ledger">{charts.whole_bar(parts)}<div class="pair">{tables}</div></div>'


def tenths(values: Sequence[float]) -> list[float]:
    """Percentages to one decimal that sum to exactly 100 (largest remainder)."""
    whole = sum(values)
    exact = [1000 * value / whole for value in values]
    floors = [int(value) for value in exact]
    by_rest = sorted(range(len(exact)), key=lambda index: floors[index] - exact[index])
    for index in by_rest[: 1000 - sum(floors)]:
        floors[index] += 1
    return [value / 10 for value in floors]


def learning(view: View) -> str:
    """Loss and metrics by step, with what they are to beat."""
    names = list(dict.fromkeys(name for name, _ in view.metrics if name not in ("loss", "samples", "units")))
    quality = next((name for name in (*_QUALITY, *names) if name in names), "")
    names.sort(key=lambda name: name != quality)
    lines = [Line("training", _INK, view.steps.get("loss", Series()))]
    lines += _splits(view, "loss")
    drawn = charts.line_chart("Loss", lines, unit="per unit") if any(line.series for line in lines) else ""
    for name in names[:3]:
        marks = [Mark(f"{k} {charts.plain(v)}", v) for k, v in _baselines(view)] if name == quality else []
        drawn += charts.line_chart(name.replace("_", " ").capitalize(), _splits(view, name), unit="", marks=marks)
    for name, label in (("learning_rate", "Learning rate"), ("gradient_norm", "Gradient norm")):
        if series := view.steps.get(name):
            drawn += charts.line_chart(label, [Line("", _INK, series)], unit="", short=True)
    return f'<div class="pair">{drawn}</div>{_thinned(view.steps.get("loss", Series()), "steps")}' if drawn else ""


def _splits(view: View, name: str) -> list[Line]:
    colours = {"train": _INK, "validation": _VALIDATION}
    return [
        Line(split, colours.get(split, _TEST), series, dots=len(series.x) <= 60)
        for (metric, split), series in view.metrics.items()
        if metric == name
    ]


def _thinned(series: Series, things: str) -> str:
    if not series.thinned:
        return ""
    return (
        f'<p class="note">{series.count:,} {things} drawn as {len(series.x)} groups: the line is their mean, '
        "the band their lowest and highest value. Nothing else is left out.</p>"
    )


def throughput(view: View) -> str:
    """How fast steps went, and how much of the time they waited for data."""
    rate = view.steps.get("rate", Series())
    if not rate:
        return ""
    drawn = charts.line_chart("Throughput", [Line("", _INK, rate)], unit=f"{view.units}/s", include=(0.0,))
    if view.timelines and view.timelines[0].shares:
        shares = view.timelines[0].shares
        waits = shares.get("data wait", (0.0,) * len(next(iter(shares.values()))))
        middle = tuple(view.seconds * (index + 0.5) / len(waits) for index in range(len(waits)))
        line = Line("", colour("data wait"), Series(middle, waits, waits, waits, view.ledger.share("data wait"), len(waits)))
        drawn += charts.line_chart(
            "Waiting for data", [line], unit="share of the time", x=charts.time_scale(view.seconds), x_unit="wall time",
            x_format="clock", y_format="share", include=(0.0, 0.01),
        )  # fmt: skip
    return f'<div class="pair">{drawn}</div>{_thinned(rate, "steps")}'


def resources(view: View) -> str:
    """Memory and CPU over the run: ours, others', free."""
    across, drawn = charts.time_scale(view.seconds), ""
    rss, available = view.resources.get("rss"), view.resources.get("memory_available")
    if rss:
        limit = _memory_limit(view)
        layers = [Layer("this run", _US, rss.high)]
        if available and len(available.x) == len(rss.x):
            others = [max(0.0, limit - own - free) for own, free in zip(rss.high, available.low, strict=True)]
            layers.append(Layer("others", _OTHERS, others))
        drawn += charts.stack_chart(
            "Memory", _edges(rss, view.seconds), layers, x=across, top=limit, y_format="bytes",
            unit=f"of {format_bytes(limit)}; peak of this run {format_bytes(max(rss.high))}",
        )  # fmt: skip
    own, others_cpu = view.resources.get("cpu_self"), view.resources.get("cpu_others")
    if own:
        layers = [Layer("this run", _US, own.mean)]
        if others_cpu and len(others_cpu.x) == len(own.x):
            layers.append(Layer("others", _OTHERS, others_cpu.mean))
        top = view.cores or max(own.high)
        drawn += charts.stack_chart(
            "Processors", _edges(own, view.seconds), layers, x=across, top=top, unit=f"cores busy, of {top:g}"
        )
    return f'<div class="pair">{drawn}</div>' if drawn else ""


def _memory_limit(view: View) -> float:
    """The machine's memory if the run recorded it, else the most that was in use by the run and free at one time."""
    machine = number(mapping(view.environment.get("machine")).get("memory_bytes"))
    rss, available = view.resources["rss"], view.resources.get("memory_available", Series())
    return machine or max(a + b for a, b in zip(rss.high, available.high or (0.0,) * len(rss.x), strict=False))


def _edges(series: Series, end: float) -> list[float]:
    middles = [(a + b) / 2 for a, b in zip(series.x, series.x[1:], strict=False)]
    return [0.0, *middles, max(end, series.x[-1])]


def predicted(view: View) -> str:
    """Every predicted figure beside the measured one."""
    plan = mapping(view.plan.get("predicted"))
    pairs = mapping(view.result.get("predicted")) or {
        key: {"predicted": mapping(item).get("value"), "unit": mapping(item).get("unit")} for key, item in plan.items()
    }
    rows = []
    for key, item in list(pairs.items())[:40]:
        one, two, unit = (mapping(item).get(name) for name in ("predicted", "measured", "unit"))
        guess, fact, usual = number(one), number(two), number(mapping(plan.get(key)).get("error"))
        off = fact / guess - 1 if guess and fact is not None else None
        rows.append((
            said(key.removeprefix("state.").replace("_", " ")),
            _amount(guess, str(unit)) + (f' <span class="quiet">± {usual:.0%}</span>' if usual is not None else ""),
            _amount(fact, str(unit)),
            "" if off is None else f"{off * 100:+.0f} %",
            "" if off is None else _deviation(off),
        ))  # fmt: skip
    return table(("figure", "#predicted", "#measured", "#measured is", "off by"), rows, "predicted") if rows else ""


def _amount(value: float | None, unit: str) -> str:
    if value is None:
        return '<span class="quiet">not measured</span>'
    match unit:
        case "s" | "seconds":
            return format_seconds(value)
        case "bytes" | "B":
            return format_bytes(value)
    return f"{format_count(value)} {said(unit)}"


def _deviation(off: float) -> str:
    """A bar from the middle (as predicted) to the measured deviation; its ends are ± 100 %."""
    width = min(1.0, abs(off)) * 50
    left = 50 if off >= 0 else 50 - width
    return f'<span class="off"><i style="left:{left:.1f}%;width:{width:.1f}%"></i></span>'


def compression(view: View) -> str:
    """Each variant's quality, speed and size, and why it was kept or not."""
    rows = [mapping(item) for item in listing(view.result.get("compression"))[:30]]
    if not rows:
        return ""
    kept = [row for row in rows if row.get("kept")]
    fastest = max(kept, key=lambda row: number(row.get("samples_per_second")) or 0.0, default=None)
    points, cells = [], []
    for row in rows:
        speed, value = number(row.get("samples_per_second")), number(row.get("value"))
        low, high = (*(number(v) for v in listing(row.get("interval"))), None, None)[:2]
        name = said(row.get("variant", ""), 40)
        if speed is not None and value is not None:
            points.append(Point(str(row.get("variant", ""))[:40], speed, value, low, high, row is fastest))
        interval = f' <span class="quiet">{charts.plain(low)} – {charts.plain(high)}</span>' if low and high else ""
        drop, size, latency = (number(row.get(key)) for key in ("drop", "bytes", "latency_ms"))
        cells.append((
            f"<b>{name}</b>" if row is fastest else name,
            (charts.plain(value) if value is not None else "") + interval,
            f"{drop * 100:.2f} %" if drop is not None else "",
            charts.plain(speed) if speed is not None else "",
            f"{latency:.3g} ms" if latency is not None else "",
            format_bytes(size) if size is not None else "",
            f'<span class="{"kept" if row.get("kept") else "rejected"}">{"kept" if row.get("kept") else "rejected"}</span> '
            + said(row.get("reason", ""), 300),
        ))  # fmt: skip
    head = ("variant", "#quality, interval", "#drop", "#samples/s", "#latency", "#size", "verdict")
    picture = charts.scatter_chart("Quality against speed", points, x_unit="samples/s", unit="quality with interval") if points else ""
    return f'{table(head, cells)}<div class="pair">{picture}</div>'


def plan(view: View) -> str:
    """What was decided, by whom and why, and how to decide otherwise."""
    rows = []
    for choice in view.choices[:60]:
        key, chosen = said(choice.get("key", ""), 80), str(choice.get("chosen", ""))
        override = "" if chosen == "set" else f"<code>--set {key}=…</code>"
        cells = (said(choice.get("value", ""), 80), said(choice.get("reason", ""), 300))
        rows.append((key, f"<b>{cells[0]}</b>", cells[1], said({"set": "set by you"}.get(chosen, chosen), 20), override))
    facts = " · ".join(
        f"{said(key.replace('_', ' '))} <b>{said(value, 40)}</b>"
        for key, value in view.plan.items()
        if key not in ("choices", "predicted", "schema", "kind", "t", "rank") and isinstance(value, str | int | float)
    )
    body = table(("setting", "chosen", "because", "how", "override"), rows) if rows else ""
    return body + (f'<p class="note">The frozen plan: {facts}</p>' if facts else "")


def completion(view: View) -> str:
    """What the served model answered."""
    found = mapping(view.result.get("completion"))
    if not found.get("text"):
        return ""
    return f'<pre class="completion"><span class="quiet">{said(found.get("prompt", ""))}</span>{said(found["text"], 6000)}</pre>'


def provenance(view: View) -> str:
    """The machine and program, the artifacts and their parents, the job as it was resolved."""
    facts = "".join(
        f"<div><dt>{said(key, 60)}</dt><dd>{said(value, 300)}</dd></div>" for key, value in list(_flat(view.environment))[:60]
    )
    rows = [
        (
            said(item.name, 120),
            said(item.kind),
            f'<code id="a-{said(item.digest)}">{said(item.digest[:12])}</code>' if item.digest else "",
            format_bytes(item.bytes) if item.digest else "",
            said(item.problem, 300)
            or ", ".join(f'{said(kind)} <a href="#a-{said(d)}"><code>{said(d[:12])}</code></a>' for kind, d in item.parents[:8])
            or "raw data",
        )
        for item in view.artifacts
    ]
    body = f'<dl class="facts">{facts}</dl>'
    body += table(("artifact", "kind", "digest", "#size", "made from"), rows) if rows else ""
    if view.artifacts_left_out:
        body += f'<p class="note">{view.artifacts_left_out} more artifacts are in the run folder.</p>'
    if view.job_toml:
        body += f'<h3>The job as it was resolved</h3><pre class="job">{said(view.job_toml, _JOB_TEXT)}</pre>'
    return body


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping) and not prefix:
            yield from _flat(item, f"{key} ")
        elif prefix + str(key) not in ("schema", "created"):
            yield prefix + str(key), " ".join(map(str, item)) if isinstance(item, list) else item


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
        body = table(("#at", *(("#rank",) if view.ranks > 1 else ()), "level", "message"), rows)
    if view.messages_left_out:
        body += f'<p class="note">{view.messages_left_out} messages in the middle are left out; events.jsonl has them.</p>'
    if view.dropped:
        body += f'<p class="note">{view.dropped} events were dropped because they came faster than they could be written.</p>'
    return body
