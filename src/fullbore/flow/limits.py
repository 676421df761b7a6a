"""What this machine gives a job and what the job needs: the bounds within which its plan is chosen."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache

from fullbore.flow.work import work as work_of
from fullbore.models import execution
from fullbore.models.build import Sizes
from fullbore.perf.measure import proc
from fullbore.perf.model import memory
from fullbore.perf.plan.choose import Limits
from fullbore.spec.model import BLOCKS, ModelSection, TaskSection
from fullbore.spec.train import TrainSection
from fullbore.spec.work import Work


def limits(
    section: TrainSection, model: ModelSection, task: TaskSection, sizes: Sizes, work: Work, rows: Mapping[str, int]
) -> Limits:
    """`rows`: samples by split, of a language model rows of tokens."""

    def memory_of(micro: int) -> float:
        return sum(memory.predict(work, section, micro).values())

    @cache
    def traced() -> Work:
        """Only what was traced tells what recomputation keeps: a second's work, done if it is asked for."""
        return work if work.launches else work_of(model, task, sizes, launched=True)

    def again(micro: int) -> float:
        return sum(memory.predict(traced(), section, micro, recompute=True).values())

    return Limits(
        rows=max(1, rows.get("train", 0)),
        units_per_row=section.sequence_length if task.kind.endswith("_lm") else 1,
        units=work.units,
        cores=len(os.sched_getaffinity(0)),
        memory_available=proc.memory_in_reach(),
        memory_of=memory_of,
        has_validation=rows.get("validation", 0) > 0,
        attends=execution.attention(model, task, section.sequence_length),
        recomputing_memory_of=again if model.kind in BLOCKS else None,
    )
