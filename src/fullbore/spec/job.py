"""The Job: all that is asked of one run, in one frozen object."""

from __future__ import annotations

from pydantic import Field

from fullbore.spec.compress import CompressSection
from fullbore.spec.data import DataSection, TokenizerSection
from fullbore.spec.model import ModelSection, TaskSection
from fullbore.spec.section import Section
from fullbore.spec.serve import ServeSection
from fullbore.spec.train import TrainSection


class Job(Section):
    """What one run is asked to do. `compress = false`-like switches do not exist: leave the section out.

    A stage whose section is absent does not run: a job with only `[data]` packs shards.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    data: DataSection
    tokenizer: TokenizerSection | None = None
    task: TaskSection | None = None
    model: ModelSection | None = None
    train: TrainSection | None = None
    compress: CompressSection | None = None
    serve: ServeSection | None = None
