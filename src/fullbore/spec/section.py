"""What every section of a job is: a frozen pydantic model that refuses keys it does not know."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, WithJsonSchema

from fullbore.base.units import Budget, parse_budget, parse_bytes, parse_seconds, parse_share


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, arbitrary_types_allowed=True)


def _budget(value: Any) -> Budget:
    if isinstance(value, Budget):
        return value
    if isinstance(value, str):
        return parse_budget(value)
    raise ValueError(f'found {value!r}, expected a budget such as "90s", "200 steps" or "3 epochs"')


def _written(kind: str, *examples: str) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [{"type": "string", "examples": list(examples)}, {"type": kind}]})


Bytes = Annotated[int, BeforeValidator(parse_bytes), _written("integer", "64MiB", "2GB")]
"""Written as "64MiB" or an integer; held as bytes."""

Seconds = Annotated[float, BeforeValidator(parse_seconds), _written("number", "90s", "3min")]
"""Written as "90s" or a number; held as seconds."""

Share = Annotated[float, BeforeValidator(parse_share), _written("number", "5%")]
"""Written as "5%" or 0.05; held as a number in [0, 1]."""

BudgetField = Annotated[
    Budget,
    BeforeValidator(_budget),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["90s", "200 steps", "10M tokens", "3 epochs"]}),
]
"""Written as "90s", "200 steps", "10M tokens" or "3 epochs"."""

Auto = Literal["auto"]
"""The program measures and chooses, and prints what it chose and why."""
