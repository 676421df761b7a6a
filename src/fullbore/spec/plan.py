"""The Plan: what was chosen by measuring, frozen before step 0 and used again on resume."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Choice:
    """One automatic decision: printed once, kept in the run."""

    key: str
    """The setting it decides, as `--set` writes it: `train.precision`."""
    value: str
    reason: str
    chosen: Literal["measured", "estimated", "set"]
    """`set`: the user decided it."""
    instead: str = ""
    """Another value that the setting could have."""

    @property
    def override(self) -> str:
        """What is typed to decide otherwise, ready to paste; empty where the user has decided."""
        setting = f"{self.key}={self.instead}"
        return f"--set {shlex.quote(setting)}" if self.instead and self.chosen != "set" else ""

    def __str__(self) -> str:
        return f"{self.key} {self.value} ({'; '.join(filter(None, (self.reason, self.override)))})"


@dataclass(frozen=True)
class Prediction:
    """A predicted figure with the measured error of predictions of its kind (0.1 = 10 %; none: not known yet)."""

    value: float
    unit: str
    error: float | None = None


@dataclass(frozen=True)
class Plan:
    """Pure data: what `check` prints is what `run` executes."""

    world_size: int
    global_batch_size: int
    micro_batch_size: int
    accumulation: int
    steps: int
    precision: Literal["fp32", "bf16"]
    compile: bool
    threads: int
    evaluate_every: int
    checkpoint_every: int
    warmup_steps: int
    attention: Literal["auto", "fused", "plain", "packed"] = "auto"
    recompute: bool = False
    prefetch: int = 4
    feed_threads: int = 1
    choices: tuple[Choice, ...] = ()
    predicted: dict[str, Prediction] = field(default_factory=dict)
    """Keys: `step_seconds`, `train_seconds`, `total_seconds`, `rate` (tokens/s or samples/s), `memory_bytes`,
    `state.<ledger state>` (seconds of one step or of the job)."""

    def to_json(self) -> dict[str, Any]:
        return {"schema": 1, **asdict(self)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Plan:
        fields = {key: item for key, item in value.items() if key != "schema"}
        fields["choices"] = tuple(Choice(**choice) for choice in fields["choices"])
        fields["predicted"] = {key: Prediction(**item) for key, item in fields["predicted"].items()}
        return cls(**fields)
