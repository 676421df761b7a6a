"""`[compress]`: which variants are tried and how much quality may be lost."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fullbore.spec.section import Section, Share


class CompressSection(Section):
    """Which variants of the trained model are measured, and how much quality the kept one may lose."""

    variants: tuple[Literal["fp32", "bf16", "int8"], ...] = Field(("fp32", "bf16", "int8"), min_length=1)
    """Number formats that are tried. fp32 is the trained model; without it, the stage fails if no other qualifies."""
    max_drop: Share = 0.005
    """How much worse than the trained model the task's metric may become, relative."""
    target: Literal["latency", "throughput", "size"] = "throughput"
    """What the kept variant must be best at."""
    samples: int = Field(256, gt=0)
    """Held-out samples that judge a variant; as many others, disjoint, calibrate it."""
