"""From what the user wrote to a Job whose every value knows where it came from."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fullbore.base.errors import FullboreError, InputError, JobError, Problem, UsageError
from fullbore.spec import lines
from fullbore.spec.contradictions import contradictions
from fullbore.spec.explain import problems, takes_list
from fullbore.spec.job import Job
from fullbore.spec.layers import SET, Layer, override, read_files
from fullbore.spec.section import Section
from fullbore.spec.write import to_toml

__all__ = ["LoadedJob", "load", "load_section", "to_toml"]

DEFAULT = "default"


@dataclass(frozen=True)
class LoadedJob:
    job: Job
    origins: Mapping[str, str]
    """Dotted key of every setting → `recipes/x.toml:14`, `--set`, `recipes/x.py:job` or `default`."""
    path: Path | None
    """The job file, if it came from one."""


def load(target: str | Path | Job, overrides: Mapping[str, Any] | None = None) -> LoadedJob:
    """The job of a TOML file, of `module:function` or `file.py:function` that returns a Job, or a Job itself.

    `overrides` maps dotted keys to values as `--set` writes them (or to plain Python values).
    Raises JobError with every mistake at once, InputError if there is nothing at `target`.
    """
    path = None
    if isinstance(target, Job):
        layer = _layer(target, "Job")
    elif (text := str(target)) and ":" in text and not Path(text).exists():
        layer = _layer(_call(text), text)
    else:
        path = Path(target)
        layer = read_files(path)
    layer = _overridden(layer, overrides or {})
    job = _judge(layer)
    return LoadedJob(job, origins(job, layer), path)


def load_section(name: str, written: Mapping[str, Any], overrides: Mapping[str, Any]) -> Section:
    """One section by itself, for a verb that needs no whole job. Overrides outside it are errors. Raises JobError."""
    foreign = [key for key in overrides if not key.startswith(f"{name}.")]
    if foreign:
        raise JobError([Problem(SET, key, f"only {name}.* settings have an effect here") for key in foreign])
    layer = _overridden(Layer(SET, {name: dict(written)}, {}), overrides)
    try:
        job = Job.model_validate_json(_json({"name": name, "data": {"source": "."}, **layer.data}), strict=True)
    except ValidationError as error:
        raise JobError(_ordered(problems(error, layer))) from None
    section: Section = getattr(job, name)
    return section


def _overridden(layer: Layer, overrides: Mapping[str, Any]) -> Layer:
    """`layer` with dotted keys set; a lone value where a list is expected is a list of one."""
    layer = override(layer, overrides)
    for dotted in overrides:
        path = tuple(dotted.split("."))
        if takes_list(path, layer) and not isinstance(layer.value(path), list | tuple | dict):
            layer = override(layer, {dotted: [layer.value(path)]})
    return layer


def _section(name: str, value: Any) -> Any:
    """Raises ValidationError."""
    return TypeAdapter(Job.model_fields[name].rebuild_annotation()).validate_json(_json(value), strict=True)


def _judge(layer: Layer) -> Job:
    """The job that `layer` writes; its mistakes and contradictions together as one JobError."""
    sections = {name: layer.data.get(name) for name in Job.model_fields if name != "name"}
    try:
        job = Job.model_validate_json(_json(layer.data), strict=True)
    except ValidationError as error:
        wrong = {detail["loc"][0] for detail in error.errors(include_url=False)}
        found = problems(error, layer)
        right: dict[str, Section | None] = {
            name: _section(name, value) for name, value in sections.items() if name not in wrong
        }
        raise JobError(_ordered([*found, *contradictions(layer, right)])) from None
    clashes = contradictions(layer, {name: getattr(job, name) for name in sections})
    if clashes:
        raise JobError(_ordered(clashes))
    return job


def _json(value: Any) -> str:
    return json.dumps(value, default=lambda other: {"date": str(other)})


def _ordered(found: list[Problem]) -> list[Problem]:
    def place(problem: Problem) -> tuple[str, int]:
        source, _, line = problem.where.rpartition(":")
        return (source, int(line)) if line.isdigit() else (problem.where, 0)

    return sorted(found, key=place)


def origins(job: Job, layer: Layer) -> dict[str, str]:
    """Where each setting of `job` was written."""
    result: dict[str, str] = {}
    for name, section in job:
        if not isinstance(section, Section):
            result[name] = layer.where.get((name,), DEFAULT)
            continue
        for key, _ in section:
            result[f"{name}.{key}"] = layer.where.get((name, key), DEFAULT)
    return result


def _layer(job: Job, source: str) -> Layer:
    """What was set of a Job that Python made, as if it had been written."""
    data: dict[str, Any] = {"name": job.name}
    for name, section in job:
        if isinstance(section, Section):
            data[name] = section.model_dump(mode="json", include=section.model_fields_set)
    where: dict[lines.Path, str] = {}
    for name, value in data.items():
        where[(name,)] = source
        where |= {(name, key): source for key in (value if isinstance(value, dict) else ())}
    return Layer(source, data, where)


def _call(target: str) -> Job:
    """The Job that `module_or_file.py:function` returns."""
    place, _, name = target.rpartition(":")
    try:
        made = _function(place, name)()
    except FullboreError:
        raise
    except ValidationError as error:
        raise JobError(list(_from_python(target, error))) from None
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise UsageError(
            f"{target} raised {type(error).__name__}: {error}", hint=f"at {last.filename}:{last.lineno}"
        ) from error
    if not isinstance(made, Job):
        raise UsageError(f"{target} returned {type(made).__name__}, expected fullbore.Job")
    return made


def _from_python(target: str, error: ValidationError) -> Iterator[Problem]:
    for detail in error.errors(include_url=False):
        key = ".".join([error.title, *(str(part) for part in detail["loc"])])
        yield Problem(target, key, f"found {detail['input']!r}: {detail['msg'].lower()}")


def _function(place: str, name: str) -> Callable[[], Any]:
    module = _module(place)
    found = getattr(module, name, None)
    if not callable(found):
        raise InputError(f"{place} has no function {name}", hint=f"write `def {name}() -> fullbore.Job:` in it")
    return found  # type: ignore[no-any-return]


def _module(place: str) -> ModuleType:
    if not place.endswith(".py"):
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.insert(0, here)
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as error:
            raise InputError(f"{place}: no such module or file ({error})") from None
    spec = importlib.util.spec_from_file_location(Path(place).stem, place)
    if spec is None or spec.loader is None or not Path(place).is_file():
        raise InputError(f"{place}: no such file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
