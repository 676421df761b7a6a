"""From raw data to served answers at the highest throughput the hardware allows, every second accounted for.

    import fullbore
    run = fullbore.run("recipes/python-lm.toml", overrides={"train.budget": "60s"})
    print(run.ledger.table(), run.model.generate("def "))

What is named here is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fullbore.base.version import VERSION as __version__
    from fullbore.data.feed import Feed
    from fullbore.flow.door import Model, Run, check, explain, resume, run
    from fullbore.spec.job import Job

__all__ = ["Feed", "Job", "Model", "Run", "__version__", "check", "explain", "resume", "run"]

_PLACES = {
    "Feed": ("fullbore.data.feed", "Feed"),
    "Job": ("fullbore.spec.job", "Job"),
    "Model": ("fullbore.flow.door", "Model"),
    "Run": ("fullbore.flow.door", "Run"),
    "__version__": ("fullbore.base.version", "VERSION"),
    "check": ("fullbore.flow.door", "check"),
    "explain": ("fullbore.flow.door", "explain"),
    "resume": ("fullbore.flow.door", "resume"),
    "run": ("fullbore.flow.door", "run"),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'fullbore' has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
