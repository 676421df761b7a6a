"""The arguments that verbs share, and the three options that every verb has."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer

from fullbore.base.errors import UsageError
from fullbore.cli.console import Show, console

JobTarget = Annotated[
    str, typer.Argument(metavar="JOB", help="A job file (TOML), or module:function that returns a Job.")
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's name, or `last`.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, as in train.budget=60s. Repeatable."),
]

_COMMON: dict[str, tuple[Any, Any]] = {
    "json": (Annotated[bool, typer.Option("--json", help="Answer with one JSON object on stdout.")], False),
    "quiet": (Annotated[bool, typer.Option("-q", "--quiet", help="No progress and no notes.")], False),
    "verbose": (
        Annotated[
            int, typer.Option("-v", "--verbose", count=True, show_default=False, help="More notes; -vv: tracebacks.")
        ],
        0,
    ),
}


def overrides(written: list[str] | None, option_name: str = "--set") -> dict[str, str]:
    """`--set` options, or those of another name, by key. Raises UsageError."""
    pairs = {}
    for option in written or ():
        key, equals, value = option.partition("=")
        if not equals or not key.strip():
            hint = 'for example --set train.budget="200 steps"'
            raise UsageError(f"{option_name} {option}: expected KEY=VALUE", hint=hint.replace("--set", option_name))
        pairs[key.strip()] = value
    return pairs


def verb(show: Show) -> Callable[[Callable[..., dict[str, Any] | None]], Callable[..., None]]:
    """Make a verb of a function that returns its answer: `--json` prints that as it is, people get what `show` draws.

    Nothing is printed if it returns none.
    """

    def made(function: Callable[..., dict[str, Any] | None]) -> Callable[..., None]:
        @functools.wraps(function)
        def spoken(*, json: bool, quiet: bool, verbose: int, **arguments: Any) -> None:
            console.configure(json, quiet, verbose)
            answer = function(**arguments)
            if answer is not None:
                console.answer(answer, show)

        parameters = inspect.signature(function).parameters
        hints = get_type_hints(function, include_extras=True)
        own = [parameter.replace(annotation=hints[name]) for name, parameter in parameters.items()]
        common = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for name, (annotation, default) in _COMMON.items()
        ]
        whole = inspect.Signature([*own, *common])
        vars(spoken)["__signature__"] = whole
        spoken.__annotations__ = {parameter.name: parameter.annotation for parameter in whole.parameters.values()}
        return spoken

    return made
