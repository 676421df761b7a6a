"""The command line as its users meet it: real processes, their streams and exit codes."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from fullbore.base.colours import DARK, FAMILY, LIGHT
from fullbore.cli.main import EXAMPLES, VERBS
from fullbore.record.ledger import State


def fullbore(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    return subprocess.run(
        [sys.executable, "-m", "fullbore.cli.main", *arguments],
        cwd=cwd, capture_output=True, text=True, env={**clean, "COLUMNS": "100", **environment},
    )  # fmt: skip


FLAGS = {
    "init": {"--data"},
    "check": {"--set", "--resolved"},
    "run": {"--set", "--name"},
    "resume": {"--set"},  # hidden: it says why there is none
    "explain": {"--drop-last-step", "--if", "--roofline"},
    "tune": {"--budget", "--set", "--also", "--out", "--force"},
    "bench": {"--rounds", "--budget", "--metric", "--warm-up", "--set", "--against", "--seed", "--out", "--keep"},
    "report": {"--output"},
    "runs ls": set(),
    "runs show": set(),
    "runs diff": set(),
    "pack": {"--set"},
    "inspect": {"--verify"},
    "compress": {"--set", "--out"},
    "serve": {"--set"},
    "doctor": {"--refresh", "--brief"},
    "schema": set(),
}
COMMON = {"--json", "--quiet", "--verbose", "-q", "-v"}


def commands() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in VERBS:
        command = typer.main.get_command(importlib.import_module(f"fullbore.cli.verbs.{name}").app)
        inner = getattr(command, "commands", None)
        found |= {f"{name} {key}": value for key, value in inner.items()} if inner else {name: command}
    return found


def test_the_flags_of_each_verb_are_pinned() -> None:
    """A setting belongs into the job: whoever adds a flag changes this list."""
    found = {
        name: {option for parameter in command.params for option in parameter.opts if option.startswith("-")}
        for name, command in commands().items()
    }
    assert {name: flags - COMMON for name, flags in found.items()} == FLAGS
    assert all(flags >= COMMON for flags in found.values())


def test_help_leads_with_examples_and_names_every_verb(tmp_path: Path) -> None:
    done = fullbore("--help", cwd=tmp_path)
    assert done.returncode == 0 and not done.stderr
    lines = done.stdout.splitlines()
    assert [line.strip().startswith(command) for (command, _), line in zip(EXAMPLES, lines[2:5], strict=True)] == [
        True
    ] * 3
    for name, description in VERBS.items():
        assert any(line.split() == [name, *description.split()] for line in lines)
    assert all(len(line) <= 80 for line in lines)


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_explains_itself_as_the_list_does(name: str, tmp_path: Path) -> None:
    module = importlib.import_module(f"fullbore.cli.verbs.{name}")
    help_text = " ".join((typer.main.get_command(module.app).help or "").split())
    assert help_text.startswith(VERBS[name].partition(";")[0])
    assert len(Path(str(module.__file__)).read_text().splitlines()) < 100


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["rnu"], "Did you mean 'run'?", "fullbore --help"),
        (["chek", "x.toml"], "No such command 'chek'. Did you mean 'check'?", "fullbore --help"),
        (["run"], "Missing argument 'JOB'", "fullbore run --help"),
        (["run", "x.toml", "--budget", "3"], "No such option: --budget", "fullbore run --help"),
        (["run", "x.toml", "--set", "seed"], "--set seed: expected KEY=VALUE", "train.budget"),
        (["run", "x.toml"], "x.toml: no such file", "fullbore init"),
        (["explain"], "no runs in", "fullbore run <job.toml>"),
        (["init", "text"], "no template 'text'", "text-lm, text-classifier"),
    ],
)
def test_misuse_exits_with_2_and_says_what_to_do(arguments: list[str], message: str, hint: str, tmp_path: Path) -> None:
    done = fullbore(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and not done.stdout
    first, blank, last = done.stderr.splitlines()
    assert first.startswith("error: ") and message in first and not blank
    assert last.startswith("hint: ") and hint in last
    answer = fullbore(*arguments, "--json", cwd=tmp_path)
    assert answer.returncode == 2
    found = json.loads(answer.stdout)
    assert found["schema"] == 1 and found["status"] == "failed" and message in found["error"]["message"]
    assert found["error"]["hint"] and found["error"]["kind"]


def test_job_mistakes_come_all_at_once_one_a_line(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text('name = "x"\n[data]\nsorce = "."\n[serve]\nport = "x"\n')
    done = fullbore("check", "job.toml", cwd=tmp_path)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.splitlines() == [
        "job.toml:2 data.source: missing; expected text",
        "job.toml:3 data.sorce: unknown key; did you mean source?",
        'job.toml:5 serve.port: found "x", expected a whole number from 0 to 65535',
    ]
    assert (
        len(json.loads(fullbore("check", "job.toml", "--json", cwd=tmp_path).stdout)["error"]["message"].splitlines())
        == 3
    )


def test_init_writes_jobs_that_load_and_never_overwrites(tmp_path: Path) -> None:
    from fullbore.flow.init import KINDS
    from fullbore.spec.load import load

    for kind in KINDS:
        done = fullbore("init", kind, "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert answer == {"schema": 1, "path": f"{kind}.toml", "kind": kind,
                          "next": [f"fullbore check {kind}.toml", f"fullbore run {kind}.toml"]}  # fmt: skip
        text = (tmp_path / f"{kind}.toml").read_text()
        assert f"#   fullbore run {kind}.toml" in text and "#   fullbore explain last" in text
        assert load(tmp_path / f"{kind}.toml").job.name == kind
    before = (tmp_path / "tabular.toml").read_bytes()
    again = fullbore("init", "tabular", cwd=tmp_path)
    assert again.returncode == 2 and "exists" in again.stderr
    assert (tmp_path / "tabular.toml").read_bytes() == before


def test_init_without_a_kind_lists_them(tmp_path: Path) -> None:
    done = fullbore("init", cwd=tmp_path)
    assert done.returncode == 2 and not done.stdout
    first, *kinds, blank, hint = done.stderr.splitlines()
    assert first == "error: KIND is missing, one of" and not blank and hint == "hint: fullbore init text-lm"
    assert [line.split()[0] for line in kinds] == ["text-lm", "text-classifier", "image-classifier", "tabular"]
    assert all(len(line.split()) > 3 for line in kinds)


@pytest.mark.parametrize(("file", "size"), [("train-images-idx3-ubyte.gz", None), ("cat.png", 64)])
def test_init_leaves_idx_images_as_they_are(tmp_path: Path, file: str, size: int | None) -> None:
    from fullbore.spec.load import load

    (tmp_path / "images").mkdir()
    (tmp_path / "images" / file).touch()
    done = fullbore("init", "image-classifier", "--data", "images", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert load(tmp_path / "image-classifier.toml").job.data.image_size == size


def test_init_puts_the_data_and_the_name_in(tmp_path: Path) -> None:
    from fullbore.spec.load import load

    data = 'my "data"\\folder'
    done = fullbore("init", "text-lm", "Über mich.toml", "--data", data, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "fullbore run Über mich.toml" in done.stdout
    job = load(tmp_path / "Über mich.toml").job
    assert job.data.source == data and job.name == "ber-mich"


def test_schema_is_json_on_stdout(tmp_path: Path) -> None:
    done = fullbore("schema", cwd=tmp_path)
    assert json.loads(done.stdout)["title"] == "fullbore job" and not done.stderr
    assert json.loads(fullbore("schema", "--json", cwd=tmp_path).stdout)["job"]["title"] == "fullbore job"


def test_a_closed_pipe_is_no_crash(tmp_path: Path) -> None:
    command = f"{sys.executable} -m fullbore.cli.main schema | head -c 1"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "{" and not done.stderr


CRASH = """
import sys
from fullbore.cli import main
from fullbore.flow import doctor
def broken(**_): raise {error}
doctor.doctor = broken
sys.argv = ["fullbore", "doctor", *{arguments!r}]
main.main()
"""


def crash(error: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = CRASH.format(error=error, arguments=arguments)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)


def test_a_fault_of_ours_is_one_line_and_a_file(tmp_path: Path) -> None:
    done = crash('ValueError("two\\nlines")', "--json")
    assert done.returncode == 1
    first, blank, hint = done.stderr.splitlines()
    assert first == "error: ValueError: two lines" and not blank and "Traceback" not in done.stderr
    trace = Path(hint.rpartition(" ")[2])
    assert "Traceback" in trace.read_text() and "in broken" in trace.read_text()
    trace.unlink()
    loud = crash('ValueError("x")', "-vv")
    assert "Traceback" in loud.stderr
    Path(loud.stderr.partition("traceback is in ")[2].split()[0]).unlink()


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        ("__import__('fullbore.base.errors').base.errors.DoesNotFit('too big', hint='less')", 3, "failed"),
        ("__import__('fullbore.base.errors').base.errors.MachineLacks('no S3')", 4, "failed"),
        ("__import__('fullbore.base.errors').base.errors.GateFailed('worse')", 5, "failed"),
        ("__import__('fullbore.base.errors').base.errors.RunFailed('NaN')", 1, "failed"),
        ("__import__('fullbore.base.errors').base.errors.Interrupted('stopped')", 130, "interrupted"),
        ("KeyboardInterrupt", 130, "interrupted"),
    ],
)
def test_exit_codes(error: str, code: int, status: str) -> None:
    done = crash(error, "--json")
    assert done.returncode == code and done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    assert json.loads(done.stdout)["status"] == status


def test_a_run_that_failed_is_answered_whole() -> None:
    """What flow hangs on the error is what --json prints, with the error in it."""
    code = (
        "from fullbore.base.errors import RunFailed\nfrom fullbore.cli import console\n"
        "console.console.json = True\nerror = RunFailed('NaN', hint='less')\n"
        "error.result = {'schema': 1, 'run': 'one', 'status': 'failed', 'ledger': {}}\nconsole.console.failed(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {
        "schema": 1, "run": "one", "status": "failed", "ledger": {},
        "error": {"kind": "RunFailed", "message": "NaN", "hint": "less"},
    }  # fmt: skip


def test_every_state_has_a_colour_in_both_themes() -> None:
    assert set(LIGHT) == set(DARK) == set(FAMILY) == {str(state) for state in State}
    assert len(set(LIGHT.values())) == len(LIGHT) and len(set(DARK.values())) == len(DARK)

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark = luminance("#14171a")
    assert all(1.05 / (luminance(colour) + 0.05) >= 3 for colour in LIGHT.values())
    assert all((luminance(colour) + 0.05) / (dark + 0.05) >= 3 for colour in DARK.values())
