"""Request bodies: what is announced, and JSON that holds nothing surprising."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import AfterValidator, BaseModel, ValidationError
from starlette.requests import Request

from fullbore.serve.errors import ApiError, invalid

Wanted = TypeVar("Wanted", bound=BaseModel)


_UNSAID = ("", "application/x-www-form-urlencoded")
"""What clients announce that were told nothing of the body: curl -d, for one."""


def require_json(request: Request) -> None:
    """Raises ApiError 415 if the body is announced as anything but plain JSON.

    One that is not announced is tried, as other servers of these protocols do; but not from a page of another site,
    which can send no announced JSON without this server's leave (Fetch standard, CORS-safelisted request headers).
    """
    found = request.headers.get("content-type", "")
    kind = found.split(";")[0].strip().lower()
    if kind != "application/json" and (kind not in _UNSAID or "origin" in request.headers):
        raise ApiError(
            415, f"content-type is {found[:64]!r}, expected 'application/json'", param="content-type", code="not_json"
        )
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise ApiError(
            415, f"content-encoding is {encoding[:64]!r}, expected none", param="content-encoding", code="encoded"
        )


def declared_length(request: Request) -> int:
    """Bytes that the body is announced to have; 0 if it is not announced."""
    text = request.headers.get("content-length", "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0


def too_large(limit: int) -> ApiError:
    return ApiError(413, f"the request body is larger than {limit} bytes (serve.body_bytes)", code="body_too_large")


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`; NaN, Infinity, duplicate keys, endless integers and deep nesting are refused."""
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise invalid(f"the body is not UTF-8: byte {error.start} is {error.reason}", code="not_utf8") from None
    except RecursionError:
        raise invalid("the body is nested too deeply", code="too_deep") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise invalid(f"the body is not JSON: {error.msg} at {where}", code="not_json") from None
    except ValueError:
        raise invalid("the body holds an integer of thousands of digits", code="not_json") from None
    if not isinstance(value, dict):
        raise invalid(f"the body is {kind_of(value)}, expected an object", code="not_an_object")
    return value


def kind_of(value: Any) -> str:
    """`value` as an error message names what it found, always short."""
    match value:
        case None | bool():
            return json.dumps(value)
        case int() if abs(value) >= 10**20:
            return "a huge integer"
        case int() | float():
            return f"the number {value!r}"
        case str():
            return f"a string of {len(value)} characters"
        case list():
            return f"a list of {len(value)}"
        case dict():
            return "an object"
        case _:
            return type(value).__name__


def validate(kind: type[Wanted], value: dict[str, Any], within: str = "") -> Wanted:
    """`value` as a `kind`. Raises ApiError 400 naming the field, what was found and what was expected.

    A validator of `kind` raises ValueError to say in its own words what is wrong with a field.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part)[:64] for part in (within, *first["loc"]) if part != "")[:128] or "body"
        if first["type"] == "extra_forbidden":
            raise invalid(f"{field}: unknown or not supported here", field, "unknown_field") from None
        if first["type"] == "missing":
            raise invalid(f"{field}: missing", field, "missing_field") from None
        if first["type"] == "value_error":
            raise invalid(f"{field}: {first['ctx']['error']}", field, "unsupported_value") from None
        expected = first["msg"].removeprefix("Input should be ")
        raise invalid(f"{field}: found {kind_of(first['input'])}, expected {expected}", field) from None


def only(*neutral: Any) -> AfterValidator:
    """For a field that is not supported: it may be left out, be null or one of `neutral`, which ask for nothing."""

    def check(value: Any) -> Any:
        same = any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in neutral)
        if value is not None and not same:
            expected = " or ".join(json.dumps(one) for one in (*neutral, None))
            raise ValueError(f"found {kind_of(value)}, expected {expected}; nothing else is supported here")
        return value

    return AfterValidator(check)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise invalid(f"{twice[:64]!r} is given twice", param=twice[:64], code="duplicate_key")
    return value


def _no_constant(name: str) -> Any:
    raise invalid(f"{name} is not JSON; numbers must be finite", code="not_json")
