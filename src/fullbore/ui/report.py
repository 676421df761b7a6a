"""The report: one HTML file that holds all it shows, opens offline, prints, and stays small for a run of any length."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from fullbore.base.colours import DARK, LIGHT
from fullbore.base.files import write_atomic
from fullbore.base.refusals import about
from fullbore.record.run import RunFolder
from fullbore.ui.markup import colour, said
from fullbore.ui.panels import course, evidence, outcome
from fullbore.ui.reading import number
from fullbore.ui.view import View, view

PANELS: tuple[tuple[str, str, str, Callable[[View], str]], ...] = (
    ("flow", "Flow", "Which stage is the narrow one? The longer it took, the narrower its bore.", outcome.flow),
    ("time", "Time", "Where did every second go? Blue and green work, orange waits, grey is fixed cost.", course.time),
    ("learning", "Learning", "Does it learn, and does it beat the baselines?", course.learning),
    ("throughput", "Throughput", "Was it steady, and did it wait for data?", course.throughput),
    ("resources", "Memory and processors", "Did it fit, and did others take what it needed?", course.resources),
    ("roofline", "Roofline", "How near does each kind of operation come to what the machine can do?", course.roofline),
    ("predicted", "Predicted and measured", "Can the predictions be trusted?", evidence.predicted),
    ("compression", "Compression", "What does a smaller model cost, and what does it gain?", evidence.compression),
    ("plan", "Plan", "What was decided for you, and why?", evidence.plan),
    ("completion", "Served", "What does the model answer?", outcome.completion),
    ("provenance", "Environment and provenance", "On what, from what, by which job?", evidence.provenance),
    ("events", "Events", "What was said on the way? The first error comes first.", evidence.events),
)
"""id, title, the question it answers, what draws it: in reading order."""


def write(run: RunFolder, output: Path | None = None) -> Path:
    """Write the run's report to `output` (none: `report.html` in the run folder) and return where it is.

    Any run folder will do: done, failed, killed, running, of any length. Raises InputError if it is not one, OSError
    if `output` cannot be written.
    """
    target, drawn = output or run.paths.report, page(view(run))
    with about(target):
        write_atomic(target, drawn)
    return target


def page(shown: View) -> str:
    """The whole file. Nothing in it is fetched; its script is the one whose hash the policy names."""
    web = files("fullbore.ui") / "web"
    style, script = (web / "report.css").read_text(), (web / "report.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    drawn = [(name, title, question, draw(shown)) for name, title, question, draw in PANELS]
    body = "".join(_panel(name, title, question, content) for name, title, question, content in drawn if content)
    missing = [title.lower() for _, title, _, content in drawn if not content]
    left_out = f"This run has no data for: {', '.join(missing)}. " if missing else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{said(shown.name)}: fullbore report</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<style>{_colours()}{style}</style></head><body>{_head(shown)}<main>"
        f'<section id="verdict" aria-label="Verdict">{outcome.verdict(shown)}'
        f'<dl class="figures">{outcome.figures(shown)}</dl></section>'
        f"{body}</main><footer>{left_out}Written by fullbore from {said(shown.folder.name)}/ alone; "
        f"nothing in this page is loaded from elsewhere.</footer><script>{script}</script></body></html>\n"
    )


def _head(shown: View) -> str:
    created = number(shown.environment.get("created"))
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(created)) if created else ""
    facts = [said(shown.result.get("job") or ""), when, f"<code>fullbore explain {said(shown.name, 80)}</code>"]
    line = " · ".join(fact for fact in facts if fact)
    return (
        f'<header class="top"><h1>{said(shown.name, 80)}</h1><span class="status {said(shown.status, 20)}">'
        f'{said(shown.status, 20)}</span><p class="quiet">{line}</p></header>'
    )


def _panel(name: str, title: str, question: str, content: str) -> str:
    return (
        f'<section id="{name}" aria-labelledby="{name}-title"><header><h2 id="{name}-title">{title}</h2>'
        f'<p class="quiet">{question}</p></header><div class="body">{content}</div></section>'
    )


def _colours() -> str:
    """The states' colours and what is legible on them as CSS variables, for both schemes."""
    light, dark = (
        "".join(
            f"{colour(state)[4:-1]}:{value};{colour(state, 'on-')[4:-1]}:{legible_on(value)};"
            for state, value in scheme.items()
        )
        for scheme in (LIGHT, DARK)
    )
    return f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"


def legible_on(ground: str) -> str:
    """Black or white, whichever contrasts more with a hex colour (WCAG 2.2): always above 4.5 : 1."""
    channels = [int(ground[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return "#000" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "#fff"
