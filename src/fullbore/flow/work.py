"""The work of a job's network: traced once, then remembered by this machine."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from fullbore import models
from fullbore.base.files import write_atomic
from fullbore.base.paths import machine_cache
from fullbore.flow.session import content_key
from fullbore.models import hub
from fullbore.models import work as works
from fullbore.models.build import Sizes
from fullbore.spec.model import ModelSection, TaskSection, TransformersModel
from fullbore.spec.work import Work


def work(model: ModelSection, task: TaskSection, sizes: Sizes, *, launched: bool = False) -> Work:
    """As `models.work.work`; what it takes a second to trace is kept, and read while nothing of it changed.

    Raises InputError as `models.build.build` does.
    """
    if not launched:
        return works.work(model, task, sizes)
    path = machine_cache() / f"work-{_key(model, task, sizes)}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        return Work.from_json(json.loads(path.read_bytes()))
    made = works.work(model, task, sizes, launched=True)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(made.to_json()) + "\n")
    return made


def _key(model: ModelSection, task: TaskSection, sizes: Sizes) -> str:
    """Of the architecture and of the code that executes it, whose kernels are what is traced."""
    section = model.model_dump(mode="json")
    if isinstance(model, TransformersModel):
        section["folder"] = hub.read_architecture(Path(model.folder))
    code = [(path.name, path.stat().st_mtime_ns) for path in sorted(Path(models.__path__[0]).glob("*.py"))]
    programs = [version("torch"), version("transformers"), code]
    return content_key("work", section, task.model_dump(mode="json"), asdict(sizes), programs)
