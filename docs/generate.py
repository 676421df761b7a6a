"""Write docs/job.md, every setting of a job, from the JSON Schema that `fullbore schema` prints.

python docs/generate.py            # after a setting was added or changed; a test compares
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fullbore.spec.job import Job
from fullbore.spec.schema import schema
from fullbore.spec.write import toml_value

TARGET = Path(__file__).with_name("job.md")

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


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
