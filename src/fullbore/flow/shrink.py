"""The compress stage: variants judged on held-out data by the job's own task, the guard picks, the model is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from fullbore.compress import run as compression
from fullbore.data.feed import once
from fullbore.flow import materials
from fullbore.flow.materials import Materials
from fullbore.flow.session import Session
from fullbore.record import artifact
from fullbore.record.artifact import Artifact
from fullbore.record.ledger import State
from fullbore.record.progress import Progress
from fullbore.record.span import Recorder
from fullbore.spec.compress import CompressSection

_BATCH = 32


def shrink(session: Session) -> list[dict[str, Any]]:
    """Compress the run's model; returns the table's rows as plain data."""
    section = session.job.compress
    assert section is not None
    paths = session.run.paths
    with session.stage("compress") as facts, session.recorder.state(State.COMPRESS):
        done = paths.artifact("compressed")
        model = artifact.read(paths.artifact("model"), "model")
        found = compress(materials.load(session.job, paths), model, section, done, session.recorder, session.progress)
        facts["artifact"] = str(done)
        facts["detail"] = f"{found.chosen.variant} chosen: {found.chosen.reason}"
    return [asdict(row) for row in found.table]


def compress(
    prepared: Materials,
    model: Artifact,
    section: CompressSection,
    out: Path,
    recorder: Recorder,
    progress: Progress,
) -> compression.Compression:
    """Judge on validation (else test) samples, calibrate and time on training samples: the two are disjoint."""
    split = "validation" if prepared.shards.rows("validation") else "test"
    judged = list(islice(_batches(prepared, split), max(1, section.samples // _BATCH)))
    calibration = list(islice(_batches(prepared, "train"), max(1, section.samples // _BATCH)))
    return compression.run(
        model,
        section,
        judge=_judge(prepared, judged),
        calibration=calibration,
        speed=judged[:4],
        out=out,
        recorder=recorder,
        progress=progress,
        judged_ids=_ids(split, judged),
        calibration_ids=_ids("train", calibration),
    )


def _batches(prepared: Materials, split: str) -> Any:
    return once(prepared.shards, split, _BATCH, prepared.task.collate, rank=0, world_size=1)


def _ids(split: str, batches: list[dict[str, Tensor]]) -> list[str]:
    """Names of the first rows of a split, as many as there are in `batches`."""
    return [f"{split}:{row}" for row in range(sum(len(next(iter(batch.values()))) for batch in batches))]


def _judge(prepared: Materials, batches: list[dict[str, Tensor]]) -> Callable[[nn.Module], compression.Judgement]:
    task = prepared.task

    def judge(module: nn.Module) -> compression.Judgement:
        sums: dict[str, float] = {}
        for batch in batches:
            for key, value in task.judge(module, batch).items():
                sums[key] = sums.get(key, 0.0) + value
        return compression.Judgement(
            metric=task.metric,
            value=task.metrics(sums)[task.metric],
            higher_is_better=task.higher_is_better,
            scores=np.concatenate([task.judge_each(module, batch) for batch in batches]),
        )

    return judge
