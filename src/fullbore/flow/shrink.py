"""The compress stage: variants judged on held-out data by the job's own task, the guard picks, the model is written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from torch import Tensor, nn

from fullbore.base.errors import GateFailed, InputError
from fullbore.compress import run as compression
from fullbore.flow import materials
from fullbore.flow.materials import Materials
from fullbore.flow.session import Session
from fullbore.models.tasks import Task
from fullbore.record import artifact
from fullbore.record.artifact import Artifact
from fullbore.record.ledger import State
from fullbore.record.progress import Progress
from fullbore.record.span import Recorder
from fullbore.spec.compress import CompressSection

_BATCH = 32


class NotJudged(InputError):
    """There are no samples that could tell what a variant loses."""


@dataclass(frozen=True)
class Picked:
    """Some samples of a split: what each holds, and their batches."""

    contents: list[bytes]
    """A digest of what the network reads, sample by sample."""
    batches: list[dict[str, Tensor]]


def shrink(session: Session) -> list[dict[str, Any]]:
    """Compress the run's model; returns the table's rows as plain data, none where no samples judge variants: there
    the trained model stays, with a warning. Raises GateFailed if no variant qualifies."""
    section = session.job.compress
    assert section is not None
    paths = session.run.paths
    with session.stage("compress") as facts, session.recorder.state(State.COMPRESS):
        prepared, done = materials.load(session.job, paths), paths.artifact("compressed")
        model = artifact.read(paths.artifact("model"), "model")
        try:
            found = compress(prepared, model, section, done, session.recorder, session.progress)
        except NotJudged as error:
            if "fp32" not in section.variants:
                raise
            session.message(
                "warning", f"{error.message}; the trained model is kept in fp32. To compress it, {error.hint}"
            )
            facts["detail"] = "fp32 kept: nothing judges variants"
            return []
        except GateFailed as error:
            name = session.run.name
            again = f"fullbore compress {name} --set compress.max_drop=… judges again"
            error.hint = f"fullbore serve {name} serves the trained model; {again}"
            raise
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
    """Judge on validation (else test) samples, calibrate on training samples that hold nothing of what those hold.

    Raises NotJudged if there are no such samples, GateFailed if no variant qualifies.
    """
    split = "validation" if prepared.shards.rows("validation") else "test"
    judged = pick(prepared, split, section.samples)
    if not judged.batches:
        raise NotJudged(
            "compress: no samples to judge variants on, the validation and the test split are empty",
            hint="give more data, or raise data.validation",
        )
    calibration = pick(prepared, "train", section.samples, besides=judged.contents)
    if not calibration.batches:
        raise NotJudged(
            f"compress: no samples to calibrate with, all of the training split are in {split} too",
            hint="give more data",
        )
    return compression.run(
        model,
        section,
        judge=_judge(prepared.task_on(split), judged.batches),
        calibration=calibration.batches,
        speed=judged.batches[:4],
        out=out,
        recorder=recorder,
        progress=progress,
        judged_contents=judged.contents,
        calibration_contents=calibration.contents,
    )


def pick(prepared: Materials, split: str, count: int, besides: Collection[bytes] = ()) -> Picked:
    """The first `count` samples of a split that hold nothing of `besides`; fewer if there are no more."""
    shards, known = prepared.shards, frozenset(besides)
    read = [name for name, column in shards.columns.items() if column.kind not in ("id", "label", "target")]
    rows: list[int] = []
    contents: list[bytes] = []
    for begin in range(0, shards.rows(split), _BATCH):
        ids = np.arange(begin, min(begin + _BATCH, shards.rows(split)))
        cells = zip(*shards.gather(split, ids, read).values(), strict=True)
        for row, content in zip(ids.tolist(), map(_content, cells), strict=True):
            if content not in known and len(rows) < count:
                rows.append(row)
                contents.append(content)
        if len(rows) == count:
            break
    chunks = [np.array(rows[begin : begin + _BATCH]) for begin in range(0, len(rows), _BATCH)]
    return Picked(contents, [prepared.task.collate(shards.gather(split, ids), ids) for ids in chunks])


def _content(cells: Sequence[Any]) -> bytes:
    digest = xxhash.xxh3_128()
    for cell in cells:
        digest.update(cell.encode() if isinstance(cell, str) else np.ascontiguousarray(cell).data)
    return digest.digest()


def _judge(task: Task, batches: list[dict[str, Tensor]]) -> Callable[[nn.Module], compression.Judgement]:
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
