"""What a source yields: a sample, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Sample:
    """`values` by column: text (str), label (str), features (float32 [F]), pixels (uint8 [C, H, W]).

    `id` is `path#row`, rows counted from 1; `split` is set where the source itself says to which split it belongs.
    """

    id: str
    values: dict[str, Any]
    split: str | None = None


@dataclass(frozen=True, slots=True)
class Bad:
    """A sample that cannot be read, and the reason for its quarantine."""

    id: str
    reason: str
