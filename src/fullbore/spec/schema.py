"""The JSON Schema of a job file (draft 2020-12), for editors: name it in a file's first line, `#:schema job.json`."""

from __future__ import annotations

from typing import Any

from fullbore.spec.job import Job

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """Every setting with its type, its default, its bounds and what it is for.

    A section may be written in part, since the file may extend another: only a job that extends none must be whole.
    """
    made = _tidy(Job.model_json_schema())
    extends = {"type": "string", "description": "One job file below this one; what is written here wins."}
    properties = {"extends": extends, **made.pop("properties")}
    head = {
        "$schema": DIALECT,
        "title": "fullbore job",
        "description": "What one run is asked to do. A stage whose section is absent does not run.",
        "anyOf": [{"required": ["extends"]}, {"required": made.pop("required")}],
        "examples": [{"name": "my-text", "data": {"source": "path/to/folder"}}],
    }
    for section in made["$defs"].values():
        section.pop("required", None)
    return {**made, **head, "properties": properties}


def _tidy(node: Any) -> Any:
    """Without what TOML cannot write (null) and the titles that repeat a key."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {key: _tidy(value) for key, value in node.items() if not (key == "title" and isinstance(value, str))}
    if kept.get("default", ...) is None:
        del kept["default"]
    if any("64MiB" in option.get("examples", ()) for option in kept.get("anyOf", ())) and "default" in kept:
        kept["default"] = _size(kept["default"])
    kept.pop("discriminator", None)
    options = [item for item in kept.pop("oneOf", kept.get("anyOf", ())) if item != {"type": "null"}]
    if len(options) == 1:
        kept = {**options[0], **{key: value for key, value in kept.items() if key != "anyOf"}}
    elif options:
        kept["anyOf"] = options
    return kept


def _size(count: int) -> str:
    """Bytes as they are written: `64MiB`, `32MB`."""
    exact = ((2**20, "MiB"), (10**6, "MB"), (1, ""))
    unit, name = next((unit, name) for unit, name in exact if count % unit == 0)
    return f"{count // unit}{name}"
