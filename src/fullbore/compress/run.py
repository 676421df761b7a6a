"""The compress stage: every variant built, judged and timed on this host; the guard picks one, and it is written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fullbore.base.errors import GateFailed, InputError
from fullbore.base.files import remove_drafts
from fullbore.compress import guard, quantize
from fullbore.compress import speed as timing
from fullbore.compress.guard import Judgement, Measured, Row
from fullbore.models import weights
from fullbore.models.weights import LoadedModel
from fullbore.record.artifact import Artifact
from fullbore.record.progress import Progress
from fullbore.record.span import Recorder
from fullbore.spec.compress import CompressSection

__all__ = ["Compression", "Judgement", "Row", "run"]

_SEED = 0

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Compression:
    """The table of all variants, the row that the guard chose, and the model written from it."""

    table: tuple[Row, ...]
    chosen: Row
    artifact: Artifact


def run(
    model: Artifact,
    section: CompressSection,
    *,
    judge: Callable[[nn.Module], Judgement],
    calibration: Sequence[Batch],
    speed: Sequence[Batch],
    out: Path,
    recorder: Recorder,
    progress: Progress,
    judged_contents: Collection[bytes] = (),
    calibration_contents: Collection[bytes] = (),
) -> Compression:
    """Write the best variant of `model` that loses at most `section.max_drop` of what `judge` measures to `out`.

    All of `calibration` decides which layers stand int8, `speed` is what variants are timed on, interleaved round by
    round. The contents identify the samples behind `judge` and `calibration`, whatever split they are in. Raises
    InputError if some are in both, or there are none; GateFailed if none of `section.variants` may be kept.
    """
    both = set(judged_contents) & set(calibration_contents)
    if both:
        raise InputError(
            f"compress: {len(both)} samples both calibrate and judge, expected none",
            hint="set data.validation, so that judging samples are held out",
        )
    if not calibration or not speed:
        raise InputError("compress: no samples to calibrate and time with", hint="set data.validation above 0")
    remove_drafts(out.parent, out.name)
    loaded = weights.load(model.folder)
    task, wanted = loaded.task.kind, _wanted(section)
    measured: dict[str, Measured] = {}
    modules: dict[str, nn.Module] = {}
    with timing.threads(timing.best_threads(loaded.module, speed[0], task)):
        for index, name in enumerate(wanted):
            progress("compress", index, len(wanted), "variants", detail=f"building and judging {name}")
            measured[name], made = _try(name, loaded, section, judge, calibration, modules)
            if made is not None:
                modules[name] = made
    progress("compress", len(wanted), len(wanted), "variants", detail="timing them on this host")
    rounds = 0
    for name, found in timing.compare(modules, speed, task).items():
        rounds = found.rounds
        measured[name] = replace(
            measured[name],
            samples_per_second=found.samples_per_second,
            spread=found.spread,
            latency_ms=found.latency_ms,
            threads=found.threads,
            speedup=found.speedup,
        )
    table = guard.judge(
        tuple(measured.values()),
        wanted=section.variants,
        max_drop=section.max_drop,
        target=section.target,
        seed=_SEED,
    )
    chosen = guard.choose(table, section.target)
    for row in table:
        recorder.event("variant", **asdict(row), chosen=row is chosen)
    if chosen is None:
        raise _none_qualifies(table, section)
    written = _write(model, loaded, modules[chosen.variant], chosen, table, measured, rounds, out)
    return Compression(table, chosen, written)


def _none_qualifies(table: Sequence[Row], section: CompressSection) -> GateFailed:
    """Only where fp32 is not wanted: it always qualifies."""
    tried = [f"  {row.variant}: {row.reason}" for row in table if row.variant in section.variants]
    limit = f"compress.max_drop = {section.max_drop:.2%}"
    return GateFailed(
        "\n".join([f"compress: no variant qualifies ({limit}), and compress.variants leaves fp32 out", *tried]),
        hint="raise compress.max_drop, or add fp32 to compress.variants to keep the trained model as it is",
    )


def _wanted(section: CompressSection) -> tuple[str, ...]:
    """fp32 first, always: it is what the others are compared with."""
    return ("fp32", *(name for name in dict.fromkeys(section.variants) if name != "fp32"))


def _try(
    name: str,
    loaded: LoadedModel,
    section: CompressSection,
    judge: Callable[[nn.Module], Judgement],
    calibration: Sequence[Batch],
    modules: dict[str, nn.Module],
) -> tuple[Measured, nn.Module | None]:
    """Build and judge one variant; one that cannot be had says why. Raises what the trained model itself raises."""
    task = loaded.task.kind

    def calibrate(module: nn.Module) -> None:
        for batch in calibration:
            timing.answer(module, batch, task)

    try:
        base = torch.bfloat16 if section.target == "size" else _base(modules, calibration, task)
        made = quantize.build(name, loaded.module, calibrate, needs_speed=section.target != "size", base=base)
        timing.answer(made.module, calibration[0], task)
        judgement = judge(made.module)
    except quantize.NothingToGain as reason:
        return Measured(name, failure=str(reason)), None
    except RuntimeError as error:
        if name == "fp32":
            raise
        return Measured(name, failure=f"it does not run here ({str(error).splitlines()[0][:120]})"), None
    return Measured(name, judgement, bytes=quantize.size(made.module), note=made.note), made.module


def _base(modules: dict[str, nn.Module], calibration: Sequence[Batch], task: str) -> torch.dtype:
    """The faster of what is there for the layers that stay as they are; bf16 if it was not tried."""
    known: dict[str, nn.Module] = {name: modules[name] for name in ("fp32", "bf16") if name in modules}
    if len(known) < 2:
        return torch.bfloat16
    found = timing.compare(known, calibration, task, rounds=(3, 9), limit=0.5)["bf16"]
    return torch.bfloat16 if found.speedup["throughput"].middle > 1 else torch.float32


def _write(
    model: Artifact,
    loaded: LoadedModel,
    module: nn.Module,
    chosen: Row,
    table: Sequence[Row],
    measured: dict[str, Measured],
    rounds: int,
    out: Path,
) -> Artifact:
    judgement = measured[chosen.variant].judgement
    info = {
        "variant": chosen.variant,
        "classes": None if loaded.classes is None else list(loaded.classes),
        "statistics": loaded.statistics,
        "metrics": {} if judgement is None else {judgement.metric: judgement.value},
        "evidence": {
            "samples": 0 if judgement is None else len(judgement.scores),
            "rounds": rounds,
            "table": [asdict(row) for row in table],
        },
    }
    return weights.save(
        module,
        out,
        model=loaded.model,
        task=loaded.task,
        sizes=loaded.sizes,
        tokenizer=None if loaded.tokenizer is None else loaded.tokenizer.folder,
        info=info,
        parents=(model,),
    )
