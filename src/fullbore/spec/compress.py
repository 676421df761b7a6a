"""`[compress]`: which variants are tried and how much quality may be lost."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fullbore.spec.section import Section, Share


class CompressSection(Section):
    variants: tuple[Literal["fp32", "bf16", "int8"], ...] = ("fp32", "bf16", "int8")
    max_drop: Share = 0.005
    """How much worse than the trained model the task's metric may become, relative."""
    target: Literal["latency", "throughput", "size"] = "throughput"
    samples: int = Field(256, gt=0)
    """Held-out samples that judge a variant; as many others, disjoint, calibrate it."""
