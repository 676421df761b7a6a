"""How fast does training go, beside what people use today: the same weights, samples, order and optimizer?

    python benchmarks/steps.py [--json] [--rounds 3] [--seconds 6] [--isa AVX512_CORE] [--only NAME,...] [case ...]

Cases: lm10m (decoder, 12.5 M parameters, 8 rows of 256 tokens), lm50m (45 M, 4 rows of 512), mail (MiniLM fine-tuned on
e-mails of natural length, which `recipes/fetch.py spam minilm` fetches), resnet64 (pictures of 64x64), textcnn, mlp.
Contestants take turns, each in a process of its own, and load their samples as their users do, which is part of the
time: `trainer` is transformers' Trainer, `loop` the loop that everybody writes over a DataLoader (autocast, clipping,
fused AdamW), with bf16, torch.compile, channels_last (`cl`) or length-grouped batches (`grouped`) where documentation
advises them; for language models they train the transformers class of the same folder, else the very same module.
`ours` is data.feed.Feed and train.step.Step under settings that a run's own trials choose among (`one`: one thread);
`unsettled` shows what engine.process.settle, which keeps freed memory, is worth.
`limit` is the step's matrix products and convolutions alone, without any padding.
`--isa` limits oneDNN for all contestants (AVX512_CORE: a processor without bf16 or AMX; fp32 settings then take part).
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
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ROWS = 100_000
"""Samples that a contestant is offered: more than it can use; they repeat."""
PEERS = ("trainer", "trainer_bf16", "trainer_bf16_compile", "loop_bf16", "loop_bf16_compile")
OURS = ("ours_bf16", "ours_bf16_compile")
WIDE = ("loop_fp32", "loop_fp32_compile", "ours_fp32", "ours_fp32_compile")
"""What takes part where bf16 is slow."""
SPINS = {"GOMP_SPINCOUNT": "1000"}
"""As `fullbore` sets it for its processes."""


@dataclass(frozen=True)
class Case:
    """What is trained: `build` gives the network, `samples` the columns of its data."""

    build: Callable[[], Any]
    samples: Callable[[], dict[str, Any]]
    batch: int
    unit: str
    language: bool = False
    warm: int = 12
    """Steps before the clock starts; the loss is told after them."""
    passes: bool = False
    """Steps differ in length: whole passes over the samples are timed."""
    peers: tuple[str, ...] = PEERS
    ours: tuple[str, ...] = OURS


def decoder(width: int, layers: int, heads: int, hidden: int) -> Any:
    import torch

    from fullbore.models.decoder import Decoder
    from fullbore.spec.model import DecoderModel

    torch.manual_seed(0)
    section = DecoderModel(kind="decoder", width=width, layers=layers, heads=heads, hidden=hidden, tie_embeddings=True)
    return Decoder(section, 8192)


def rows(length: int) -> dict[str, Any]:
    """Source code as tokens: pairs of bytes, below 8,192."""
    import numpy as np

    text = b"".join(path.read_bytes() for path in sorted(Path(os.__file__).parent.glob("*.py")))
    tokens = np.frombuffer(text[: len(text) // 2 * 2], "<u2") % 8192
    return {"tokens": tokens[: len(tokens) // (length + 1) * (length + 1)].reshape(-1, length + 1)}


def drawn(shape: tuple[int, ...], name: str, classes: int, high: int) -> dict[str, Any]:
    """Samples at random, with labels that can be learned from them."""
    import numpy as np

    kind = {"pixels": np.uint8, "tokens": np.uint16, "features": np.float32}[name]
    values = np.random.default_rng(0).integers(high, size=(2048, *shape))
    return {name: values.astype(kind), "label": values.reshape(2048, -1).sum(1) % classes}


def mails(count: int = 256) -> dict[str, Any]:
    import numpy as np

    from fullbore.models import tokenizer

    vocabulary = tokenizer.load(ROOT / "data" / "minilm")
    samples = [json.loads(line) for path in sorted((ROOT / "data" / "spam").glob("*.jsonl")) for line in path.open()]
    chosen = [samples[i] for i in np.random.default_rng(0).permutation(len(samples))[:count]]
    tokens = vocabulary.encode_batch([sample["text"] for sample in chosen], 512)
    return {"tokens": tokens, "label": np.array([int(sample["label"] == "spam") for sample in chosen])}


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


CASES = {
    "lm10m": Case(
        partial(decoder, 320, 6, 5, 1280), partial(rows, 256), 8, "tokens", True,
        ours=(*OURS, "ours_bf16_unsettled", "ours_bf16_compile_unsettled"),
    ),
    "lm50m": Case(partial(decoder, 640, 8, 10, 1728), partial(rows, 512), 4, "tokens", True, warm=6),
    "mail": Case(
        minilm, mails, 16, "samples", warm=4, passes=True,
        peers=("trainer_bf16", "trainer_bf16_grouped", "loop_bf16", "loop_bf16_compile"),
    ),
    "resnet64": Case(
        partial(module, "resnet"), partial(drawn, (3, 64, 64), "pixels", 10, 256), 64, "samples", warm=4,
        peers=("trainer_bf16", "trainer_bf16_compile", "loop_bf16_cl", "loop_bf16_cl_compile"),
    ),
    "textcnn": Case(partial(module, "textcnn"), partial(drawn, (128,), "tokens", 2, 4096), 64, "samples"),
    "mlp": Case(
        partial(module, "mlp"), partial(drawn, (64,), "features", 10, 16), 128, "samples", warm=50,
        peers=(*PEERS, "loop_fp32", "loop_fp32_compile"),
        ours=(*OURS, "ours_fp32", "ours_fp32_compile", "ours_fp32_compile_one"),
    ),
}  # fmt: skip


@dataclass
class Clock:
    """Rate after the warm-up, over `seconds` or whole passes; `tick` is called after each step and says when to end."""

    case: Case
    seconds: float
    samples: int
    steps: int = 0
    began: float = 0.0
    taken: float = 0.0
    loss: float | None = None

    def tick(self, loss: float | None) -> bool:
        self.steps += 1
        if self.steps == self.case.warm:
            self.began, self.loss = time.perf_counter(), loss
        if self.steps <= self.case.warm:
            return False
        self.taken = time.perf_counter() - self.began
        whole = (self.steps - self.case.warm) % (self.samples // self.case.batch) == 0
        return self.taken > self.seconds and (whole or not self.case.passes)

    def told(self, length: int) -> dict[str, Any]:
        steps = self.steps - self.case.warm
        rate = steps * self.case.batch * (length if self.case.language else 1) / self.taken
        return {"rate": rate, "step_seconds": self.taken / steps, "loss": self.loss}


def length_of(samples: dict[str, Any]) -> int:
    return samples["tokens"].shape[1] - 1


def ours(case: Case, seconds: float, folder: Path, flags: set[str]) -> dict[str, Any]:
    import numpy as np

    from fullbore.data.columns import Column
    from fullbore.data.feed import Feed
    from fullbore.data.shards import Shards, Writer
    from fullbore.engine.process import settle
    from fullbore.models.language import CausalLM
    from fullbore.models.supervised import Classification
    from fullbore.record import artifact
    from fullbore.record.span import Recorder
    from fullbore.spec.plan import Plan
    from fullbore.spec.train import TrainSection
    from fullbore.train.parallel import Alone
    from fullbore.train.precision import exact
    from fullbore.train.step import Step

    if "unsettled" not in flags:
        settle()
    samples = case.samples()
    schema = {
        name: Column(name, "int64" if name == "label" else str(values[0].dtype), np.shape(values)[1:])
        if isinstance(values, np.ndarray)
        else Column(name, str(values[0].dtype), None)
        for name, values in samples.items()
    }
    with artifact.create(folder / "shards", "corpus") as draft:
        writer = Writer(draft.folder, "train", schema, 64 * 2**20)
        writer.write(samples)
        draft.info["splits"] = {"train": writer.finish()}
        draft.info["columns"] = {name: column.to_json() for name, column in schema.items()}
    section = TrainSection.model_validate(
        {"budget": "100000 steps", "global_batch_size": case.batch, "schedule": "constant", "learning_rate": 5e-4}
    )
    threads = 1 if "one" in flags else len(os.sched_getaffinity(0))
    precision = "bf16" if "bf16" in flags else "fp32"
    plan = Plan(1, case.batch, case.batch, 1, 100_000, precision, "compile" in flags, threads, 0, 0, 0)
    task = CausalLM() if case.language else Classification()
    clock = Clock(case, seconds, len(next(iter(samples.values()))))
    with exact(threads), Feed(Shards(folder / "shards"), global_batch_size=case.batch, collate=task.collate) as feed:
        step = Step(case.build().train(), task, section, plan, Alone(), Recorder())
        for number, batch in enumerate(feed):
            if clock.tick(step(batch, number).loss):
                break
    return clock.told(length_of(samples) if case.language else 1)


class Peer:
    """The same network as the peers are given it, the call that everybody writes, and the samples one by one, in the
    order in which we take them."""

    def __init__(self, case: Case, folder: Path, flags: set[str]) -> None:
        import numpy as np
        import torch

        from fullbore.data.order import Order

        self.case, self.flags, self.samples = case, flags, case.samples()
        self.count = len(next(iter(self.samples.values())))
        self.order = Order(0, self.count).ids(np.arange(ROWS))
        self.network = self._transformers(folder) if case.language else case.build()
        if "cl" in flags:
            self.network = self.network.to(memory_format=torch.channels_last)
        if not case.language and hasattr(self.network, "_packing"):
            self.network._packing = None
            self.network.network.set_attn_implementation("sdpa")

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

    def dataset(self) -> Any:
        import torch

        peer = self
        tensors = {
            name: [torch.as_tensor(row.astype("int64" if name == "tokens" else row.dtype)) for row in values]
            for name, values in self.samples.items()
        }

        class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
            def __len__(self) -> int:
                return peer.count if "grouped" in peer.flags else ROWS

            def __getitem__(self, index: int) -> dict[str, Any]:
                place = index if "grouped" in peer.flags else peer.order[index]
                return {name: values[place] for name, values in tensors.items()}

        return Rows()

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        import torch
        from torch.nn.utils.rnn import pad_sequence

        if "tokens" not in rows[0] or self.case.language:
            return dict(torch.utils.data.default_collate(rows))
        tokens = [row["tokens"] for row in rows]
        mask = [torch.ones(len(row), dtype=torch.bool) for row in tokens]
        return {
            "tokens": pad_sequence(tokens, batch_first=True),
            "attention_mask": pad_sequence(mask, batch_first=True),
            "label": torch.stack([row["label"] for row in rows]),
        }

    def loss(self, model: Any, batch: dict[str, Any]) -> Any:
        import torch
        import torch.nn.functional as F

        if self.case.language:
            given, wanted = batch["tokens"][:, :-1].contiguous(), batch["tokens"][:, 1:].contiguous()
            return model(input_ids=given, labels=given, shift_labels=wanted).loss
        label = batch["label"]
        if "tokens" in batch:
            return F.cross_entropy(model(batch["tokens"], batch["attention_mask"]).float(), label)
        if "pixels" in batch and "cl" in self.flags:
            batch["pixels"] = batch["pixels"].contiguous(memory_format=torch.channels_last)
        return F.cross_entropy(model(batch["pixels" if "pixels" in batch else "features"]).float(), label)


def loop(case: Case, seconds: float, folder: Path, flags: set[str]) -> dict[str, Any]:
    import torch

    peer = Peer(case, folder, flags)
    network = peer.network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-4, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    model = torch.compile(network) if "compile" in flags else network
    clock = Clock(case, seconds, peer.count)
    for batch in torch.utils.data.DataLoader(peer.dataset(), case.batch, collate_fn=peer.collate):
        with torch.autocast("cpu", torch.bfloat16, enabled="bf16" in flags):
            loss = peer.loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if clock.tick(loss.item()):
            break
    return clock.told(length_of(peer.samples) if case.language else 1)


def trainer(case: Case, seconds: float, folder: Path, flags: set[str]) -> dict[str, Any]:
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments
    from transformers.trainer_pt_utils import LengthGroupedSampler

    peer = Peer(case, folder, flags)
    clock = Clock(case, seconds, peer.count)

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = peer.network

        def forward(self, **batch: Any) -> dict[str, Any]:
            return {"loss": peer.loss(self.network, batch)}

    class Ticking(TrainerCallback):
        def on_step_end(self, *asked: Any, **_: Any) -> Any:
            control = asked[2]
            control.should_training_stop = clock.tick(None)
            return control

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            if "grouped" in flags:
                return LengthGroupedSampler(case.batch, lengths=[len(row) for row in peer.samples["tokens"]])
            return torch.utils.data.SequentialSampler(peer.dataset())

    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=case.batch,
        max_steps=ROWS,
        learning_rate=5e-4,
        lr_scheduler_type="constant",
        adam_beta2=0.95,
        weight_decay=0.01,
        bf16="bf16" in flags,
        torch_compile="compile" in flags,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    InOrder(
        model=Whole(),
        args=arguments,
        train_dataset=peer.dataset(),
        callbacks=[Ticking()],
        data_collator=peer.collate,
    ).train()
    return clock.told(length_of(peer.samples) if case.language else 1)


def _note(taken: list[Any], part: Any, given: tuple[Any, ...], _: Any) -> None:
    taken.append((part, tuple(given[0].shape)))


def limit(case: Case) -> dict[str, Any]:
    """The matrix products and convolutions of a mean step alone, forward and backward, bf16."""
    import torch
    from torch import nn

    samples, network = case.samples(), case.build()
    length = length_of(samples) if case.language else 1
    tokens = case.batch * (
        length if case.language else sum(map(len, samples.get("tokens", [[0]]))) / len(samples["label"])
    )
    total = 0.0

    def best(call: Callable[[], Any]) -> float:
        times = []
        for _ in range(8):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
        return min(times)

    if "pixels" in samples:
        taken: list[tuple[nn.Conv2d, tuple[int, ...]]] = []
        note = partial(_note, taken)
        handles = [part.register_forward_hook(note) for part in network.modules() if isinstance(part, nn.Conv2d)]
        network(torch.from_numpy(samples["pixels"][: case.batch]))
        for handle in handles:
            handle.remove()
        for part, shape in taken:
            part = part.bfloat16().to(memory_format=torch.channels_last)
            x = torch.randn(shape).bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_()
            y = part(x)
            g = torch.randn_like(y)
            total += best(lambda part=part, x=x, g=g: torch.autograd.grad(part(x), (x, part.weight), g))
        return {"rate": case.batch / total, "step_seconds": total, "loss": None}
    inside = [part for part in network.modules() if isinstance(part, nn.Linear) and part.weight.shape[0] > 16]
    shapes = [tuple(part.weight.shape) for part in inside]
    shapes += [tuple(network.head_weight.shape)] if case.language else []
    many = round(tokens)
    for outputs, inputs in shapes:
        x, w, g = (torch.randn(*shape).bfloat16() for shape in ((many, inputs), (outputs, inputs), (many, outputs)))
        for product in (lambda x=x, w=w: x @ w.t(), lambda g=g, w=w: g @ w, lambda g=g, x=x: g.t() @ x):
            total += best(product)
    return {"rate": case.batch * length / total, "step_seconds": total, "loss": None}


def contestant(case: Case, name: str, seconds: float, folder: Path) -> dict[str, Any]:
    kind, *flags = name.split("_")
    if kind == "limit":
        return limit(case)
    return {"ours": ours, "loop": loop, "trainer": trainer}[kind](case, seconds, folder, set(flags))


def measured(case: str, name: str, seconds: float, isa: str | None) -> dict[str, Any]:
    settings = {**(SPINS if name.startswith("ours") else {}), **({"ONEDNN_MAX_CPU_ISA": isa} if isa else {})}
    with tempfile.TemporaryDirectory() as folder:
        ended = subprocess.run(
            [sys.executable, __file__, "--one", f"{case}/{name}/{folder}", "--seconds", str(seconds)],
            capture_output=True,
            text=True,
            env={**os.environ, **settings},
        )
    if ended.returncode:
        raise SystemExit(f"{case}/{name}: {ended.stderr[-2000:]}")
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def compared(case: str, asked: argparse.Namespace) -> dict[str, Any]:
    given, unit = CASES[case], CASES[case].unit
    names = [*given.peers, *given.ours, *(WIDE if asked.isa else ())]
    names += ["limit"] if case in ("lm10m", "lm50m", "mail", "resnet64") and not asked.isa else []
    names = [name for name in names if not asked.only or name in asked.only.split(",")]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for turn in range(asked.rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            found[name].append(measured(case, name, asked.seconds, asked.isa))
            told = " ".join(f"{key} {value:.4g}" for key, value in found[name][-1].items() if value is not None)
            print(f"{case:<9} {name:<22} {told}", file=sys.stderr)
    rates = {name: statistics.median(one["rate"] for one in many) for name, many in found.items()}
    figures: dict[str, Any] = {
        "unit": f"{unit}/s",
        "rates": rates,
        "spread": {name: [min(o["rate"] for o in many), max(o["rate"] for o in many)] for name, many in found.items()},
        "loss_after_warm_up": {name: many[0]["loss"] for name, many in found.items() if many[0]["loss"] is not None},
    }
    peers = [name for name in names if name.startswith(("loop", "trainer"))]
    mine = max((name for name in names if name.startswith("ours")), key=rates.__getitem__, default=None)
    if not peers or mine is None:
        return figures
    best = max(peers, key=rates.__getitem__)
    figures |= {"ours": mine, "best_peer": best, "over_best_peer": rates[mine] / rates[best]}
    figures |= {f"over_{name}": rates[mine] / rates[name] for name in peers if name.startswith("trainer")}
    return {**figures, "share_of_limit": rates[mine] / rates["limit"]} if "limit" in rates else figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--isa", help="ONEDNN_MAX_CPU_ISA of all contestants")
    parser.add_argument("--only", help="contestants, with commas between them")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("cases", nargs="*", default=list(CASES))
    asked = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if asked.one:
        case, name, folder = asked.one.split("/", 2)
        print(json.dumps(contestant(CASES[case], name, asked.seconds, Path(folder))))
        sys.stdout.flush()
        os._exit(0)
    figures = {case: compared(case, asked) for case in asked.cases}
    print(json.dumps(figures) if asked.json else json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
