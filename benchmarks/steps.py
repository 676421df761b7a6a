"""How fast is a training step, beside what people use today, on the same weights, batches and optimizer?

    python benchmarks/steps.py [--json] [--rounds 3] [--seconds 8] [case ...]

Cases: lm10m (decoder, 12.5 M parameters, 8 rows of 256 tokens), lm50m (45 M, 4 rows of 512), mail (MiniLM fine-tuned on
e-mails of natural length, which `recipes/fetch.py spam minilm` fetches), resnet64 (pictures of 64x64), textcnn, mlp.
Contestants take turns, each in a process of its own: `loop` is the loop that everybody writes (autocast, fused AdamW,
clipping), `trainer` is transformers' Trainer as it comes, both also with bf16 and torch.compile; for language models
they train the transformers class of the same folder, else the very same module. `ours` is train.step.Step, eager and
compiled, as a run's own trials choose between them. `limit` is the step's matrix products alone.
Medians over the rounds; a ratio above 1 is in our favour. The loss after as many steps is printed to be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
WARM_STEPS = 4
LOSS_STEPS = 12
"""The loss is compared after so many steps."""
PEERS = ("trainer", "trainer_bf16", "trainer_bf16_compile", "loop_bf16", "loop_bf16_compile")
OURS = ("ours", "ours_compile")


@dataclass(frozen=True)
class Case:
    """What is trained: `build` gives the network, `batches` the batches, `units` what a batch holds."""

    build: Callable[[], Any]
    task: Callable[[], Any]
    batches: Callable[[], list[dict[str, Any]]]
    unit: str
    language: bool = False
    micro_batch_size: int | None = None


def decoder(width: int, layers: int, heads: int, hidden: int) -> Any:
    import torch

    from fullbore.models.decoder import Decoder
    from fullbore.spec.model import DecoderModel

    torch.manual_seed(0)
    section = DecoderModel(kind="decoder", width=width, layers=layers, heads=heads, hidden=hidden, tie_embeddings=True)
    return Decoder(section, 8192)


def rows(count: int, length: int) -> list[dict[str, Any]]:
    """Source code as tokens: pairs of bytes, below 8,192."""
    import numpy as np
    import torch

    text = b"".join(path.read_bytes() for path in sorted(Path(os.__file__).parent.glob("*.py")))
    tokens = np.frombuffer(text[: len(text) // 2 * 2], "<u2") % 8192
    cut = tokens[: len(tokens) // (length + 1) * (length + 1)].reshape(-1, length + 1).astype(np.int32)
    order = np.random.default_rng(0).permutation(len(cut))
    return [{"tokens": torch.from_numpy(cut[order[i : i + count]])} for i in range(0, len(cut) - count, count)]


def drawn(count: int, shape: tuple[int, ...], name: str, classes: int, high: int) -> list[dict[str, Any]]:
    """Samples at random, with labels that can be learned from them."""
    import torch

    draw = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(16):
        values = torch.randint(high, (count, *shape), generator=draw)
        label = values.flatten(1).sum(1) % classes
        kinds = {"pixels": torch.uint8, "tokens": torch.int32, "features": torch.float32}
        batch = {name: values.to(kinds[name]), "label": label}
        if name == "tokens":
            batch["attention_mask"] = torch.ones(values.shape, dtype=torch.bool)
        batches.append(batch)
    return batches


def mail_batches(size: int = 16) -> list[dict[str, Any]]:
    import numpy as np

    from fullbore.models import tokenizer
    from fullbore.models.supervised import Classification

    vocabulary = tokenizer.load(ROOT / "data" / "minilm")
    source = ROOT / "data" / "spam"
    samples = [json.loads(line) for path in sorted(source.glob("*.jsonl")) for line in path.open()]
    chosen = [samples[i] for i in np.random.default_rng(0).permutation(len(samples))[:512]]
    tokens = vocabulary.encode_batch([sample["text"] for sample in chosen], 512)
    labels = [int(sample["label"] == "spam") for sample in chosen]
    task = Classification(pad=vocabulary.pad)
    return [
        task.collate({"tokens": tokens[i : i + size], "label": labels[i : i + size]}, np.arange(size))
        for i in range(0, len(chosen), size)
    ]


def minilm() -> Any:
    import torch

    from fullbore.models.hub import Hub

    torch.manual_seed(0)
    folder = ROOT / "data" / "minilm"
    network = Hub.open(folder, "classification", outputs=2, vocabulary_size=None, pretrained=True)
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return network


def module(kind: str) -> Any:
    import torch

    from fullbore.models.mlp import MLP
    from fullbore.models.resnet import ResNet
    from fullbore.models.textcnn import TextCNN
    from fullbore.spec.model import MLPModel, ResNetModel, TextCNNModel

    torch.manual_seed(0)
    if kind == "resnet":
        return ResNet(ResNetModel(kind="resnet", width=64, blocks=(2, 2, 2, 2)), 3, 10)
    if kind == "textcnn":
        return TextCNN(TextCNNModel(kind="textcnn", width=64, filters=64, kernels=(3, 4, 5), dropout=0.0), 4096, 2)
    return MLP(MLPModel(kind="mlp", hidden=(256, 256), dropout=0.0), 64, 10)


def causal() -> Any:
    from fullbore.models.language import CausalLM

    return CausalLM()


def classification() -> Any:
    from fullbore.models.supervised import Classification

    return Classification()


CASES = {
    "lm10m": Case(partial(decoder, 320, 6, 5, 1280), causal, partial(rows, 8, 256), "tokens", True),
    "lm50m": Case(partial(decoder, 640, 8, 10, 1728), causal, partial(rows, 4, 512), "tokens", True),
    "mail": Case(minilm, classification, mail_batches, "samples", micro_batch_size=4),
    "resnet64": Case(
        partial(module, "resnet"), classification, partial(drawn, 64, (3, 64, 64), "pixels", 10, 256), "samples"
    ),
    "textcnn": Case(
        partial(module, "textcnn"), classification, partial(drawn, 64, (128,), "tokens", 2, 4096), "samples"
    ),
    "mlp": Case(partial(module, "mlp"), classification, partial(drawn, 128, (64,), "features", 10, 16), "samples"),
}


def units(case: Case, batch: dict[str, Any]) -> int:
    tokens = batch.get("tokens")
    return tokens.shape[0] * (tokens.shape[1] - 1) if case.language else len(batch["label"])


def timed(step: Callable[[dict[str, Any]], float], case: Case, seconds: float) -> dict[str, Any]:
    """Rate after the warm-up over whole passes of the batches or `seconds`, and the loss after LOSS_STEPS."""
    batches = case.batches()
    given: Iterator[dict[str, Any]] = cycle(batches)
    losses = [step(next(given)) for _ in range(max(WARM_STEPS, LOSS_STEPS))]
    uneven = len({batch["tokens"].shape for batch in batches if "tokens" in batch}) > 1
    given, taken, done = cycle(batches), 0.0, 0
    count = 0
    while taken < seconds or (uneven and count % len(batches)):
        batch = next(given)
        began = time.perf_counter()
        step(batch)
        taken += time.perf_counter() - began
        done, count = done + units(case, batch), count + 1
    return {"rate": done / taken, "step_seconds": taken / count, "loss": losses[LOSS_STEPS - 1]}


def ours(case: Case, seconds: float, *, compiled: bool) -> dict[str, Any]:
    from fullbore.engine.process import settle
    from fullbore.record.span import Recorder
    from fullbore.spec.plan import Plan
    from fullbore.spec.train import TrainSection
    from fullbore.train.parallel import Alone
    from fullbore.train.precision import exact
    from fullbore.train.step import Step

    settle()
    size = len(next(iter(case.batches()[0].values())))
    section = TrainSection.model_validate(
        {"budget": "100000 steps", "global_batch_size": size, "schedule": "constant", "learning_rate": 5e-4}
    )
    threads = len(os.sched_getaffinity(0))
    micro = case.micro_batch_size or size
    plan = Plan(1, size, micro, size // micro, 100_000, "bf16", compiled, threads, 0, 0, 0)
    with exact(threads):
        step = Step(case.build().train(), case.task(), section, plan, Alone(), Recorder())
        return timed(lambda batch: step(batch, 1).loss, case, seconds)


class Peer:
    """The same network as the peers are given it, with the call that everybody writes."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.case = case
        self.network = self._transformers(folder) if case.language else case.build()

    def _transformers(self, folder: Path) -> Any:
        from safetensors.torch import save_model
        from transformers import LlamaForCausalLM

        from fullbore.models import decoder as own

        network = self.case.build()
        config = own.to_config(network, positions=512, end_of_text=None, pad=None)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(network, str(folder / "model.safetensors"), metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps({**config, "use_cache": False}))
        return LlamaForCausalLM.from_pretrained(folder)

    def loss(self, model: Any, batch: dict[str, Any]) -> Any:
        import torch.nn.functional as F

        if self.case.language:
            tokens = batch["tokens"].long()
            return model(input_ids=tokens, labels=tokens).loss
        label = batch["label"]
        if "tokens" in batch:
            return F.cross_entropy(model(batch["tokens"], batch["attention_mask"]).float(), label)
        return F.cross_entropy(model(batch["pixels" if "pixels" in batch else "features"]).float(), label)


def loop(case: Case, seconds: float, folder: Path, *, compiled: bool) -> dict[str, Any]:
    import torch

    peer = Peer(case, folder)
    network = peer.network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-4, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    model = torch.compile(network) if compiled else network

    def step(batch: dict[str, Any]) -> float:
        with torch.autocast("cpu", torch.bfloat16):
            loss = peer.loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return timed(step, case, seconds)


def trainer(case: Case, seconds: float, folder: Path, *, bf16: bool, compiled: bool) -> dict[str, Any]:
    """transformers' Trainer with its own loader, on the same batches one by one."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    peer, batches = Peer(case, folder), case.batches()

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = peer.network

        def forward(self, **batch: Any) -> dict[str, Any]:
            return {"loss": peer.loss(self.network, batch)}

    class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return 100_000

        def __getitem__(self, index: int) -> dict[str, Any]:
            return batches[index % len(batches)]

    moments: list[float] = []
    done: list[int] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *asked: Any, **_: Any) -> Any:
            control = asked[2]
            moments.append(time.perf_counter())
            done.append(units(case, batches[(len(moments) - 1) % len(batches)]))
            whole = len(moments) > LOSS_STEPS and not (len(moments) - LOSS_STEPS) % len(batches)
            uneven = len({batch["tokens"].shape for batch in batches if "tokens" in batch}) > 1
            if len(moments) > LOSS_STEPS and moments[-1] - moments[LOSS_STEPS - 1] > seconds and (whole or not uneven):
                control.should_training_stop = True
            return control

    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=1,
        max_steps=100_000,
        learning_rate=5e-4,
        lr_scheduler_type="constant",
        adam_beta2=0.95,
        weight_decay=0.01,
        bf16=bf16,
        torch_compile=compiled,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    Trainer(
        model=Whole(), args=arguments, train_dataset=Rows(), callbacks=[Clock()], data_collator=lambda rows: rows[0]
    ).train()
    taken = moments[-1] - moments[LOSS_STEPS - 1]
    count = len(moments) - LOSS_STEPS
    return {"rate": sum(done[LOSS_STEPS:]) / taken, "step_seconds": taken / count, "loss": None}


def limit(case: Case) -> dict[str, Any]:
    """The matrix products of a step alone, forward and backward, bf16."""
    import torch
    from torch import nn

    network, batch = case.build(), case.batches()[0]
    many = batch["tokens"].shape[0] * (batch["tokens"].shape[1] - 1)
    total = 0.0
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    shapes = [tuple(layer.weight.shape) for layer in layers] + [tuple(network.head_weight.shape)]
    for outputs, inputs in shapes:
        x, w, g = (torch.randn(*shape).bfloat16() for shape in ((many, inputs), (outputs, inputs), (many, outputs)))
        for product in (lambda x=x, w=w: x @ w.t(), lambda g=g, w=w: g @ w, lambda g=g, x=x: g.t() @ x):
            times = []
            for _ in range(8):
                began = time.perf_counter()
                product()
                times.append(time.perf_counter() - began)
            total += min(times)
    return {"rate": units(case, batch) / total, "step_seconds": total, "loss": None}


def contestant(case: Case, name: str, seconds: float, folder: Path) -> dict[str, Any]:
    if name == "limit":
        return limit(case)
    compiled = name.endswith("compile")
    if name.startswith("ours"):
        return ours(case, seconds, compiled=compiled)
    if name.startswith("loop"):
        return loop(case, seconds, folder, compiled=compiled)
    return trainer(case, seconds, folder, bf16="bf16" in name, compiled=compiled)


def measured(case: str, name: str, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        ended = subprocess.run(
            [sys.executable, __file__, "--one", f"{case}/{name}/{folder}", "--seconds", str(seconds)],
            capture_output=True,
            text=True,
        )
    if ended.returncode:
        raise SystemExit(f"{case}/{name}: {ended.stderr[-2000:]}")
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def compared(case: str, rounds: int, seconds: float) -> dict[str, Any]:
    names = [*PEERS, *OURS, *(["limit"] if CASES[case].language else [])]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            found[name].append(measured(case, name, seconds))
            print(f"{case:<9} {name:<22} {found[name][-1]['rate']:10.1f} {CASES[case].unit}/s", file=sys.stderr)
    rates = {name: statistics.median(one["rate"] for one in many) for name, many in found.items()}
    best, mine = max(PEERS, key=rates.__getitem__), max(OURS, key=rates.__getitem__)
    return {
        "unit": f"{CASES[case].unit}/s",
        "rates": rates,
        "spread": {name: [min(o["rate"] for o in many), max(o["rate"] for o in many)] for name, many in found.items()},
        "loss_after_12_steps": {name: many[0]["loss"] for name, many in found.items() if many[0]["loss"] is not None},
        "ours": mine,
        "best_peer": best,
        "over_best_peer": rates[mine] / rates[best],
        "over_trainer": rates[mine] / rates["trainer"],
        **({"share_of_limit": rates[mine] / rates["limit"]} if "limit" in rates else {}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("cases", nargs="*", default=list(CASES))
    asked = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if asked.one:
        case, name, folder = asked.one.split("/", 2)
        print(json.dumps(contestant(CASES[case], name, asked.seconds, Path(folder))))
        sys.stdout.flush()
        os._exit(0)
    figures = {case: compared(case, asked.rounds, asked.seconds) for case in asked.cases}
    print(json.dumps(figures) if asked.json else json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
