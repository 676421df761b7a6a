"""Errors say what is wrong and what to do, and end the program with the code that their kind has."""

from __future__ import annotations

import json
import logging

import pytest

from fullbore.base import errors, log
from fullbore.base.errors import FullboreError, JobError, Problem
from fullbore.engine.local import RankLost

CODES = {
    "FullboreError": 1, "UsageError": 2, "JobError": 2, "InputError": 2, "CorruptError": 2, "DoesNotFit": 3,
    "MachineLacks": 4, "GateFailed": 5, "RunFailed": 1, "Interrupted": 130,
}  # fmt: skip
KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FullboreError)]


def test_every_kind_has_its_exit_code_and_stands_in_the_table() -> None:
    assert {kind.__name__: kind.exit_code for kind in KINDS} == CODES
    assert errors.__doc__ is not None
    table = errors.__doc__.splitlines()
    for name, code in CODES.items():
        if name != "FullboreError":
            [line] = [line for line in table if f" {name} " in line]
            assert f" {code} " in line


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not JobError])
def test_the_message_stands_before_the_way_out(kind: type[FullboreError]) -> None:
    assert str(kind("a.toml: found 3")) == "a.toml: found 3"
    error = kind("a.toml: found 3", hint="write 4")
    assert str(error) == "a.toml: found 3\nhint: write 4"
    assert isinstance(error, FullboreError)
    assert error.result is None


def test_a_job_error_names_every_problem() -> None:
    problems = [Problem("job.toml:3", "train.budget", "too long"), Problem("--set", "model.kind", "unknown")]
    error = JobError(problems, hint="see check")
    assert str(error) == "job.toml:3 train.budget: too long\n--set model.kind: unknown\nhint: see check"
    assert error.problems == problems


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.DoesNotFit("big", hint="h"), errors.DoesNotFit),
        (errors.CorruptError("torn"), errors.CorruptError),
        (JobError([Problem("a", "b", "c")], hint="h"), errors.UsageError),
        (RankLost("gone"), errors.RunFailed),
    ],
)
def test_an_error_crosses_processes_as_json(error: FullboreError, kind: type[FullboreError]) -> None:
    found = errors.from_json(json.loads(json.dumps(error.to_json())))
    assert type(found) is kind and (str(found), found.hint) == (str(error), error.hint)


def test_a_rank_s_lines_say_which_rank(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    before = (log.logger.handlers[:], log.logger.level, log.logger.propagate)
    try:
        for rank, prefix in ((None, ""), ("3", "[rank 3] ")):
            if rank is None:
                monkeypatch.delenv("RANK", raising=False)
            else:
                monkeypatch.setenv("RANK", rank)
            for verbosity, shown in {-1: "e", 0: "we", 1: "iwe", 2: "diwe", 9: "diwe"}.items():
                log.configure(verbosity)
                for level, text in zip((10, 20, 30, 40), "diwe", strict=True):
                    log.logger.log(level, text)
                assert capsys.readouterr().err == "".join(f"{prefix}{letter}\n" for letter in shown)
        assert len(logging.getLogger("fullbore").handlers) == 1
    finally:
        log.logger.handlers[:], log.logger.level, log.logger.propagate = before
