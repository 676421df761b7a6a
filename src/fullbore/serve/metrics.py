"""What /metrics tells: one registry per application."""

from __future__ import annotations

from functools import partial
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from fullbore.serve.lane import Batch, Lane
from fullbore.serve.requests import Completion

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "fullbore_requests", "Answers by route and status.", ("route", "code"), registry=registry
        )
        self.refused = Counter("fullbore_refused", "Requests refused at the door.", ("reason",), registry=registry)
        self._batch = Histogram(
            "fullbore_batch_requests", "Requests in one model call.", ("model",), buckets=_SIZES, registry=registry
        )
        self._queue = self._seconds("fullbore_queue_seconds", "Time from entering the queue to execution.")
        self._execute = self._seconds("fullbore_execute_seconds", "Time of one model call.")
        self._first = self._seconds("fullbore_first_token_seconds", "Time from entering the queue to the first token.")
        self._between = self._seconds("fullbore_inter_token_seconds", "Time between two tokens of one answer.")
        self._tokens = Counter("fullbore_tokens", "Tokens read and generated.", ("model", "kind"), registry=registry)

    def _seconds(self, name: str, text: str) -> Histogram:
        return Histogram(name, text, ("model",), buckets=_SECONDS, registry=self._registry)

    def watch(self, lane: Lane[Any]) -> None:
        """Show how much waits in `lane` at the moment somebody asks."""
        for bound in ("requests", "tokens", "bytes"):
            gauge = Gauge(f"fullbore_queued_{bound}", f"{bound.capitalize()} waiting now.", registry=self._registry)
            gauge.set_function(partial(_waiting, lane, bound))

    def batch(self, batch: Batch) -> None:
        self._batch.labels(batch.model).observe(batch.requests)
        self._execute.labels(batch.model).observe(batch.seconds)
        for seconds in batch.waited:
            self._queue.labels(batch.model).observe(seconds)

    def completion(self, model: str, answer: Completion) -> None:
        self._tokens.labels(model, "prompt").inc(answer.prompt_tokens)
        self._tokens.labels(model, "generated").inc(answer.tokens)
        if answer.first_token_seconds is not None:
            self._first.labels(model).observe(answer.first_token_seconds)
        for seconds in answer.between_tokens_seconds:
            self._between.labels(model).observe(seconds)

    def read(self, model: str, tokens: int) -> None:
        """Tokens (or rows, where there are no tokens) that a model was given."""
        self._tokens.labels(model, "prompt").inc(tokens)

    def text(self) -> bytes:
        return generate_latest(self._registry)


def _waiting(lane: Lane[Any], bound: str) -> float:
    return lane.queued()[bound]
