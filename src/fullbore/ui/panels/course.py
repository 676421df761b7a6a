"""The course of a run: time by state, learning, throughput, memory and processors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fullbore.base.colours import FAMILY
from fullbore.base.units import format_bytes, format_joules, format_of, format_seconds, plural
from fullbore.ui import charts
from fullbore.ui.charts import Layer, Line, Mark, Part
from fullbore.ui.markup import LOWER_IS_BETTER, baselines, colour, percent, quality, said, table
from fullbore.ui.reading import listing, mapping, number
from fullbore.ui.roofline import picture
from fullbore.ui.series import Series
from fullbore.ui.view import Timeline, View

_INK, _VALIDATION, _TEST = "var(--ink)", "var(--evaluate)", "var(--serve)"
_US, _OTHERS = "var(--forward)", "var(--copy)"


def time(view: View) -> str:
    """Time by state over the run, a row per rank, and the ledger as one bar with its table."""
    if not view.ledger.ranked():
        return ""
    body = "".join(_rank(view, line) for line in view.timelines)
    if view.ranks > len(view.timelines):
        body += f'<p class="note">{view.ranks} ranks; the first {len(view.timelines)} are drawn.</p>'
    if view.resumed:
        moments = ", ".join(charts.clock(moment) for moment in view.resumed)
        body += f'<p class="note">Resumed at {moments}; the time in between is left out.</p>'
    return body + _ledger(view)


def _rank(view: View, line: Timeline) -> str:
    states = [*(state for state in FAMILY if state in line.shares), *(s for s in line.shares if s not in FAMILY)]
    layers = [Layer(state, colour(state), line.shares[state]) for state in states]
    bins = len(layers[0].values) if layers else 0
    edges = [view.seconds * index / bins for index in range(bins + 1)] if bins else [0.0]
    return charts.stack_chart(
        f"rank {line.rank}" if view.ranks > 1 else "The main thread's state",
        edges,
        layers,
        unit="share of the time",
        x=charts.time_scale(view.seconds),
        top=1.0,
        y_format="share",
        key=False,
        short=len(view.timelines) > 1,
    )


def _ledger(view: View) -> str:
    ranked, wall = view.ledger.ranked(), view.ledger.wall
    shares = [
        (state, seconds, tenth) for (state, seconds), tenth in zip(ranked, tenths([t for _, t in ranked]), strict=True)
    ]
    digits = 1 if wall >= 10 else 3
    parts = [Part(s, t / wall, f"{tenth:.1f} %", colour(s), colour(s, "on-")) for s, t, tenth in shares]
    rows: list[tuple[str, ...]] = [
        (
            f'<i class="box" style="background:{colour(state)}"></i>{said(state, 60)}',
            f"{seconds:.{digits}f}",
            f'<span class="share">{tenth:.1f} %</span>',
        )
        for state, seconds, tenth in shares
    ]
    rows.append(("<b>wall time</b>", f"<b>{wall:.{digits}f}</b>", "<b>100.0 %</b>"))
    head: tuple[str, ...] = ("state", "#seconds", "#share")
    if energy := view.energy:
        states = mapping(energy.get("states"))
        spent = [_joules(mapping(states.get(state)).get("joules")) for state, _, _ in shares]
        spent.append(f"<b>{_joules(mapping(energy.get('joules')).get('value'))}</b>")
        rows = [(*row, joules) for row, joules in zip(rows, spent, strict=True)]
        head = (*head, f"#energy, {said(energy.get('source'), 60)}")
    tables = f"<div>{table(head, rows, 'ledger')}{_energy(energy)}</div>"
    busy = sorted(view.ledger.busy.items(), key=lambda item: -item[1])[:12]
    if busy:
        beside = table(("beside the main thread", "#seconds"), [(said(k, 60), f"{v:.{digits}f}") for k, v in busy])
        tables += f'<div>{beside}<p class="note">Worked at the same time; never part of the 100 %.</p></div>'
    return f'<div class="ledger">{charts.whole_bar(parts)}<div class="pair">{tables}</div></div>'


def _joules(value: Any) -> str:
    return "–" if (joules := number(value)) is None else format_joules(joules)


def _energy(energy: Mapping[str, Any]) -> str:
    """Between which ends the energy lies, what it costs and emits, and how that is known."""
    whole, tariff = mapping(energy.get("joules")), mapping(energy.get("tariff"))
    if not whole:
        return ""
    ends = [_joules(whole.get("low")), _joules(whole.get("high"))]
    told = [
        f"Energy {_joules(whole.get('value'))}" + (f", between {ends[0]} and {ends[1]}" if len({*ends}) > 1 else "")
    ]
    for name, unit in (("kilowatt_hours", "kWh"), ("cost", tariff.get("currency")), ("carbon_grams", "g CO2")):
        if (amount := number(mapping(energy.get(name)).get("value"))) is not None:
            told.append(f"{amount:.3g} {said(unit, 20)}")
    if (each := number(mapping(energy.get("joules_per_unit")).get("value"))) is not None:
        told.append(f"{format_joules(each)} a trained {said(energy.get('unit'), 20)}")
    parts = [mapping(part) for part in listing(energy.get("parts"))]
    how = "".join(f" {said(part.get('part'), 40)}: {said(part.get('how'), 400)}." for part in parts)
    return f'<p class="note">{"; ".join(told)}.{how}</p>'


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
    judged, across = quality(view), charts.step_scale(view.step_count)
    names.sort(key=lambda name: name != judged)
    lines = [Line("training", _INK, view.steps.get("loss", Series()))]
    lines += _splits(view, "loss")
    drawn = (
        charts.line_chart("Loss", lines, unit=f"per {view.unit}, lower is better", x=across)
        if any(line.series for line in lines)
        else ""
    )
    for name in names[:3]:
        marks = [Mark(f"{k} {charts.plain(v)}", v) for k, v in baselines(view)] if name == judged else []
        drawn += charts.line_chart(
            name.replace("_", " ").capitalize(), _splits(view, name), unit=_better(name), marks=marks, x=across
        )
    for name, label in (("learning_rate", "Learning rate"), ("gradient_norm", "Gradient norm")):
        if series := view.steps.get(name):
            drawn += charts.line_chart(label, [Line("", _INK, series)], unit="", short=True, x=across)
    return f'<div class="pair">{drawn}</div>{_thinned(view.steps.get("loss", Series()), "steps")}' if drawn else ""


def _better(metric: str) -> str:
    return "lower is better" if metric in LOWER_IS_BETTER else "higher is better"


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
    drawn = charts.line_chart(
        "Throughput",
        [Line("", _INK, rate)],
        unit=f"{view.units}/s",
        x=charts.step_scale(view.step_count),
        include=(0.0,),
    )
    if view.timelines and view.timelines[0].shares:
        shares = view.timelines[0].shares
        waits = shares.get("data wait", (0.0,) * len(next(iter(shares.values()))))
        middle = tuple(view.seconds * (index + 0.5) / len(waits) for index in range(len(waits)))
        line = Line(
            "", colour("data wait"), Series(middle, waits, waits, waits, view.ledger.share("data wait"), len(waits))
        )
        drawn += charts.line_chart(
            "Waiting for data", [line], unit="share of the time", x=charts.time_scale(view.seconds), x_unit="wall time",
            x_format="clock", y_format="share", include=(0.0, 0.01),
        )  # fmt: skip
    return f'<div class="pair">{drawn}</div>{_steadiness(view)}{_thinned(rate, "steps")}'


def _steadiness(view: View) -> str:
    """Warm-up set apart, and what slow steps lost."""
    found = view.steady
    p50, p99 = number(found.get("median")), number(found.get("p99"))
    if not p50 or p99 is None:
        return ""
    warm, slow = int(number(found.get("warm_up")) or 0), int(number(found.get("slow")) or 0)
    told = [f"Steady steps take {format_seconds(p50)}; one in a hundred {format_seconds(p99)} or more"]
    if warm:
        beyond = format_seconds(number(found.get("warm_up_seconds")) or 0.0)
        told.append(f"{plural(warm, 'step')} warmed up first and took {beyond} more than as many steady ones")
    if slow:
        lost = ", ".join(said(state, 40) for state in list(mapping(found.get("lost_in")))[:3])
        share = percent(number(found.get("share")) or 0.0, 1)
        told.append(f"{plural(slow, 'slow step')} lost {share} of the time" + (f", in {lost}" if lost else ""))
    return f'<p class="note">{". ".join(told)}.</p>'


def roofline(view: View) -> str:
    """The run's operations under the roofs that were measured of its machine."""
    if not listing(view.roofline.get("points")):
        return ""
    drawing = picture(view.roofline, view.name)
    text = (
        "Forward and backward are divided among their operations as the roofs would; the optimizer is measured alone."
    )
    return f'<div class="roofline">{drawing}</div><p class="note">{text}</p>'


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
    return f'<div class="pair">{drawn}</div>{_utilisation(view)}' if drawn else ""


def _utilisation(view: View) -> str:
    """How busy each resource was in training, the busiest first: the utilisation law."""
    rows = [
        (
            said(item.get("resource", ""), 60),
            percent(busy, 1),
            format_of(busy, ceiling, said(item.get("unit", ""), 20))
            if (ceiling := number(item.get("ceiling")))
            else "",
            f'<span class="use"><i style="width:{min(busy, 1):.1%}"></i></span>',
        )
        for item in map(mapping, listing(view.verdict.get("utilisation"))[:8])
        if (busy := number(item.get("utilisation"))) is not None
    ]
    return (
        table(("busy in training", "#share", "#of what was measured", "0 … 100 %"), rows, "predicted") if rows else ""
    )


def _memory_limit(view: View) -> float:
    """The machine's memory if the run recorded it, else the most that was in use by the run and free at one time."""
    machine = number(mapping(view.environment.get("machine")).get("memory_bytes"))
    rss, available = view.resources["rss"], view.resources.get("memory_available", Series())
    return machine or max(a + b for a, b in zip(rss.high, available.high or (0.0,) * len(rss.x), strict=False))


def _edges(series: Series, end: float) -> list[float]:
    middles = [(a + b) / 2 for a, b in zip(series.x, series.x[1:], strict=False)]
    return [0.0, *middles, max(end, series.x[-1])]
