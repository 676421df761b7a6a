"""The application: every door, the errors they share, health and metrics."""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fullbore.base.log import logger
from fullbore.models.weights import LoadedModel
from fullbore.serve.backends.torch import TorchBackend
from fullbore.serve.catalogue import Catalogue
from fullbore.serve.completions import Completions
from fullbore.serve.errors import ApiError
from fullbore.serve.gate import Gate
from fullbore.serve.inference import Inference
from fullbore.serve.lane import Lane
from fullbore.serve.metrics import CONTENT_TYPE, Metrics
from fullbore.spec.serve import ServeSection

Endpoint = Callable[[Request], Awaitable[Response]]


def application(models: Mapping[str, LoadedModel], section: ServeSection) -> Starlette:
    """The server of `models` under the names they are given; `state.lane` is its lane, which ends with the application.

    Raises UsageError for models that cannot be served.
    """
    catalogue, metrics = Catalogue(models), Metrics()
    lane = Lane(
        TorchBackend(models, rows=section.batch_size),
        requests=section.queue_requests,
        tokens=section.queue_tokens,
        bytes=section.queue_bytes,
        batch_size=section.batch_size,
        on_batch=metrics.batch,
    )
    metrics.watch(lane)
    gate = Gate(lane, section, metrics)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        gate.close()
        lane.drain(0.0)

    app = Starlette(
        routes=_routes(catalogue, gate, section, metrics),
        exception_handlers={HTTPException: _unrouted(metrics)},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.lane = lane
    return app


def _routes(catalogue: Catalogue, gate: Gate, section: ServeSection, metrics: Metrics) -> list[Route]:
    openai = Completions(catalogue, gate, section, metrics)
    protocol = Inference(catalogue, gate, section, metrics)

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_: Request) -> Response:
        return JSONResponse({"status": "ready"}) if gate.lane.accepting else JSONResponse({"status": "draining"}, 503)

    async def tell_metrics(_: Request) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    table: list[tuple[str, str, Endpoint]] = [
        ("GET", "/health", health),
        ("GET", "/ready", ready),
        ("GET", "/metrics", tell_metrics),
        ("GET", "/v1/models", openai.models),
        ("GET", "/v1/models/{name}", openai.model),
        ("POST", "/v1/completions", openai.complete),
        ("GET", "/v2", protocol.server),
        ("GET", "/v2/health/live", protocol.live),
        ("GET", "/v2/health/ready", protocol.ready),
        ("GET", "/v2/models/{name}", protocol.model),
        ("GET", "/v2/models/{name}/ready", protocol.model_ready),
        ("POST", "/v2/models/{name}/infer", protocol.infer),
        ("GET", "/v2/models/{name}/versions/{version:path}", protocol.unversioned),
        ("POST", "/v2/models/{name}/versions/{version:path}", protocol.unversioned),
    ]
    return [Route(path, _answering(endpoint, path, gate, metrics), methods=[verb]) for verb, path, endpoint in table]


def _answering(endpoint: Endpoint, route: str, gate: Gate, metrics: Metrics) -> Endpoint:
    """`endpoint` with its exceptions turned into answers, and all of its answers counted."""

    async def answer(request: Request) -> Response:
        try:
            response = await endpoint(request)
        except Exception as error:
            told = gate.refuse(error)
            if told.status == 500:
                _log_failure(route, error)
            response = told.response(route)
        return _finished(response, route, metrics)

    return answer


def _unrouted(metrics: Metrics) -> Callable[[Request, Exception], Response]:
    def answer(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
        if status == 405:
            message = f"{request.method} is not taken here, expected {headers.get('Allow', 'another method')}"
            told = ApiError(405, message, code="method_not_allowed", headers=headers)
        else:
            told = ApiError(status, "there is nothing here; GET /v1/models or /v2 say what is", code="not_found")
        return _finished(told.response(request.url.path), "none", metrics)

    return answer


def _finished(response: Response, route: str, metrics: Metrics) -> Response:
    response.headers["date"] = formatdate(usegmt=True)
    metrics.requests.labels(route, str(response.status_code)).inc()
    return response


def _log_failure(route: str, error: Exception) -> None:
    """Where it failed, and nothing that the client sent: messages of exceptions may quote it."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    logger.error("%s failed: %s at %s", route, type(error).__name__, where)
