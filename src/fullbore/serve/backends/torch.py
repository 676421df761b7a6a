"""Batches executed by torch in this process: samples of one model padded together, texts continued one after the other.

Continuous batching of texts has its place here: they would come to `__call__` together and be stepped as one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fullbore.models import collate
from fullbore.models.generate import generate
from fullbore.models.predict import postprocess
from fullbore.models.supervised import answers
from fullbore.models.weights import LoadedModel
from fullbore.serve.lane import Ticket
from fullbore.serve.requests import Completion, Generate, Predict, Predicted
from fullbore.serve.text import Detokeniser, StopFilter

_ROUNDS = 5
_TRIED = 8
"""Tokens read and written to time a language model."""


class TorchBackend:
    """What a lane executes: tickets of one model to their answers, in order."""

    def __init__(self, models: Mapping[str, LoadedModel], *, rows: int) -> None:
        """`rows`: most samples in one call of a network."""
        self._models = dict(models)
        self._rows = rows

    def __call__(self, tickets: Sequence[Ticket[Generate | Predict]]) -> Sequence[Any]:
        loaded = self._models[tickets[0].model]
        first = tickets[0].request
        if isinstance(first, Generate):
            return [_complete(loaded, first, tickets[0])]
        return _predict(loaded, [t.request for t in tickets if isinstance(t.request, Predict)], self._rows)


def fastest_threads(models: Mapping[str, LoadedModel], cores: int) -> int:
    """1 or `cores`: with how many threads torch answers one small request of each model sooner, by measuring.

    Small networks lose more by waking threads than they gain. torch's own setting is left as it was.
    """
    before = torch.get_num_threads()
    counts = (1, cores)
    took: dict[int, list[float]] = {count: [] for count in counts}
    try:
        for _ in range(_ROUNDS):
            for count in counts:
                torch.set_num_threads(count)
                began = time.perf_counter()
                for loaded in models.values():
                    _answer_once(loaded)
                took[count].append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(before)
    return min(counts, key=lambda count: statistics.median(took[count]))


def _answer_once(loaded: LoadedModel) -> None:
    sizes = loaded.sizes
    if loaded.task.kind == "causal_lm":
        list(generate(loaded.module, [0] * _TRIED, max_tokens=_TRIED))
        return
    columns: dict[str, Any] = {"tokens": [np.zeros(sizes.sequence_length or _TRIED, np.int64)]}
    if sizes.image is not None:
        columns = {"pixels": np.zeros((1, *sizes.image), np.uint8)}
    elif sizes.features is not None:
        columns = {"features": np.zeros((1, sizes.features), np.float32)}
    with torch.inference_mode():
        answers(loaded.module, collate.inputs(columns, 0))


def _predict(loaded: LoadedModel, asked: Sequence[Predict], most: int) -> list[Predicted]:
    """Answer all samples of all requests together, at most `most` of them in one call of the network."""
    name = next(iter(asked[0].columns))
    column = _join([one.columns[name] for one in asked])
    pad = loaded.tokenizer.pad if loaded.tokenizer is not None else 0
    with torch.inference_mode():
        calls = [
            answers(loaded.module, collate.inputs({name: column[begin : begin + most]}, pad))
            for begin in range(0, len(column), most)
        ]
    return [_named(loaded, outputs) for outputs in torch.split(torch.cat(calls), [one.rows for one in asked])]


def _join(columns: Sequence[Any]) -> Any:
    if isinstance(columns[0], np.ndarray):
        return np.concatenate(columns)
    return [row for column in columns for row in column]


def _named(loaded: LoadedModel, outputs: Tensor) -> Predicted:
    told = postprocess(loaded, outputs)
    if loaded.task.kind == "regression":
        return Predicted({"value": np.array([one["value"] for one in told], np.float64)})
    return Predicted(
        {
            "label": [one["label"] for one in told],
            "score": np.array([one["score"] for one in told], np.float32),
            "logits": outputs.float().numpy(),
        }
    )


def _complete(loaded: LoadedModel, asked: Generate, ticket: Ticket[Any]) -> Completion:
    """Continue one text, giving its pieces to `ticket.emit`. Raises what `ticket.check` raises, within one token."""
    assert loaded.tokenizer is not None
    words, stop = Detokeniser(loaded.tokenizer.decode), StopFilter(asked.stop)
    end = loaded.tokenizer.end_of_text
    pieces: list[str] = []
    times: list[float] = []
    reason: Literal["stop", "length"] = "length"
    before = ticket.entered

    def give(text: str) -> None:
        if text:
            pieces.append(text)
            ticket.emit(text)

    ticket.check()
    for token in generate(
        loaded.module,
        asked.tokens,
        max_tokens=asked.max_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        top_k=asked.top_k,
        seed=asked.seed,
        stop_ids={end},
    ):
        now = time.monotonic()
        times.append(now - before)
        before = now
        if token == end:
            reason = "stop"
            break
        give(stop.push(words.push(token)))
        if stop.stopped:
            reason = "stop"
            break
        ticket.check()
    if not stop.stopped:
        give(stop.push(words.finish()))
    if not stop.stopped:
        give(stop.finish())
    return Completion(
        text="".join(pieces),
        finish_reason="stop" if stop.stopped else reason,
        prompt_tokens=len(asked.tokens),
        tokens=len(times),
        first_token_seconds=times[0] if times else None,
        between_tokens_seconds=tuple(times[1:]),
    )
