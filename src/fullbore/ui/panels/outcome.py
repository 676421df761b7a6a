"""What came of a run: what limited or ended it, its key figures, its stages as a pipe, what it answered."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from math import log
from typing import Any

from fullbore.base.colours import FAMILY
from fullbore.base.units import format_count, format_flops, format_seconds
from fullbore.ui import charts
from fullbore.ui.markup import baselines, colour, percent, quality, said
from fullbore.ui.reading import Stage, listing, mapping, number
from fullbore.ui.series import Series
from fullbore.ui.view import View

_OURS = ("", "nothing", "model compute", "memory bandwidth", "small operations")
"""Limits that are the run's own work; any other is waiting for something."""


def verdict(view: View) -> str:
    """What limited the run, or what ended it; the evidence; what to do first."""
    found, error = view.verdict, mapping(view.result.get("error"))
    limit, share = str(found.get("limit", "")), number(found.get("share"))
    if not found and view.ledger.ranked():
        limit = view.ledger.ranked()[0][0]
        share = view.ledger.share(limit)
    sentence = found.get("sentence") or (f"Most of its time went to: {limit}." if limit else "It recorded no time.")
    lines = "".join(f"<li>{said(line, 400)}</li>" for line in listing(found.get("evidence"))[:6])
    evidence = f'<ul class="evidence">{lines}</ul>' if lines else ""
    advised = (mapping(item) for item in listing(found.get("advice"))[:3])
    advice = "".join(_advice(item, index == 0) for index, item in enumerate(advised))
    bad = bool(error) or view.status == "failed"
    edge = "var(--warm)" if bad else colour(limit if limit in FAMILY else "forward" if limit in _OURS else "data wait")
    figure = f'<p class="limit"><b>{percent(share)}</b><span>{said(limit, 60)}</span></p>' if share is not None else ""
    return (
        f'<div class="verdict" style="border-color:{edge}">{_ending(view, error)}<div class="why">{figure}'
        f'<div><p class="say">{said(sentence)}</p>{evidence}{advice}</div></div></div>'
    )


def _ending(view: View, error: Mapping[str, Any]) -> str:
    resume = f"<code>fullbore resume {said(view.name)}</code>"
    match view.status:
        case "failed":
            first, _, rest = str(error.get("message") or "no reason was recorded").partition("\n")
            more = f'<pre class="rest">{said(textwrap.dedent(rest), 4000)}</pre>' if rest else ""
            hint = f'<p class="hint">hint: {said(error["hint"])}</p>' if error.get("hint") else ""
            return f'<p class="end">Failed: {said(first)}</p>{more}{hint}'
        case "killed":
            moment = f"after {format_seconds(view.seconds)}" if view.seconds else "before it recorded anything"
            return f'<p class="end">Killed {moment}: it wrote no result. Go on with {resume}</p>'
        case "interrupted":
            return f'<p class="end">Interrupted on request. Go on with {resume}</p>'
        case "running":
            return '<p class="end">Still running when this was written.</p>'
    return ""


def _advice(item: Mapping[str, Any], first: bool) -> str:
    gain, error = number(item.get("predicted_gain")), number(item.get("error"))
    figure = f"{percent(gain, sign=True)} predicted" if gain is not None else ""
    figure += f" ± {percent(error)}" if figure and error is not None else ""
    now, then = number(item.get("now")), number(item.get("then"))
    if item.get("figure") and now is not None and then is not None:
        told = format_seconds if item.get("unit") == "s" else format_count
        figure += f": {said(item['figure'], 40)} {told(now)} → {told(then)}"
    setting = str(item.get("set") or "")
    change = f"<code>{said(setting if setting.startswith('-') else f'--set {setting}', 200)}</code>" if setting else ""
    lead = "Do first" if first else "Then"
    said_change = said(item.get("change", ""), 400)
    return f'<p class="advice"><b>{lead}</b> {said_change} {change} <span class="quiet">{figure}</span></p>'


def figures(view: View) -> str:
    """The few numbers that people compare."""
    cells = [
        cell
        for cell in (_rate(view), _utilisation(view), _quality(view), _loss(view), _wall(view), _steps(view))
        if cell
    ]
    return "".join(
        f'<div><dt>{unit}</dt><dd>{value}</dd><dd class="quiet">{note}</dd></div>' for value, unit, note in cells
    )


def _rate(view: View) -> tuple[str, str, str] | None:
    found = number(view.result.get("tokens_per_second")) or number(view.result.get("samples_per_second"))
    series = view.steps.get("rate", Series())
    if found is None and series:
        found = sorted(series.mean)[len(series.mean) // 2]
    return (format_count(found), f"{view.units}/s", "in training") if found is not None else None


def _utilisation(view: View) -> tuple[str, str, str] | None:
    mfu = number(view.result.get("mfu"))
    ceiling, precision = number(view.result.get("peak_flops_per_second")), said(view.plan.get("precision") or "", 8)
    peak = f"of {format_flops(ceiling)} measured" if ceiling else "of the measured peak"
    return (percent(mfu, 1), f"MFU {precision}".strip(), peak) if mfu is not None else None


def _quality(view: View) -> tuple[str, str, str] | None:
    name = quality(view)
    series = view.metrics.get((name, "validation"), Series())
    value = number(mapping(view.result.get("metrics")).get(name))
    value = value if value is not None else series.last if series else None
    against = " · ".join(f"{said(other, 40)} {charts.plain(figure)}" for other, figure in baselines(view))
    return (charts.plain(value), said(name.replace("_", " "), 40), against) if value is not None else None


def _loss(view: View) -> tuple[str, str, str] | None:
    final, series = number(view.result.get("loss")), view.steps.get("loss", Series())
    if final is not None:
        return charts.plain(final), "loss", f"per {view.unit}, at the end"
    return (charts.plain(series.last), "loss", f"per {view.unit}, last step") if series else None


def _wall(view: View) -> tuple[str, str, str] | None:
    wall = view.ledger.wall
    if not wall:
        return None
    return format_seconds(wall), "wall time", f"{percent(view.ledger.share('data wait'), 1)} waiting for data"


def _steps(view: View) -> tuple[str, str, str] | None:
    steps = int(number(view.result.get("steps")) or view.step_count)
    resumed = f"resumed {len(view.resumed)} ×" if view.resumed else "in one go"
    return (f"{steps:,}".replace(",", "\u202f"), "steps", resumed) if steps else None


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
        lit = len(timed) > 1 and not stage.cached and stage.seconds == longest
        time = "cached" if stage.cached else format_seconds(stage.seconds)
        share = "" if stage.cached else percent(stage.seconds / whole) if stage.finished else "not finished"
        kind = " ".join(name for name, holds in (("lit", lit), ("cached", stage.cached)) if holds)
        pieces += (
            f'<li class="{kind}"><svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">'
            f'<path d="{_pipe(entry, own, leave)}"/></svg><b>{said(stage.name, 40)}</b>'
            f'<span class="time{" quiet" if stage.cached else ""}">{time}</span> <span class="quiet">{share}</span>'
            f'<small title="{said(stage.detail, 400)}">{said(stage.detail, 160)}</small></li>'
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


def completion(view: View) -> str:
    """What the served model answered."""
    found = mapping(view.result.get("completion"))
    if not found.get("text"):
        return ""
    text, gap = str(found["text"]), "\n" if str(found["text"]).startswith("{") else ""
    prompt = f'<span class="quiet">{said(found.get("prompt", ""))}</span>{gap}'
    return f'<pre class="completion">{prompt}{said(text, 600 if gap else 6000)}</pre>'
