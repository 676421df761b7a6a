"""Start-up: help and the door answer without the heavy packages; asserted on what was imported, never on time."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = {"torch", "ray", "pydantic", "numpy", "pyarrow", "rich", "transformers", "tokenizers", "starlette", "obstore"}
VERB = HEAVY - {"pydantic"}
"""What a verb's own command line may not bring: typer reads options with pydantic."""


def imported(code: str) -> set[str]:
    """Top-level names of the modules that a fresh interpreter has loaded after `code`."""
    probe = f"{code}\nimport sys\nprint('MODULES', *sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("arguments", [["run", "--help"], ["init", "--help"], ["rnu"], ["init", "nothing"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    assert not imported(f"from fullbore.cli.main import execute\nexecute({arguments!r})") & VERB


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_the_first_page_imports_not_even_pydantic(argument: str) -> None:
    assert not imported(f"from fullbore.cli.main import execute\nexecute([{argument!r}])") & HEAVY


def test_listing_runs_imports_nothing_heavy(tmp_path: os.PathLike[str]) -> None:
    code = (
        f"import os; os.chdir({os.fspath(tmp_path)!r})\nfrom fullbore.cli.main import execute\nexecute(['runs', 'ls'])"
    )
    assert not imported(code) & VERB


def test_help_of_the_installed_command_imports_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "fullbore.cli.main", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "Verbs:" in done.stdout
    names = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "typer" in names and not names & HEAVY


def test_the_door_is_importable_without_torch() -> None:
    code = "import fullbore\nfullbore.run, fullbore.check, fullbore.explain, fullbore.Run, fullbore.Job"
    assert not imported(code) & VERB
    assert not imported("import fullbore") & HEAVY
    assert "torch" not in imported("import fullbore, fullbore.flow.run\nassert callable(fullbore.run)")


def test_the_door_names_what_it_has() -> None:
    import fullbore

    assert fullbore.__all__ == sorted(fullbore.__all__)
    assert set(fullbore.__all__) <= set(dir(fullbore))
    for name in fullbore.__all__:
        assert getattr(fullbore, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        fullbore.nothing  # noqa: B018
