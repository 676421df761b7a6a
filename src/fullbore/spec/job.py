"""The Job: all that is asked of one run, in one frozen object."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fullbore.spec.compress import CompressSection
from fullbore.spec.data import DataSection, TokenizerSection
from fullbore.spec.energy import EnergySection
from fullbore.spec.model import ModelSection, TaskSection
from fullbore.spec.section import Expected, Section
from fullbore.spec.serve import ServeSection
from fullbore.spec.train import TrainSection

Name = Annotated[
    str,
    Field(pattern=r"^[a-z0-9][a-z0-9_-]*$"),
    Expected("a name of lower-case letters, digits, - and _"),
]


class Job(Section):
    """What one run is asked to do. `compress = false`-like switches do not exist: leave the section out.

    A stage whose section is absent does not run: a job with only `[data]` packs shards.
    """

    name: Name
    """What the job is called: lower-case letters, digits, - and _."""
    data: DataSection
    """What is read, how it is cleaned and how it is split."""
    tokenizer: TokenizerSection | None = None
    """How text becomes tokens."""
    task: TaskSection | None = None
    """What the model is asked to do."""
    model: ModelSection | None = None
    """The network."""
    train: TrainSection | None = None
    """How long the model is trained, how, and what is kept."""
    compress: CompressSection | None = None
    """Which variants of the trained model are measured, and how much quality the kept one may lose."""
    serve: ServeSection | None = None
    """The door that answers, and its limits."""
    energy: EnergySection | None = None
    """What electricity costs and emits here, and what this machine draws."""
