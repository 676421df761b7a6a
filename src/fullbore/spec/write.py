"""A job as TOML that reads back as the same job."""

from __future__ import annotations

from typing import Any

from fullbore.spec.job import Job
from fullbore.spec.section import Section

_ESCAPES = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}


def _text(value: str) -> str:
    def escape(character: str) -> str:
        if character in _ESCAPES:
            return _ESCAPES[character]
        return f"\\u{ord(character):04x}" if character < " " or character == "\x7f" else character

    return f'"{"".join(escape(character) for character in value)}"'


def toml_value(value: Any) -> str:
    """A scalar or a list as TOML writes it; none is written "none"."""
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    return _text(str(value))


def to_toml(job: Job) -> str:
    """`job` with every setting that is in force, defaults included; `load` reads it back as an equal job."""
    lines = [f"name = {toml_value(job.name)}"]
    for name, section in job:
        if isinstance(section, Section):
            lines += ["", f"[{name}]"]
            fields = type(section).model_fields
            lines += [
                f"{key} = {toml_value(value)}"
                for key, value in section
                if value is not None or fields[key].default is not None
            ]
    return "\n".join(lines) + "\n"
