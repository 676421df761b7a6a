"""Refusals as the client sees them: a status and the error object of the protocol that it speaks.

OpenAI's is {"error": {"message", "type", "param", "code"}}, the Open Inference Protocol's {"error": message}.
"""

from __future__ import annotations

import math
from typing import Any

from starlette.responses import JSONResponse

from fullbore.base.errors import FullboreError
from fullbore.serve.lane import Abandoned, DeadlinePassed, Draining, Full, TooLarge

_TYPES = {
    400: "invalid_request_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "overloaded_error",
    499: "client_closed_request",
    500: "server_error",
    503: "unavailable_error",
    504: "timeout_error",
}


class ApiError(Exception):
    """An answer other than 2xx. `param` names the field, `code` is for programs, `message` for people."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = _TYPES.get(self.status, "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self, path: str) -> JSONResponse:
        """The answer to a request for `path`: below /v2 the Open Inference Protocol's, elsewhere OpenAI's."""
        body = {"error": self.message} if f"{path}/".startswith("/v2/") else self.body()
        return JSONResponse(body, self.status, self.headers)


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """400: what was found and what was expected, naming the field."""
    return ApiError(400, message, param=param, code=code)


def as_api_error(error: BaseException) -> ApiError:
    """What the client is told of `error`; of errors that are ours it learns nothing but that."""
    match error:
        case ApiError():
            return error
        case Full():
            wait = {"retry-after": str(max(1, math.ceil(error.retry_after)))}
            return ApiError(429, f"{error}; ask again later", code=f"queue_{error.bound}_full", headers=wait)
        case TooLarge():
            return invalid(str(error), code=f"too_many_{error.bound}")
        case Draining():
            return ApiError(503, str(error), code="draining", headers={"retry-after": "1"})
        case DeadlinePassed() | TimeoutError():
            return ApiError(504, "the answer was not ready within the time limit", code="deadline_passed")
        case Abandoned():
            return ApiError(499, "the client went away", code="client_closed_request")
        case FullboreError() if error.exit_code == 2:
            return invalid(error.message)
        case _:
            return ApiError(500, "the server failed to answer this request", code="internal_error")
