"""`fullbore`: a verb is imported when it is typed, so that help answers at once."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.exceptions import Abort, TyperException

from fullbore.base.errors import FullboreError, Interrupted, RunFailed
from fullbore.base.refusals import refusal
from fullbore.cli.console import console

VERBS = {
    "init": "Write a commented job to start from",
    "check": "Predict time, memory and what will limit a job, before it runs",
    "run": "Take a job from raw data to a served model",
    "resume": "Go on with a run that was stopped, killed or failed",
    "explain": "Say where a run's time went, what limited it and what to change",
    "tune": "Choose what a job leaves open by timing its real step",
    "bench": "Compare two commands, jobs or settings, beyond the noise",
    "report": "Write a run's report: one HTML file that opens offline",
    "runs": "List runs, show one, compare two",
    "pack": "Read, clean, split and pack data into shards, without a run",
    "inspect": "Show what an artifact or a run holds; --verify reads every byte",
    "compress": "Make a trained model smaller or faster within its quality limit",
    "serve": "Serve a model over HTTP, on loopback",
    "doctor": "Show what this machine is, what it reaches and what it lacks",
    "schema": "Print the JSON Schema of job files, for editors",
}

EXAMPLES = (
    ("fullbore init text-lm", "write text-lm.toml, a job to start from"),
    ("fullbore run text-lm.toml", "raw text to a trained, compressed, served model"),
    ("fullbore explain last", "where the time went and what to change"),
)


_SPINS = "1000"
"""How long torch's threads spin at a barrier before they sleep (libgomp reads it when torch is imported). With its own
default of some milliseconds a neighbour on one of two cores made a step 8 to 30 times as long, since the spinning keeps
the late thread off its core; with this, 2.6 times. On an idle machine it costs 5 %."""


def version(wanted: bool) -> None:
    if wanted:
        from fullbore.base.version import VERSION

        typer.echo(f"fullbore {VERSION}")
        raise typer.Exit


class Verbs(TyperGroup):
    """The verbs of `cli/verbs/`, each a module of that name with an `app`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = dict.fromkeys(VERBS)  # type: ignore[assignment]

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"fullbore.cli.verbs.{cmd_name}")
        command = typer.main.get_command(module.app)
        command.name = cmd_name
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As typer does; a word that is no verb is taken for the one that is most like it."""
        near = difflib.get_close_matches(args[0], VERBS, 1)
        if args[0] not in VERBS and near:
            ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write("fullbore: from raw data to served answers, every second accounted for\n\n")
        formatter.indent()
        formatter.write_dl(EXAMPLES, col_max=40, col_spacing=3)
        formatter.dedent()
        formatter.write("\nUsage: fullbore VERB [ARGUMENTS] [--help]\n")
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))
        formatter.write("\nEvery verb takes --json (one object on stdout), -q and -v.\n")
        formatter.write("`last` is the newest run. --set train.budget=60s overrides a setting of a job.\n")
        with formatter.section("Options"):
            records = [parameter.get_help_record(ctx) for parameter in self.get_params(ctx)]
            formatter.write_dl([record for record in records if record is not None])


app = typer.Typer(
    cls=Verbs,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def top(
    shown: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """From raw data to served answers, every second accounted for."""


def execute(arguments: Sequence[str]) -> int:
    """Carry out a command line and return its exit code; whatever goes wrong is said in plain words."""
    console.json = "--json" in arguments
    try:
        code = app(list(arguments), prog_name="fullbore", standalone_mode=False)
        if code == Interrupted.exit_code:
            return console.failed(Interrupted("interrupted"))
        return code if isinstance(code, int) else 0
    except FullboreError as error:
        return console.failed(error)
    except TyperException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "fullbore"
        if not arguments:
            typer.echo(error.format_message(), err=True)
            return 2
        return console.misused(error.format_message(), f"{path} --help")
    except (Abort, KeyboardInterrupt):
        return console.failed(Interrupted("interrupted"))
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):
            return 1
        return console.failed(RunFailed(f"ended by sys.exit({stop.code})", hint="it is called by what the job names"))
    except OSError as error:
        refused = refusal(error)
        return console.crashed(error) if refused is None else console.failed(refused)
    except Exception as error:
        return console.crashed(error)


def main() -> NoReturn:
    """The entry point. Ends at once: tearing an interpreter with torch in it down takes time that nobody asked for."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    code = execute(sys.argv[1:])
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        pass
    os._exit(code)


if __name__ == "__main__":
    main()
