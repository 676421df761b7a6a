"""`serve`: a run's model, or a model folder, behind the HTTP doors."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fullbore.base.errors import InputError
from fullbore.base.paths import RunPaths
from fullbore.engine.process import settle
from fullbore.models import weights
from fullbore.record.artifact import MANIFEST
from fullbore.record.run import find
from fullbore.serve import run as server
from fullbore.serve.catalogue import Served
from fullbore.serve.invitation import invitation
from fullbore.spec.load import load_section
from fullbore.spec.serve import ServeSection


def model_folder(target: str) -> Path:
    """The model that `target` names: a model folder, or a run's compressed model, else its trained one."""
    folder = Path(target)
    if (folder / "config.json").is_file():
        return folder
    if folder.is_dir() and not RunPaths(folder).environment.is_file():
        raise InputError(f"{target}: no config.json", hint="give a model folder, a run folder or the name of a run")
    run = find(target)
    for kind in ("compressed", "model"):
        if (run.paths.artifact(kind) / MANIFEST).is_file():
            return run.paths.artifact(kind)
    raise InputError(f"run {run.name} has no model", hint=f"fullbore resume {run.name} trains it")


def serve(target: str, overrides: Mapping[str, str], *, ready: Callable[[dict[str, Any]], None]) -> None:
    """Serve until SIGTERM or SIGINT. Overrides are `serve.*` settings. Raises UsageError.

    `ready` is told, once the server accepts, {"schema": 1, "target", "url", "models": [{"name", "task", "doors",
    "example"}]}, where `example` is a command that asks the model.
    """
    settle()
    folder = model_folder(target)
    job = folder.parent.parent / "job.toml"
    written = tomllib.loads(job.read_text()).get("serve", {}) if job.is_file() else {}
    section = load_section("serve", written, overrides)
    assert isinstance(section, ServeSection)
    models: dict[str, weights.LoadedModel] = {}

    def load() -> dict[str, weights.LoadedModel]:
        models.update(load_model(folder))
        return models

    def told(url: str) -> None:
        asked = [invitation(Served(name, loaded), url, section.prompt) for name, loaded in models.items()]
        ready({"schema": 1, "target": target, "url": url, "models": asked})

    server.serve(load, section, ready=told)


def load_model(folder: Path) -> dict[str, weights.LoadedModel]:
    """The model in `folder` by the name that clients use: its job's, else the folder's."""
    loaded = weights.load(folder)
    job = folder.parent.parent / "job.toml"
    name = tomllib.loads(job.read_text()).get("name", loaded.name) if job.is_file() else loaded.name
    return {name: replace(loaded, name=name)}
