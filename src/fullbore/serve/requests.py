"""What the doors ask of a backend, and what it answers: plain data, checked before it enters the lane."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True)
class Generate:
    """Continue `tokens`."""

    tokens: tuple[int, ...]
    max_tokens: int
    temperature: float = 0.0
    """0 takes the likeliest token each time."""
    top_p: float = 1.0
    top_k: int = 0
    """0 leaves all tokens in."""
    seed: int | None = None
    stop: tuple[str, ...] = ()


def sharp(temperature: float) -> float:
    """`temperature`, or 0 where dividing by it would leave one token and risk an overflow."""
    return 0.0 if temperature < 1e-3 else temperature


@dataclass(frozen=True)
class Completion:
    """An answer to Generate. `text` ends before the stop string."""

    text: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    tokens: int
    """Tokens generated, the one that ended the text included."""
    first_token_seconds: float | None
    """From entering the queue; none if no token was generated."""
    between_tokens_seconds: tuple[float, ...]


@dataclass(frozen=True)
class Predict:
    """Classify or value `rows` samples: columns as a task's `collate` takes them ("tokens", "features" or "pixels")."""

    columns: Mapping[str, Any]
    rows: int


@dataclass(frozen=True)
class Predicted:
    """An answer to Predict: arrays whose first axis is the rows."""

    outputs: Mapping[str, np.ndarray[Any, Any] | list[str]]
