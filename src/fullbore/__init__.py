"""From raw data to served answers at the highest throughput the hardware allows, every second accounted for.

    import fullbore
    run = fullbore.run("recipes/python-lm.toml", overrides={"train.budget": "60s"})
    print(run.ledger.table(), run.model.generate("def "))

Every verb of the command line is a function here. What is named is imported when it is first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fullbore.base.version import VERSION as __version__
    from fullbore.data.feed import Feed
    from fullbore.door import (
        Model,
        Run,
        bench,
        check,
        compress,
        doctor,
        explain,
        explain_traces,
        init,
        inspect,
        pack,
        report,
        resume,
        run,
        runs,
        schema,
        serve,
        tune,
    )
    from fullbore.perf.measure.ledger import ledger
    from fullbore.spec.job import Job

__all__ = [
    "Feed",
    "Job",
    "Model",
    "Run",
    "__version__",
    "bench",
    "check",
    "compress",
    "doctor",
    "explain",
    "explain_traces",
    "init",
    "inspect",
    "ledger",
    "pack",
    "report",
    "resume",
    "run",
    "runs",
    "schema",
    "serve",
    "tune",
]

_ELSEWHERE = {
    "Feed": ("fullbore.data.feed", "Feed"),
    "Job": ("fullbore.spec.job", "Job"),
    "__version__": ("fullbore.base.version", "VERSION"),
    "ledger": ("fullbore.perf.measure.ledger", "ledger"),
}


class _Package(ModuleType):
    """Python puts a room into the package when it is imported; `compress` and `serve` stay the verbs of these names."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in __all__ or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'fullbore' has no attribute {name!r}")
    module, attribute = _ELSEWHERE.get(name, ("fullbore.door", name))
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
