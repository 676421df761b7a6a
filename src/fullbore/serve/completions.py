"""The OpenAI door: /v1/models and /v1/completions, streaming too."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from fullbore.serve.body import kind_of, only, parse_object, validate
from fullbore.serve.catalogue import Catalogue, Served
from fullbore.serve.errors import invalid
from fullbore.serve.gate import Gate, Piece
from fullbore.serve.lane import Ticket
from fullbore.serve.metrics import Metrics
from fullbore.serve.requests import Completion, Generate, sharp
from fullbore.spec.serve import ServeSection

_MOST_PROMPTS = 128
_MOST_STOPS = 4
_LONGEST_STOP = 256


class _StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    include_usage: bool | None = None
    include_obfuscation: Annotated[Any, only(False)] = None


class CompletionRequest(BaseModel):
    """OpenAI's completion request; what is not supported is refused unless it asks for nothing."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)
    model: str | None = None
    prompt: Any
    max_tokens: int | None = Field(None, ge=0)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0, le=2**31)
    stop: Any = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    user: str | None = None
    n: Annotated[Any, only(1)] = None
    best_of: Annotated[Any, only(1)] = None
    echo: Annotated[Any, only(False)] = None
    logprobs: Annotated[Any, only()] = None
    logit_bias: Annotated[Any, only({})] = None
    suffix: Annotated[Any, only("")] = None
    presence_penalty: Annotated[Any, only(0)] = None
    frequency_penalty: Annotated[Any, only(0)] = None


@dataclass(frozen=True)
class Asked:
    """A request that was understood."""

    model: str
    prompts: tuple[Generate, ...]
    stream: bool
    usage_in_stream: bool


def understand(body: bytes, catalogue: Catalogue, section: ServeSection) -> Asked:
    """Parse, check and tokenise; runs off the event loop. Raises ApiError 400, 404."""
    wanted: CompletionRequest = validate(CompletionRequest, parse_object(body))
    served = catalogue.language_model(wanted.model)
    max_tokens = 16 if wanted.max_tokens is None else wanted.max_tokens
    if max_tokens > section.max_tokens:
        raise invalid(f"max_tokens: found {kind_of(max_tokens)}, expected at most {section.max_tokens}", "max_tokens")
    stop, seed = _stops(wanted.stop), secrets.randbits(62) if wanted.seed is None else wanted.seed
    prompts = tuple(
        Generate(
            tokens=served.fitting(tokens, max_tokens, "prompt"),
            max_tokens=max_tokens,
            temperature=1.0 if wanted.temperature is None else sharp(wanted.temperature),
            top_p=1.0 if wanted.top_p is None else wanted.top_p,
            top_k=wanted.top_k or 0,
            seed=seed + index,
            stop=stop,
        )
        for index, tokens in enumerate(_prompts(wanted.prompt, served))
    )
    usage = wanted.stream_options is not None and wanted.stream_options.include_usage
    return Asked(served.name, prompts, bool(wanted.stream), bool(usage))


def _prompts(value: Any, served: Served) -> list[Sequence[int]]:
    """The token lists of a prompt: a text, several texts, token ids, or several lists of token ids."""
    expected = "expected a string, a list of strings, a list of token ids or a list of such lists"
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not items:
        raise invalid(f"prompt: found {kind_of(value)}, {expected}", "prompt")
    if all(type(item) is int for item in items):
        items = [items]
    if len(items) > _MOST_PROMPTS:
        raise invalid(f"prompt: found {len(items)} prompts, expected at most {_MOST_PROMPTS}", "prompt")
    if all(isinstance(item, str) for item in items):
        return [tokens.tolist() for tokens in served.encode(items, "prompt")]
    vocabulary = served.loaded.sizes.vocabulary_size or served.tokenizer.vocabulary_size
    prompts: list[Sequence[int]] = []
    for item in items:
        if not isinstance(item, list) or not all(type(token) is int for token in item):
            raise invalid(f"prompt: found {kind_of(item)} in the list, {expected}", "prompt")
        outside = next((token for token in item if not 0 <= token < vocabulary), None)
        if outside is not None:
            found = outside if abs(outside) < 10**20 else "a huge integer"
            raise invalid(f"prompt: found token id {found}, expected 0 to {vocabulary - 1}", "prompt")
        prompts.append(item)
    return prompts


def _stops(value: Any) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    fine = isinstance(stops, list) and len(stops) <= _MOST_STOPS
    if not fine or not all(isinstance(stop, str) and 0 < len(stop) <= _LONGEST_STOP for stop in stops):
        expected = f"a string or up to {_MOST_STOPS}, each of 1 to {_LONGEST_STOP} characters"
        raise invalid(f"stop: found {kind_of(value)}, expected {expected}", "stop")
    return tuple(stops)


class Completions:
    """The routes that speak OpenAI's dialect."""

    def __init__(self, catalogue: Catalogue, gate: Gate, section: ServeSection, metrics: Metrics) -> None:
        self._catalogue = catalogue
        self._gate = gate
        self._section = section
        self._metrics = metrics
        self._created = int(time.time())

    async def models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model(served) for served in self._catalogue]})

    async def model(self, request: Request) -> Response:
        return JSONResponse(self._model(self._catalogue.named(request.path_params["name"])))

    def _model(self, served: Served) -> dict[str, Any]:
        return {"id": served.name, "object": "model", "created": self._created, "owned_by": "fullbore"}

    async def complete(self, request: Request) -> Response:
        deadline = self._gate.deadline()
        async with self._gate.body(request, deadline) as body:
            asked = await self._gate.prepare(understand, body, self._catalogue, self._section)
            tickets = [_ticket(asked.model, prompt, deadline) for prompt in asked.prompts]
            pieces = self._gate.open_stream(tickets) if asked.stream else None
            self._gate.submit(tickets)
        head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": asked.model,
        }
        if pieces is None:
            answers = await self._gate.collect(request, tickets)
            for answer in answers:
                self._metrics.completion(asked.model, answer)
            choices = [_choice(index, answer.text, answer.finish_reason) for index, answer in enumerate(answers)]
            return JSONResponse({**head, "choices": choices, "usage": _usage(answers)})
        first = await self._gate.first_piece(request, pieces, tickets)
        events = self._events(head, asked, tickets, pieces, first)
        return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-store"})

    async def _events(
        self,
        head: dict[str, Any],
        asked: Asked,
        tickets: Sequence[Ticket[Generate]],
        pieces: asyncio.Queue[Piece],
        piece: Piece,
    ) -> AsyncIterator[bytes]:
        """Server-sent events: a chunk for each piece of text, one with why it ended, [DONE].

        Where the usage is asked for, it comes in a last chunk without choices, and is null in those before.
        """
        answers: list[Completion] = []
        if asked.usage_in_stream:
            head = {**head, "usage": None}
        try:
            while True:
                if piece.last:
                    answer: Completion = tickets[piece.index].future.result()
                    answers.append(answer)
                    self._metrics.completion(asked.model, answer)
                    yield _event({**head, "choices": [_choice(piece.index, "", answer.finish_reason)]})
                    if len(answers) == len(tickets):
                        break
                else:
                    yield _event({**head, "choices": [_choice(piece.index, piece.text, None)]})
                piece = await self._gate.next_piece(pieces, tickets[0].deadline)
            if asked.usage_in_stream:
                yield _event({**head, "choices": [], "usage": _usage(answers)})
            yield b"data: [DONE]\n\n"
        except Exception as error:
            yield _event(self._gate.refuse(error).body())
        finally:
            for ticket in tickets:
                self._gate.lane.abandon(ticket)


def _ticket(model: str, prompt: Generate, deadline: float) -> Ticket[Generate]:
    tokens = len(prompt.tokens)
    return Ticket(prompt, model, tokens + prompt.max_tokens, 4 * tokens, deadline, alone=True)


def _choice(index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}


def _usage(answers: Sequence[Completion]) -> dict[str, int]:
    prompt, generated = sum(a.prompt_tokens for a in answers), sum(a.tokens for a in answers)
    return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
