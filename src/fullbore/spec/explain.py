"""What is wrong with a job, in plain words: what was found, what was expected, what was probably meant."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from fullbore.base.errors import Problem
from fullbore.spec.job import Job
from fullbore.spec.layers import Layer
from fullbore.spec.lines import Path
from fullbore.spec.section import Expected, Section

_SHOWN = 60


def problems(error: ValidationError, layer: Layer) -> list[Problem]:
    """One problem for each key of a job that pydantic refused; of a list, for its wrong entries alone."""
    found: dict[Path, Problem] = {}
    for detail in error.errors(include_url=False):
        path, target = _resolve(detail["loc"], detail["type"])
        if path not in found:
            key = ".".join(str(part) for part in path)
            found[path] = Problem(layer.place(path), key, _message(path, target, dict(detail), layer))
    inside = {path[:depth] for path in found for depth in range(len(path))}
    return [problem for path, problem in found.items() if path not in inside]


def _message(path: Path, target: Any, detail: dict[str, Any], layer: Layer) -> str:
    if detail["type"] == "extra_forbidden":
        return _unknown(str(path[-1]), path, layer)
    words, options = describe(target), _options(target)
    try:
        value = layer.value(path)
    except (KeyError, IndexError, TypeError):
        return f"missing; expected {words}"
    return f"found {_shown(value)}, expected {words}{_meant(str(value), options)}"


def _resolve(loc: Sequence[str | int], kind: str) -> tuple[Path, Any]:
    """The path of a key in the job, without pydantic's names for members of unions, and what belongs there."""
    path: list[str | int] = []
    target: Any = Job
    for part in loc:
        types = [member.type for member in members(target)]
        sections = [item for item in types if is_section(item)]
        arrays = [item for item in types if get_origin(item) is tuple]
        if len(sections) > 1:
            target = by_tag(sections)[str(part)]
            continue
        if sections and part in sections[0].model_fields:
            target = sections[0].model_fields[str(part)]
        elif isinstance(part, int) and arrays:
            target = get_args(arrays[0])[0]
        elif kind != "extra_forbidden":
            break
        path.append(part)
    if kind.startswith("union_tag"):
        path.append("kind")
        target = Literal[tuple(by_tag(member.type for member in members(target)))]
    return tuple(path), target


@dataclass(frozen=True)
class Member:
    """One type that may stand at a field; `type` is an `Expected` where the annotation brings its own words."""

    type: Any
    limits: tuple[Any, ...] = ()


def members(target: Any) -> list[Member]:
    """What may stand at a field or an annotation: unions opened, their bounds beside them."""
    if isinstance(target, FieldInfo):
        inner, notes = target.annotation, target.metadata
    elif get_origin(target) is Annotated:
        inner, notes = target.__origin__, list(target.__metadata__)
        notes += [note for field in notes if isinstance(field, FieldInfo) for note in field.metadata]
    elif get_origin(target) in (Union, UnionType):
        return [member for item in get_args(target) for member in members(item)]
    else:
        return [Member(target)]
    words = [note for note in notes if isinstance(note, Expected)]
    limits = tuple(note for note in notes if isinstance(note, Gt | Ge | Lt | Le | MinLen))
    if words:
        return [Member(words[0], limits)]
    return [Member(member.type, (*member.limits, *limits)) for member in members(inner)]


def is_section(item: Any) -> bool:
    return isinstance(item, type) and issubclass(item, Section)


def by_tag(types: Iterable[Any]) -> dict[str, type[Section]]:
    """Sections by what their `kind` must be, of a union that is told apart by it."""
    kinds = {item: _literals(item) for item in types if is_section(item)}
    return {kind[0]: item for item, kind in kinds.items() if len(kind) == 1}


def takes_list(path: Path, layer: Layer) -> bool:
    """Whether nothing but a list may stand at `path`, a section's key, in the job that `layer` writes."""
    if len(path) != 2 or path[0] not in Job.model_fields:
        return False
    sections = [member.type for member in members(Job.model_fields[str(path[0])]) if is_section(member.type)]
    if len(sections) > 1:
        sections = [section for kind, section in by_tag(sections).items() if kind == layer.data[path[0]].get("kind")]
    fields = [section.model_fields[path[1]] for section in sections if path[1] in section.model_fields]
    return any(all(get_origin(member.type) is tuple for member in members(field)) for field in fields)


def _literals(section: type[Section]) -> tuple[str, ...]:
    return get_args(section.model_fields["kind"].annotation) if "kind" in section.model_fields else ()


def _options(target: Any) -> list[str]:
    literals = [member.type for member in members(target) if get_origin(member.type) is Literal]
    return [str(value) for item in literals for value in get_args(item)]


def describe(target: Any) -> str:
    """What may be written at a field or an annotation, in words."""
    options = _options(target)
    parts = [options[0] if len(options) == 1 else f"one of {', '.join(options)}"] if options else []
    others = [member for member in members(target) if get_origin(member.type) is not Literal]
    parts += [_words(member) for member in others if member.type is not type(None)]
    return " or ".join(parts)


def _words(member: Member) -> str:
    ends = {type(limit): limit for limit in member.limits}
    if Ge in ends and Le in ends:
        return f"{_type_words(member.type)} from {ends[Ge].ge} to {ends[Le].le}"
    bounds = [
        f"above {limit.gt}" if isinstance(limit, Gt)
        else f"of at least {limit.ge}" if isinstance(limit, Ge)
        else f"below {limit.lt}" if isinstance(limit, Lt)
        else f"of at most {limit.le}" if isinstance(limit, Le)
        else "with at least one entry"
        for limit in member.limits
    ]  # fmt: skip
    return f"{_type_words(member.type)} {' and '.join(bounds)}".rstrip()


def _type_words(item: Any) -> str:
    if isinstance(item, Expected):
        return item.words
    if get_origin(item) is tuple:
        options = _options(get_args(item)[0])
        return f"a list of {', '.join(options) if options else describe(get_args(item)[0]).removeprefix('a ')}"
    if is_section(item):
        return "a table"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[item]


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, str | bool | int | float | list):
        text = json.dumps(value, ensure_ascii=False, default=str)
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    return str(value)


def _meant(written: str, options: Iterable[str]) -> str:
    close = difflib.get_close_matches(written, list(options), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def all_keys() -> dict[str, list[str]]:
    """Dotted key → the kinds of section that have it (none: every kind)."""
    keys: dict[str, list[str]] = {}
    for name, field in Job.model_fields.items():
        sections = [member.type for member in members(field) if is_section(member.type)]
        tags = {section: tag for tag, section in by_tag(sections).items()}
        for section in sections:
            for key in section.model_fields:
                keys.setdefault(f"{name}.{key}", []).extend([tags[section]] if section in tags else [])
        if not sections:
            keys[name] = []
    return keys


def _unknown(key: str, path: Path, layer: Layer) -> str:
    """Why an unknown key may have been written: a slip, another section's key, another kind's."""
    known = all_keys()
    dotted = ".".join(str(part) for part in path)
    if kinds := known.get(dotted):
        chosen = layer.data[str(path[0])].get("kind")
        return f"not a setting of kind {chosen}; {' and '.join(kinds)} {'has' if len(kinds) == 1 else 'have'} it"
    if len(path) == 1:
        sections = [name for name in Job.model_fields if name != "name"]
        near = difflib.get_close_matches(key, [*sections, "name", "extends"], n=1)
        near = near or _elsewhere(key, known)
        return f"unknown {'section' if isinstance(layer.data[key], dict) else 'key'}{_ask(near)}"
    section = f"{path[0]}."
    near = _alike(key, [name.removeprefix(section) for name in known if name.startswith(section)])
    same = [name for name in known if name.endswith(f".{key}")]
    return f"unknown key{_ask(same or near or _elsewhere(key, known))}"


def _alike(key: str, names: Sequence[str]) -> list[str]:
    """Up to two names like `key`, as a whole or in their last words (`batch_sise` is like `global_batch_size`)."""

    def likeness(name: str) -> float:
        words = name.split("_")
        ends = ["_".join(words[start:]) for start in range(len(words))]
        return max(difflib.SequenceMatcher(None, key, end).ratio() - (0.05 if end != name else 0.0) for end in ends)

    ranked = sorted(names, key=lambda name: (-likeness(name), name))
    return [name for name in ranked[:2] if likeness(name) >= 0.7 and likeness(name) >= likeness(ranked[0]) - 0.01]


def _elsewhere(key: str, known: Iterable[str]) -> list[str]:
    names = {name.rpartition(".")[2]: name for name in known}
    return [names[close] for close in difflib.get_close_matches(key, list(names), n=1, cutoff=0.8)]


def _ask(names: Sequence[str]) -> str:
    return f"; did you mean {' or '.join(names)}?" if names else ""
