"""Write docs/job.md, every setting of a job, from the JSON Schema that `fullbore schema` prints; draw the roofline.

python docs/generate.py            # after a setting was added or changed; a test compares
"""

from __future__ import annotations

from collections.abc import Iterator
from math import log10
from pathlib import Path
from typing import Any

from fullbore.spec.job import Job
from fullbore.spec.schema import schema
from fullbore.spec.write import toml_value

TARGET = Path(__file__).with_name("job.md")
ROOFLINE = Path(__file__).parent / "concepts" / "roofline.svg"

HEAD = """\
# Every setting of a job

<!-- Written by docs/generate.py from the schema; a test compares. Change the docstrings in src/fullbore/spec. -->

A job is a TOML file. A stage whose section is absent does not run: a job with only `[data]` packs shards. Unknown keys
are errors, and all mistakes of a file are named at once, with their lines.

- `extends = "other.toml"` puts one other file below this one, found beside it; what is written here wins.
  `data.source` and folders of models are relative to where the command runs.
- `--set train.budget="200 steps"` overrides a setting for one command and may be repeated.
- `fullbore check job.toml --resolved` shows every value and where it was written.
- `fullbore schema > job.schema.json` gives editors the same as a JSON Schema; `#:schema job.schema.json` in a job's
  first line names it.
- `"auto"`: the program measures and chooses, and prints what it chose, why, and how to override it.
- `"none"`: what an empty value is written as, since TOML has no null.
- Sizes are written `"64MiB"`, `"2GB"` or as bytes; durations `"90s"`, `"3min"`, `"1h30m"` or as seconds; shares `"5%"`
  or `0.05`; budgets `"90s"`, `"200 steps"`, `"10M tokens"`, `"5000 samples"` or `"3 epochs"`.
"""


def written(node: dict[str, Any]) -> str:
    """What may be written for a value, in words."""
    if "anyOf" in node:
        return _joined(written(option) for option in node["anyOf"])
    if "const" in node:
        return f"`{toml_value(node['const'])}`"
    if "enum" in node:
        return ", ".join(f"`{toml_value(value)}`" for value in node["enum"])
    if "examples" in node:
        return f"like {', '.join(f'`{toml_value(value)}`' for value in node['examples'])}"
    if node["type"] == "array":
        return f"a list of: {written(node['items'])}"
    words = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true`, `false`"}
    return words[node["type"]] + _bounds(node)


def _joined(options: Iterator[str]) -> str:
    return ", ".join(dict.fromkeys(options))


def _bounds(node: dict[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return ",".join(f" {sign} {node[bound]:g}" for bound, sign in signs.items() if bound in node)


def default(node: dict[str, Any]) -> str:
    """What holds where nothing is written, as it would be written."""
    if "default" not in node:
        return '`"none"`' if {"const": "none"} in node.get("anyOf", ()) else "not set"
    return f"`{toml_value(node['default'])}`"


def table(section: dict[str, Any], required: list[str]) -> Iterator[str]:
    yield from ("| setting | written as | default | what it is |", "|---|---|---|---|")
    for key, node in section["properties"].items():
        if key == "kind" and "const" in node:
            continue
        about = " ".join(node["description"].split())
        cells = (f"`{key}`", written(node), "required" if key in required else default(node), about)
        yield f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def page() -> str:
    whole = schema()
    needed = {name: node.get("required", []) for name, node in Job.model_json_schema()["$defs"].items()}
    lines = [HEAD, "## Above all sections", "", "| setting | what it is |", "|---|---|"]
    sections = []
    for key, node in whole["properties"].items():
        names = [str(option["$ref"]).rpartition("/")[2] for option in node.get("anyOf", [node]) if "$ref" in option]
        if not names:
            lines.append(f"| `{key}` | {node['description']} |")
        sections += [(key, name) for name in names]
    for key, name in sections:
        section = whole["$defs"][name]
        kind = section["properties"].get("kind", {}).get("const")
        title = f'## `[{key}]` with `kind = "{kind}"`' if kind else f"## `[{key}]`"
        lines += ["", title, "", section["description"], "", *table(section, needed[name])]
    return "\n".join(lines) + "\n"


_PEAK, _BANDWIDTH = 989e12, 3.35e12
"""Of an H100 in bf16; docs/concepts/throughput.md says from where, as it does of the products."""
_PRODUCTS = (("4096 × 4096 × 4096", 1365.3, 780.2e12), ("4096 × 4096 × 256", 227.6, 398.6e12),
             ("256 × 256 × 256", 85.3, 6.72e12))  # fmt: skip
"""Shape, FLOP a byte, FLOP/s that were measured."""
_STYLE = """
  text{font:13px system-ui,sans-serif;fill:#1f2328}.quiet{fill:#59636e}
  .axis{stroke:#d1d9e0}.roof{stroke:#0969da;stroke-width:2;fill:none}.gap{stroke:#bc4c00;stroke-dasharray:3 3}
  circle{fill:#bc4c00}
  @media(prefers-color-scheme:dark){text{fill:#e6edf3}.quiet{fill:#9198a1}.axis{stroke:#3d444d}
  .roof{stroke:#4493f8}.gap{stroke:#f0883e}circle{fill:#f0883e}}
"""


def roofline() -> str:
    """The picture of docs/concepts/throughput.md: what was measured, and how far below the roof it is."""

    def across(intensity: float) -> float:
        return 70 + (log10(intensity) - 1) * 190

    def up(rate: float) -> float:
        return 290 - (log10(rate) - 12) * 80

    def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
        return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'

    def text(x: float, y: float, words: str, anchor: str = "start", kind: str = "quiet") -> str:
        return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'

    ridge = _PEAK / _BANDWIDTH
    parts = [line("axis", 70, up(rate), 640, up(rate)) for rate in (1e12, 1e13, 1e14, 1e15)]
    parts += [text(62, up(10.0**n) + 4, f"{10 ** (n - 12)}", "end") for n in range(12, 16)]
    parts += [text(across(10.0**n), 310, f"{10**n:,}", "middle") for n in range(1, 5)]
    parts += [text(355, 332, "FLOP a byte", "middle"), text(70, 26, "TFLOP/s", "start")]
    path = f"M70 {up(10 * _BANDWIDTH):.1f}L{across(ridge):.1f} {up(_PEAK):.1f}H640"
    parts += [f'<path class="roof" d="{path}"/>', text(640, up(_PEAK) - 8, f"peak {_PEAK / 1e12:g}", "end", "label")]
    parts += [text(across(12), up(12 * _BANDWIDTH) + 24, f"memory {_BANDWIDTH / 1e12:g} TB/s", kind="label")]
    for name, intensity, rate in _PRODUCTS:
        x, roof = across(intensity), min(_PEAK, _BANDWIDTH * intensity)
        parts += [line("gap", x, up(roof), x, up(rate)), f'<circle cx="{x:.1f}" cy="{up(rate):.1f}" r="4.5"/>']
        parts += [text(x + 9, up(rate) + 14, f"{name}: {rate / roof:.0%} of its roof", kind="label")]
    size = 'viewBox="0 0 740 340" width="740" height="340"'
    title = "Three matrix products under the roofline of an H100"
    body = "\n".join(parts)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"><title>{title}</title>'
    return f"{head}<style>{_STYLE}</style>\n{body}\n</svg>\n"


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
    ROOFLINE.write_text(roofline(), encoding="utf-8")
