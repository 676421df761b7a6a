"""Every error that fullbore raises for a reason its user can act on.

FullboreError              exit code  when
├── UsageError                 2      the command or its arguments are wrong
│   └── JobError               2      the job file is wrong: every problem at once
├── InputError                 2      data, a model folder or a run is missing, unreadable or malformed
│   └── CorruptError           2      bytes do not match their checksum
├── DoesNotFit                 3      memory, disk or time will not suffice
├── MachineLacks               4      a device, service or package is not here
├── GateFailed                 5      a quality, SLO or regression gate was not met
├── RunFailed                  1      the job itself failed (NaN loss, a rank died, disk full)
└── Interrupted              130      stopped on request; resumable
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class FullboreError(Exception):
    """An error with a message for people and, where there is one, the way out.

    `message` names the file and field, what was found and what was expected; `hint` says what to do.
    """

    exit_code = 1
    result: Mapping[str, Any] | None = None
    """What the run that this error ended came to, as in its result.json; none where no run was under way."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message

    def to_json(self) -> dict[str, Any]:
        """`kind` (the class), `message` and `hint`."""
        return {"kind": type(self).__name__, "message": self.message, "hint": self.hint}


class UsageError(FullboreError):
    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One mistake in a job: where it was written, which key, what is wrong."""

    where: str
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.where} {self.key}: {self.message}"


class JobError(UsageError):
    """All the problems of a job file, found in one pass."""

    def __init__(self, problems: list[Problem], *, hint: str | None = None) -> None:
        super().__init__("\n".join(str(problem) for problem in problems), hint=hint)
        self.problems = problems


class InputError(FullboreError):
    exit_code = 2


class CorruptError(InputError):
    pass


class DoesNotFit(FullboreError):
    exit_code = 3


class MachineLacks(FullboreError):
    exit_code = 4


class GateFailed(FullboreError):
    exit_code = 5


class RunFailed(FullboreError):
    exit_code = 1


class Interrupted(FullboreError):
    exit_code = 130


def from_json(value: Mapping[str, Any]) -> FullboreError:
    """The error that another process wrote as `to_json`: a JobError without its list of problems, so a UsageError; of a
    kind that is not here, a RunFailed."""
    kinds = (UsageError, InputError, CorruptError, DoesNotFit, MachineLacks, GateFailed, Interrupted)
    known = {kind.__name__: kind for kind in kinds} | {"JobError": UsageError}
    return known.get(value["kind"], RunFailed)(value["message"], hint=value["hint"])
