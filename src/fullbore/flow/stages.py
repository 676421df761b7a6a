"""The diagram of the product as code: what each stage reads, writes and which room does it.

raw data ──▶ corpus ──▶ tokenizer ──▶ shards ──▶ plan ──▶ checkpoints ──▶ model ──▶ compressed ──▶ answers
             read       tokenizer     pack       plan     train                     compress       serve
"""

from __future__ import annotations

from dataclasses import dataclass

from fullbore.spec.job import Job


@dataclass(frozen=True)
class Stage:
    """One step of a run: artifacts in, artifacts out, and whether a job asks for it."""

    name: str
    room: str
    reads: tuple[str, ...]
    writes: str

    def wanted(self, job: Job) -> bool:
        match self.name:
            case "tokenizer" | "pack":
                return job.tokenizer is not None and job.task is not None
            case "plan" | "train":
                return job.train is not None
            case "compress":
                return job.compress is not None
            case "serve":
                return job.serve is not None
        return True


STAGES = (
    Stage("read", "data", (), "corpus"),
    Stage("tokenizer", "models", ("corpus",), "tokenizer"),
    Stage("pack", "data", ("corpus", "tokenizer"), "shards"),
    Stage("plan", "perf", ("shards",), "plan"),
    Stage("train", "train", ("shards", "plan"), "model"),
    Stage("compress", "compress", ("model", "shards"), "compressed"),
    Stage("serve", "serve", ("compressed",), "completion"),
)


def wanted(job: Job) -> tuple[Stage, ...]:
    """The stages that `job` asks for, in order."""
    return tuple(stage for stage in STAGES if stage.wanted(job))
