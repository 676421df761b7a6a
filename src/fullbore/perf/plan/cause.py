"""What a candidate for a verdict is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from fullbore.perf.plan.advise import Advice
from fullbore.record.ledger import State


class Limit(StrEnum):
    """What can limit a run, as every face of the program names it: in `verdict.limit`, in the report, in `runs ls`."""

    NOTHING = "nothing"
    COMPUTE = "model compute"
    BANDWIDTH = "memory bandwidth"
    SMALL = "small operations"
    DATA = "waiting for data"
    SHARDS = "reading shards"
    BATCHES = "making batches"
    COPYING = "copying batches"
    GRADIENTS = "exchanging gradients"
    BUBBLE = "the pipeline's bubble"
    STRAGGLER = "a slow rank"
    CHECKPOINTS = "checkpoints"
    EVALUATION = "evaluation"
    COMPILING = "compiling"
    START = "start-up"
    PLANNING = "planning"
    READING = "reading and cleaning"
    TOKENISING = "tokenising"
    PACKING = "packing"
    COMPRESSION = "compression"
    SERVING = "serving"
    REPORTING = "reporting"
    UNNAMED = "unnamed work"
    NEIGHBOUR = "a neighbour"
    """Other processes on the same cores."""
    HOST = "the machine's host"
    """Which gives this virtual machine's cores to others."""
    STOPPED = "a stopped process"
    DISK = "a slow disk"
    COLD = "a cold cache"
    """Programs and libraries that had to be read from the disk first."""
    MEMORY = "a memory limit"
    SOURCE = "a slow source"


OF_STATE: dict[str, Limit] = {
    State.START: Limit.START,
    State.PROBE: Limit.PLANNING,
    State.READ: Limit.READING,
    State.TOKENISE: Limit.TOKENISING,
    State.PACK: Limit.PACKING,
    State.COMPILE: Limit.COMPILING,
    State.COPY: Limit.COPYING,
    State.COMMUNICATION: Limit.GRADIENTS,
    State.BUBBLE: Limit.BUBBLE,
    State.STRAGGLER: Limit.STRAGGLER,
    State.CHECKPOINT: Limit.CHECKPOINTS,
    State.EVALUATE: Limit.EVALUATION,
    State.COMPRESS: Limit.COMPRESSION,
    State.SERVE: Limit.SERVING,
    State.REPORT: Limit.REPORTING,
    State.OTHER: Limit.UNNAMED,
}
"""What limits where the main thread spends its time in one of these states."""

COMPUTE = (State.FORWARD, State.BACKWARD, State.OPTIMIZER)
"""The states in which the cores compute the model."""


@dataclass(frozen=True)
class Cause:
    limit: Limit
    seconds: float
    """Of the main thread's wall time that it cost."""
    because: str
    """The end of a sentence that begins with `... was limited by`."""
    evidence: tuple[str, ...] = ()
    advice: tuple[Advice, ...] = ()
