"""What every section of a job is: a frozen pydantic model that refuses keys it does not know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, StrictInt, WithJsonSchema

from fullbore.base.units import Budget, parse_budget, parse_bytes, parse_seconds, parse_share


class Section(BaseModel):
    """The docstring under a field is what editors show for it, through the JSON Schema."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        arbitrary_types_allowed=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )


@dataclass(frozen=True)
class Expected:
    """In a field's annotation: what may be written there, in words for an error message."""

    words: str


_BYTES = Expected('a size such as "64MiB" or "2GB"')
_SECONDS = Expected('a duration such as "90s", "3min" or "1h30m"')
_SHARE = Expected('a share between 0 and 1 such as "5%" or 0.05')
_BUDGET = Expected('a budget above zero such as "90s", "200 steps", "10M tokens" or "3 epochs"')


def _read(parse: Callable[[Any], Any], expected: Expected, *types: type, least: int = 0) -> BeforeValidator:
    """Parse what is written as one of `types`; anything else, and what is below `least`, is refused in plain words."""

    def read(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, types):
            raise ValueError(f"found {value!r}, expected {expected.words}")
        result = parse(value)
        if isinstance(result, int | float) and result < least:
            raise ValueError(f"found {value!r}, expected {expected.words}, not below {least}")
        return result

    return BeforeValidator(read)


def _written(kind: str, *examples: str) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [{"type": "string", "examples": list(examples)}, {"type": kind}]})


Bytes = Annotated[int, _read(parse_bytes, _BYTES, str, int, least=1), _written("integer", "64MiB", "2GB"), _BYTES]
"""Written as "64MiB" or an integer; held as bytes."""

Seconds = Annotated[float, _read(parse_seconds, _SECONDS, str, int, float), _written("number", "90s", "3min"), _SECONDS]
"""Written as "90s" or a number; held as seconds."""

Share = Annotated[float, _read(parse_share, _SHARE, str, int, float), _written("number", "5%"), _SHARE]
"""Written as "5%" or 0.05; held as a number in [0, 1]."""

BudgetField = Annotated[
    Budget,
    _read(lambda value: value if isinstance(value, Budget) else parse_budget(value), _BUDGET, str, Budget),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["90s", "200 steps", "10M tokens", "3 epochs"]}),
    _BUDGET,
]
"""Written as "90s", "200 steps", "10M tokens" or "3 epochs"."""

Count = Annotated[StrictInt, Field(gt=0)]
"""A whole number above zero."""

Auto = Literal["auto"]
"""The program measures and chooses, and prints what it chose and why."""

_NONE = BeforeValidator(lambda value: None if value == "none" else value)

Nothing = Annotated[None, _NONE, WithJsonSchema({"const": "none"}), Expected('"none"')]
"""Written as "none", since TOML has no null."""

Text = Annotated[
    str | None,
    _NONE,
    WithJsonSchema({"anyOf": [{"type": "string"}, {"const": "none"}]}),
    Expected('text or "none"'),
]
"""Any text but "none", which means that there is none: a job can so unset what the one below it set."""
