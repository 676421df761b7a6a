"""Does the cost model tell the truth? Steps and memory of 30 varied jobs, predicted from `doctor` alone, then measured.

    python benchmarks/predictions.py [--json] [--seconds 1] [--seed 11] [--only resnet]

The jobs are drawn with a seed: five families, both precisions, one and two threads, three optimizers, sizes at random.
None of them was used to make the model, and nothing that was measured of a job reaches its prediction. Each is measured
in a process of its own, as a run's trial is: real steps on random batches, after one that is not counted; the median of
the faster half; most resident memory since before the network was built. It is then measured again in another process:
what two measurements of the same job differ by (A/A) is the least error that a prediction can show.

Memory is compared without what only a whole run holds: a checkpoint's copy and the feed's batches.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEED = 11
COUNT = 6
"""Jobs of each family."""
FAMILIES = ("decoder", "encoder", "resnet", "textcnn", "mlp")


@dataclass(frozen=True)
class Case:
    """A job, as JSON can hold it."""

    family: str
    model: dict[str, Any]
    task: str
    sizes: dict[str, Any]
    samples: int
    precision: str
    threads: int
    optimizer: str

    def __str__(self) -> str:
        known = {**self.model, **self.model.get("config", {}), **self.sizes}
        wanted = ("width", "hidden_size", "layers", "num_hidden_layers", "blocks", "filters", "hidden",
                  "sequence_length", "image", "features")  # fmt: skip
        told = "x".join(str(known[key]).replace(" ", "") for key in wanted if key in known)
        return f"{self.family} {told} batch {self.samples} {self.precision} {self.threads}t {self.optimizer}"


def cases(seed: int, count: int = COUNT) -> list[Case]:
    """`count` jobs of each family; precision and threads take turns, all else is drawn."""
    draw = random.Random(seed)
    made, shapes = list[Case](), set[str]()
    for family in FAMILIES:
        for number in range(count):
            precision, threads = ("bf16", "fp32")[number % 2], (2, 1)[number // 2 % 2]
            drawn = _DRAWN[family](draw)
            while (shape := str(Case(family, *drawn, "", 0, ""))) in shapes:
                drawn = _DRAWN[family](draw)
            shapes.add(shape)
            optimizer = draw.choice(("adamw", "adamw", "sgd", "muon"))
            made.append(Case(family, *drawn, precision, threads, optimizer))
    return made


Drawn = tuple[dict[str, Any], str, dict[str, Any], int]


def _decoder(draw: random.Random) -> Drawn:
    heads, length = draw.choice((2, 3, 4, 5, 6)), draw.choice((48, 64, 96, 128, 192, 256, 384))
    width = heads * draw.choice((32, 48, 64))
    model = {"kind": "decoder", "width": width, "heads": heads, "layers": draw.randint(1, 6)}
    samples = max(1, draw.choice((512, 1024, 2048, 3072)) // length)
    return model, "causal_lm", {"vocabulary_size": draw.randrange(400, 9000), "sequence_length": length}, samples


def _encoder(draw: random.Random) -> Drawn:
    heads, length = draw.choice((2, 4, 6)), draw.choice((24, 48, 80, 128, 200))
    width, vocabulary = heads * draw.choice((32, 64)), draw.randrange(1000, 9000)
    config = {
        "model_type": "bert", "hidden_size": width, "num_attention_heads": heads,
        "num_hidden_layers": draw.randint(1, 5), "intermediate_size": width * draw.choice((2, 4)),
        "vocab_size": vocabulary, "max_position_embeddings": 256,
    }  # fmt: skip
    sizes = {"vocabulary_size": vocabulary, "sequence_length": length, "classes": 5}
    task = draw.choice(("masked_lm", "classification"))
    return {"kind": "transformers", "config": config}, task, sizes, max(2, draw.choice((512, 1024, 2048)) // length)


def _resnet(draw: random.Random) -> Drawn:
    blocks = [draw.randint(1, 2) for _ in range(draw.randint(1, 3))]
    model = {"kind": "resnet", "width": draw.choice((12, 16, 24, 32, 48)), "blocks": blocks}
    side = draw.choice((20, 28, 32, 40, 48))
    return (
        model,
        "classification",
        {"image": [draw.choice((1, 3)), side, side], "classes": 10},
        draw.choice((16, 24, 48)),
    )


def _textcnn(draw: random.Random) -> Drawn:
    model = {"kind": "textcnn", "width": draw.choice((48, 80, 128, 200)), "filters": draw.choice((64, 100, 160))}
    sizes = {"vocabulary_size": draw.randrange(1000, 20000), "sequence_length": draw.choice((40, 64, 120, 200))}
    return model, "classification", {**sizes, "classes": 4}, draw.choice((16, 32, 64))


def _mlp(draw: random.Random) -> Drawn:
    hidden = [draw.choice((48, 96, 200, 400, 800, 1200)) for _ in range(draw.randint(1, 3))]
    model = {"kind": "mlp", "hidden": hidden, "dropout": draw.choice((0.0, 0.0, 0.2))}
    sizes = {"features": draw.choice((12, 30, 100, 300)), "classes": 8}
    return model, "classification", sizes, draw.choice((32, 100, 256, 700))


_DRAWN: dict[str, Callable[[random.Random], Drawn]] = {
    "decoder": _decoder, "encoder": _encoder, "resnet": _resnet, "textcnn": _textcnn, "mlp": _mlp
}  # fmt: skip


def sections(case: Case, folder: Path) -> tuple[Any, Any, Any, Any, Any]:
    """The job's model, task, sizes, training section and plan."""
    from pydantic import TypeAdapter

    from fullbore.models.build import Sizes
    from fullbore.spec.model import ModelSection, TaskSection
    from fullbore.spec.plan import Plan
    from fullbore.spec.train import TrainSection

    written = dict(case.model)
    if "config" in written:
        (folder / "config.json").write_text(json.dumps(written.pop("config")))
        written |= {"folder": str(folder), "pretrained": False}
    model: Any = TypeAdapter(ModelSection).validate_python(written)
    sizes = Sizes(**{key: tuple(value) if isinstance(value, list) else value for key, value in case.sizes.items()})
    section = TrainSection.model_validate({
        "budget": "1000 steps", "global_batch_size": case.samples, "optimizer": case.optimizer,
        "precision": case.precision,
    })  # fmt: skip
    plan = Plan(
        world_size=1, global_batch_size=case.samples, micro_batch_size=case.samples, accumulation=1, steps=1000,
        precision="bf16" if case.precision == "bf16" else "fp32", compile=False, threads=case.threads,
        evaluate_every=10**6, checkpoint_every=10**6, warmup_steps=0,
    )  # fmt: skip
    return model, TaskSection.model_validate({"kind": case.task}), sizes, section, plan


def measured(case: Case, seconds: float) -> dict[str, Any]:
    """Of real steps in this process."""
    from fullbore.engine.process import settle

    settle()
    import torch

    import fullbore.flow.train  # noqa: F401  what a run has loaded
    from fullbore.models.build import build
    from fullbore.perf.measure import proc
    from fullbore.record.span import Recorder
    from fullbore.train.parallel import Alone
    from fullbore.train.precision import exact
    from fullbore.train.step import Step

    model, task, sizes, section, plan = sections(case, Path(tempfile.mkdtemp()))
    generator = torch.Generator().manual_seed(0)
    recorder, taken, number = Recorder(), list[float](), 0
    with exact(case.threads):
        if task.kind in ("masked_lm", "causal_lm") or case.family == "encoder":
            import transformers  # noqa: F401
        proc.reset_peak_memory()
        step = Step(build(model, task, sizes, seed=0).train(), _task(case), section, plan, Alone(), recorder)
        batches = [_batch(case, generator) for _ in range(4)]
        before: dict[Any, float] = {}
        while len(taken) < 5 or sum(taken[1:]) < seconds:
            if len(taken) == 1:
                before = dict(recorder.ledger().seconds)
            began = time.perf_counter()
            step(batches[number % 4], number)
            taken.append(time.perf_counter() - began)
            number += 1
    spent, counted = recorder.ledger().seconds, sorted(taken[1:])
    return {
        "seconds": statistics.median(counted[: (len(counted) + 1) // 2]),
        "bytes": proc.peak_memory(),
        "parts": {str(key): (spent[key] - before.get(key, 0.0)) / len(counted) for key in spent},
    }


def _task(case: Case) -> Any:
    from fullbore.models.language import CausalLM, MaskedLM
    from fullbore.models.supervised import Classification

    if case.task == "causal_lm":
        return CausalLM()
    if case.task == "masked_lm":
        length = case.sizes["sequence_length"]
        return MaskedLM(vocabulary_size=10, mask=1, pad=0, specials=(), share=0.15, length=length)
    return Classification()


def _batch(case: Case, generator: Any) -> dict[str, Any]:
    import torch

    count, sizes = case.samples, case.sizes
    if "image" in sizes:
        batch = {"pixels": torch.randint(256, (count, *sizes["image"]), dtype=torch.uint8, generator=generator)}
    elif "features" in sizes:
        batch = {"features": torch.randn(count, sizes["features"], generator=generator)}
    else:
        shape = (count, sizes["sequence_length"] + (case.task == "causal_lm"))
        batch = {"tokens": torch.randint(sizes["vocabulary_size"], shape, dtype=torch.int32, generator=generator)}
        if case.task != "causal_lm":
            batch["attention_mask"] = torch.ones(shape, dtype=torch.bool)
    if case.task == "masked_lm":
        chosen = torch.rand(batch["tokens"].shape, generator=generator) < 0.15
        batch["labels"] = torch.where(chosen, batch["tokens"].long(), -100)
    if case.task == "classification":
        batch["label"] = torch.randint(sizes["classes"], (count,), generator=generator)
    return batch


def predicted(case: Case, ceilings: Any) -> dict[str, Any]:
    """By the model that `check` uses."""
    from fullbore.models import work as works
    from fullbore.perf.model import compute, memory

    with tempfile.TemporaryDirectory() as folder:
        model, task, sizes, section, plan = sections(case, Path(folder))
        work = works.work(model, task, sizes, launched=True)
    found = compute.predict(work, ceilings, plan, optimizer=case.optimizer)
    parts = memory.predict(work, section, case.samples)
    return {
        "seconds": found["step_seconds"].value,
        "bytes": sum(held(parts).values()),
        "parts": {key.removeprefix("state."): found[key].value for key in found if key.startswith("state.")},
        "memory": parts,
    }


def in_process(case: Case, seconds: float) -> dict[str, Any]:
    """Measured in a process of its own."""
    asked = json.dumps({"case": case.__dict__, "seconds": seconds})
    done = subprocess.run([sys.executable, __file__, "--one", asked], stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def compared(case: Case, ceilings: Any, seconds: float) -> dict[str, Any]:
    expected = predicted(case, ceilings)
    one, two = in_process(case, seconds), in_process(case, seconds)
    taken = statistics.mean((one["seconds"], two["seconds"]))
    resident = max(one["bytes"], two["bytes"])
    return {
        "job": str(case),
        "family": case.family,
        "seconds": taken,
        "predicted": expected["seconds"],
        "error": expected["seconds"] / taken - 1,
        "noise": abs(one["seconds"] - two["seconds"]) / taken,
        "bytes": resident,
        "predicted_bytes": expected["bytes"],
        "bytes_error": expected["bytes"] / resident - 1,
        "bytes_noise": abs(one["bytes"] - two["bytes"]) / resident,
        "parts": {"measured": one["parts"], "predicted": expected["parts"]},
        "memory": expected["memory"],
        "false_fit": fits(expected["memory"], resident - 1),
    }


def held(parts: dict[str, float]) -> dict[str, float]:
    """Without what only a whole run holds."""
    return {name: size for name, size in parts.items() if name not in ("checkpoint", "feed")}


def fits(parts: dict[str, float], available: float) -> bool:
    """What `check` would say if so many bytes were available."""
    from fullbore.base.errors import DoesNotFit
    from fullbore.perf.model import memory

    try:
        memory.require(held(parts), available)
    except DoesNotFit:
        return False
    return True


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean absolute errors; `false_fits`: jobs that would be said to fit into less memory than they took."""
    groups = {family: [row for row in rows if row["family"] == family] for family in FAMILIES}
    mean = lambda some, key: statistics.fmean(abs(row[key]) for row in some)  # noqa: E731
    keys = ("error", "noise", "bytes_error", "bytes_noise")
    return {
        "jobs": len(rows),
        **{key: mean(rows, key) for key in keys},
        "false_fits": sum(row["false_fit"] for row in rows),
        "families": {name: {key: mean(some, key) for key in keys} for name, some in groups.items() if some},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--only", choices=FAMILIES)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if asked.one:
        given = json.loads(asked.one)
        print(json.dumps(measured(Case(**given["case"]), given["seconds"])))
        return
    from fullbore import door

    door.doctor()
    from fullbore.perf.measure import probe

    ceilings = probe.probe(folder=Path.cwd())
    rows = []
    for case in cases(asked.seed, asked.count):
        if asked.only in (None, case.family):
            rows.append(compared(case, ceilings, asked.seconds))
            row = rows[-1]
            print(
                f"{row['job']:64s} {1e3 * row['seconds']:8.2f} ms, predicted {1e3 * row['predicted']:8.2f}"
                f" ({row['error']:+.1%}, A/A {row['noise']:.1%}); {row['bytes'] / 1e6:5.0f} MB, predicted"
                f" {row['predicted_bytes'] / 1e6:5.0f} ({row['bytes_error']:+.1%}, A/A {row['bytes_noise']:.1%})",
                file=sys.stderr,
                flush=True,
            )
    figures = {"summary": summary(rows), "rows": rows}
    print(json.dumps(figures) if asked.json else json.dumps(figures["summary"], indent=1))


if __name__ == "__main__":
    main()
