"""The Open Inference Protocol v2 REST door: every model, described and asked by named tensors.

Source: kserve/open-inference-protocol, specification/protocol/inference_rest.md. Tensors travel as JSON: text models
take BYTES `text` [n], tabular ones FP32 `features` [n, F], images UINT8 `pixels` [n, C, H, W].
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from fullbore.base.version import VERSION
from fullbore.models.predict import standardised
from fullbore.serve.body import kind_of, parse_object, validate
from fullbore.serve.catalogue import Catalogue, Served
from fullbore.serve.errors import ApiError, invalid
from fullbore.serve.gate import Gate
from fullbore.serve.lane import Ticket
from fullbore.serve.metrics import Metrics
from fullbore.serve.requests import Completion, Generate, Predict, Predicted, sharp
from fullbore.spec.serve import ServeSection

_MOST_ROWS = 4096
_RANGES = {"UINT8": (0, 255), "FP32": (-3.4028235e38, 3.4028235e38)}
_DTYPES = {"UINT8": np.uint8, "FP32": np.float32}
_STRICT = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)
_ELSEWHERE = ("binary_data", "binary_data_size", "binary_data_output", "shared_memory_region")
"""Parameters of extensions by which tensors travel in another way than in the JSON."""


def _in_json(parameters: dict[str, Any]) -> dict[str, Any]:
    """Any parameters, as the protocol leaves them to the server, but for those that no answer in JSON honours."""
    for name in _ELSEWHERE:
        if parameters.get(name) not in (None, False):
            raise ValueError(f"{name} is not supported here, tensors travel as JSON; leave it out or make it false")
    return parameters


Parameters = Annotated[dict[str, Any], AfterValidator(_in_json)]


class _Tensor(BaseModel):
    model_config = _STRICT
    name: str
    shape: list[int] = Field(min_length=1, max_length=8)
    datatype: str
    parameters: Parameters = Field(default_factory=dict)
    data: list[Any]


class _Output(BaseModel):
    model_config = _STRICT
    name: str
    parameters: Parameters = Field(default_factory=dict)


class _Sampling(BaseModel):
    """The parameters of a request that say how a language model generates."""

    model_config = ConfigDict({**_STRICT, "extra": "ignore"})
    max_tokens: int = Field(16, ge=0)
    temperature: float = Field(0.0, ge=0, le=2)
    """Below 0.001 it takes the likeliest token each time."""
    top_p: float = Field(1.0, ge=0, le=1)
    top_k: int = Field(0, ge=0, le=2**31)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)


class _InferRequest(BaseModel):
    model_config = _STRICT
    id: str | None = Field(None, max_length=256)
    parameters: Parameters = Field(default_factory=dict)
    inputs: list[_Tensor] = Field(min_length=1, max_length=8)
    outputs: list[_Output] | None = None


@dataclass(frozen=True)
class Asked:
    """A request that was understood: one lane request, or one for each text to continue."""

    id: str | None
    served: Served
    requests: tuple[Generate | Predict, ...]
    tokens: int
    outputs: tuple[str, ...]


def metadata(served: Served) -> dict[str, Any]:
    """What a model takes and gives, as the protocol's model metadata."""
    name, datatype, shape = _input(served)
    return {
        "name": served.name,
        "versions": [],
        "platform": "fullbore_torch",
        "inputs": [{"name": name, "datatype": datatype, "shape": shape}],
        "outputs": [{"name": n, "datatype": d, "shape": s} for n, (d, s) in outputs(served).items()],
    }


def _input(served: Served) -> tuple[str, str, list[int]]:
    sizes = served.loaded.sizes
    match served.takes:
        case "tokens":
            return "text", "BYTES", [-1]
        case "features":
            return "features", "FP32", [-1, sizes.features or 0]
        case "pixels":
            return "pixels", "UINT8", [-1, *(sizes.image or ())]


def outputs(served: Served) -> dict[str, tuple[str, list[int]]]:
    """Name to datatype and shape of what a model answers; -1 stands for the rows."""
    if served.generates:
        return {"text": ("BYTES", [-1])}
    if served.loaded.task.kind == "regression":
        return {"value": ("FP64", [-1])}
    classes = served.loaded.sizes.classes or 0
    return {"label": ("BYTES", [-1]), "score": ("FP32", [-1]), "logits": ("FP32", [-1, classes])}


def understand(body: bytes, served: Served, section: ServeSection) -> Asked:
    """Parse, check and tokenise; runs off the event loop. Raises ApiError 400."""
    wanted: _InferRequest = validate(_InferRequest, parse_object(body))
    known = outputs(served)
    names = tuple(output.name for output in wanted.outputs or ()) or tuple(known)
    for name in names:
        if name not in known:
            raise invalid(f"outputs: found {name[:64]!r}, expected one of {', '.join(known)}", "outputs")
    column = _column(wanted.inputs, served)
    rows = len(column)
    if served.generates:
        how: _Sampling = validate(_Sampling, wanted.parameters, "parameters")
        return Asked(wanted.id, served, _continuations(column, how, served, section), 0, names)
    if served.takes == "pixels":
        return Asked(wanted.id, served, (Predict({"pixels": column}, rows),), rows, names)
    if served.takes == "features":
        features = standardised(served.loaded, column)
        return Asked(wanted.id, served, (Predict({"features": features}, rows),), rows, names)
    tokens = served.encode(column, "text", served.loaded.sizes.sequence_length)
    total = max(1, sum(len(row) for row in tokens))
    return Asked(wanted.id, served, (Predict({"tokens": tokens}, rows),), total, names)


def _continuations(
    texts: Sequence[str], how: _Sampling, served: Served, section: ServeSection
) -> tuple[Generate | Predict, ...]:
    if how.max_tokens > section.max_tokens:
        raise invalid(
            f"max_tokens: found {kind_of(how.max_tokens)}, expected at most {section.max_tokens}", "max_tokens"
        )
    seed = secrets.randbits(62) if how.seed is None else how.seed
    return tuple(
        Generate(
            served.fitting(tokens.tolist(), how.max_tokens, "text"),
            how.max_tokens,
            sharp(how.temperature),
            how.top_p,
            how.top_k,
            seed + index,
        )
        for index, tokens in enumerate(served.encode(texts, "text"))
    )


def _column(tensors: Sequence[_Tensor], served: Served) -> Any:
    """The one input of the model: an array, or strings. Raises ApiError 400 naming what differs."""
    name, datatype, shape = _input(served)
    found = ", ".join(tensor.name[:64] for tensor in tensors)
    if len(tensors) != 1 or tensors[0].name != name:
        raise invalid(f"inputs: found {found}, expected {name} alone", "inputs", "wrong_input")
    tensor = tensors[0]
    if tensor.datatype != datatype:
        raise invalid(f"{name}: found datatype {tensor.datatype[:16]!r}, expected {datatype}", name, "wrong_datatype")
    fits = len(tensor.shape) == len(shape) and tensor.shape[1:] == shape[1:]
    if not fits or not 0 < tensor.shape[0] <= _MOST_ROWS:
        expected = ["n", *shape[1:]]
        shown = [size if abs(size) < 10**20 else "huge" for size in tensor.shape]
        message = f"{name}: found shape {shown}, expected {expected} with n from 1 to {_MOST_ROWS}"
        raise invalid(message.replace("'", ""), name, "wrong_shape")
    flat = _flatten(tensor.data, tensor.shape, name)
    if datatype == "BYTES":
        return _strings(flat, name)
    return _numbers(flat, datatype, name).reshape(tensor.shape)


def _flatten(data: list[Any], shape: Sequence[int], name: str) -> list[Any]:
    """The values of `data` in row-major order; it is flat already, or nested exactly as `shape` says."""
    count = math.prod(shape)
    if data and isinstance(data[0], list):
        for depth, size in enumerate(shape):
            if depth and not all(isinstance(row, list) and len(row) == size for row in data):
                raise invalid(f"{name}: data is not nested as shape {list(shape)} says", name, "wrong_shape")
            if not depth and len(data) != size:
                raise invalid(f"{name}: found {len(data)} rows of data, expected {size}", name, "wrong_shape")
            if depth:
                data = [value for row in data for value in row]
    if len(data) != count:
        raise invalid(
            f"{name}: found {len(data)} values, expected {count} for shape {list(shape)}", name, "wrong_shape"
        )
    return data


def _strings(flat: list[Any], name: str) -> list[str]:
    for value in flat:
        if not isinstance(value, str):
            raise invalid(f"{name}: found {kind_of(value)}, expected strings", name, "wrong_type")
    return flat


def _numbers(flat: list[Any], datatype: str, name: str) -> np.ndarray[Any, Any]:
    allowed = {int, float} if datatype == "FP32" else {int}
    if not set(map(type, flat)) <= allowed:
        wrong = next(value for value in flat if type(value) not in allowed)
        expected = "numbers" if datatype == "FP32" else "integers"
        raise invalid(f"{name}: found {kind_of(wrong)}, expected {expected}", name, "wrong_type")
    low, high = _RANGES[datatype]
    if not (low <= min(flat) and max(flat) <= high):
        wrong = next(value for value in flat if not low <= value <= high)
        raise invalid(f"{name}: found {kind_of(wrong)}, expected {datatype} from {low} to {high}", name, "out_of_range")
    return np.array(flat, dtype=_DTYPES[datatype])


class Inference:
    """The routes of the protocol."""

    def __init__(self, catalogue: Catalogue, gate: Gate, section: ServeSection, metrics: Metrics) -> None:
        self._catalogue = catalogue
        self._gate = gate
        self._section = section
        self._metrics = metrics

    async def server(self, _: Request) -> Response:
        return JSONResponse({"name": "fullbore", "version": VERSION, "extensions": []})

    async def live(self, _: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        return self._if_ready(request, {"ready": True})

    def _if_ready(self, request: Request, told: dict[str, Any]) -> Response:
        """`told`; by the protocol an error where it is not true."""
        if self._gate.lane.accepting:
            return JSONResponse(told)
        return ApiError(503, "the server is shutting down", code="draining").response(request.url.path)

    async def model(self, request: Request) -> Response:
        return JSONResponse(metadata(self._catalogue.named(request.path_params["name"])))

    async def model_ready(self, request: Request) -> Response:
        served = self._catalogue.named(request.path_params["name"])
        return self._if_ready(request, {"name": served.name, "ready": True})

    async def unversioned(self, request: Request) -> Response:
        """Raises ApiError 404: models have no versions, as their metadata says."""
        served, version = self._catalogue.named(request.path_params["name"]), request.path_params["version"]
        told = f"model {served.name!r} has no versions, found {version.split('/')[0][:64]!r}; leave /versions/… out"
        raise ApiError(404, told, param="version", code="no_versions")

    async def infer(self, request: Request) -> Response:
        deadline = self._gate.deadline()
        served = self._catalogue.named(request.path_params["name"])
        if "inference-header-content-length" in request.headers:
            raise ApiError(
                415, "binary tensors are not taken here, expected JSON", param="inputs", code="binary_tensors"
            )
        async with self._gate.body(request, deadline) as body:
            asked = await self._gate.prepare(understand, body, served, self._section)
            tickets = [_ticket(asked, one, len(body), deadline) for one in asked.requests]
            self._gate.submit(tickets)
        answers = await self._gate.collect(request, tickets)
        head = {"model_name": served.name} | ({} if asked.id is None else {"id": asked.id})
        return JSONResponse({**head, "outputs": self._outputs(asked, answers)})

    def _outputs(self, asked: Asked, answers: Sequence[Completion | Predicted]) -> list[dict[str, Any]]:
        given: dict[str, Any] = {}
        for answer in answers:
            if isinstance(answer, Completion):
                self._metrics.completion(asked.served.name, answer)
                given.setdefault("text", []).append(answer.text)
            else:
                self._metrics.read(asked.served.name, asked.tokens)
                given.update(answer.outputs)
        return [_encode(name, given[name], outputs(asked.served)[name][0]) for name in asked.outputs]


def _ticket(asked: Asked, one: Generate | Predict, size: int, deadline: float) -> Ticket[Generate | Predict]:
    share = size // len(asked.requests)
    if isinstance(one, Generate):
        return Ticket(one, asked.served.name, len(one.tokens) + one.max_tokens, share, deadline, alone=True)
    return Ticket(one, asked.served.name, asked.tokens, share, deadline)


def _encode(name: str, values: np.ndarray[Any, Any] | list[str], datatype: str) -> dict[str, Any]:
    if isinstance(values, list):
        return {"name": name, "shape": [len(values)], "datatype": datatype, "data": values}
    return {"name": name, "shape": list(values.shape), "datatype": datatype, "data": values.reshape(-1).tolist()}
