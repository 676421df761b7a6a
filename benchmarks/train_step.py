"""Is our training step as fast as a plain torch loop, and what does recording it cost?

    python benchmarks/train_step.py [--json] [--rounds 8] [--steps 3] [--accumulation 2]

Two loops take turns (A B B A A B ...) on decoders of the same size and the same batches: `plain` is the loop that
everybody writes (autocast, cross_entropy on the logits, clip_grad_norm_, fused AdamW), `ours` is `train.step.Step` with
its journal and a recorder that writes to a file. Medians over the rounds are reported; a ratio below 1 is good.
What recording costs is too little to see in that noise: a step's switches and events are timed by themselves.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullbore.base.units import parse_budget
from fullbore.models.decoder import Decoder
from fullbore.models.language import CausalLM
from fullbore.record.ledger import State
from fullbore.record.progress import no_progress
from fullbore.record.sink import Sink
from fullbore.record.span import Recorder
from fullbore.spec.model import DecoderModel
from fullbore.spec.plan import Plan
from fullbore.spec.train import TrainSection
from fullbore.train.journal import Journal
from fullbore.train.parallel import Alone
from fullbore.train.precision import exact
from fullbore.train.setup import TrainSetup
from fullbore.train.step import Step

VOCABULARY, WIDTH, LAYERS, HEADS, LENGTH = 4096, 256, 4, 4, 256
Batch = dict[str, Tensor]


def decoder() -> Decoder:
    torch.manual_seed(0)
    return Decoder(DecoderModel(kind="decoder", width=WIDTH, layers=LAYERS, heads=HEADS), VOCABULARY)


def batches(count: int, size: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    shape = (size, LENGTH + 1)
    return [{"tokens": torch.randint(VOCABULARY, shape, dtype=torch.int32, generator=generator)} for _ in range(count)]


def plain_loop(section: TrainSection, plan: Plan) -> Callable[[Batch, int], None]:
    network = decoder()
    optimizer = torch.optim.AdamW(network.parameters(), lr=section.learning_rate, betas=(0.9, 0.95), fused=True)

    def step(batch: Batch, _: int) -> None:
        parts = batch["tokens"].split(plan.micro_batch_size)
        for part in parts:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=plan.precision == "bf16"):
                logits = network(part[:, :-1])
                loss = F.cross_entropy(logits.flatten(0, 1).float(), part[:, 1:].flatten().long()) / len(parts)
            loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def our_loop(section: TrainSection, plan: Plan, recorder: Recorder, folder: Path) -> Callable[[Batch, int], None]:
    task = CausalLM()
    setup = TrainSetup(section, plan, decoder, task, _no_feed, None, folder, recorder, no_progress, lambda: False)
    step, journal = Step(decoder(), task, section, plan, Alone(), recorder), Journal(setup, 0)
    ids = np.arange(plan.global_batch_size)

    def take(batch: Batch, number: int) -> None:
        began = time.perf_counter()
        with recorder.state(State.DATA_WAIT):
            waited = time.perf_counter() - began
        outcome = step(batch, number)
        journal.step(number + 1, outcome, time.perf_counter() - began, waited, ids)

    return take


def _no_feed() -> Any:
    raise AssertionError("the benchmark brings its own batches")


def recording_seconds(recorder: Recorder, accumulation: int, repeats: int = 2000) -> float:
    """What the switches and the event of one step take."""
    states = (State.DATA_WAIT, State.COPY, *(State.FORWARD, State.BACKWARD) * accumulation, State.OPTIMIZER)
    began = time.process_time()
    for number in range(repeats):
        for state in states:
            with recorder.state(state):
                pass
        with recorder.state(State.REPORT):
            recorder.event(
                "step", step=number, loss=1.0, learning_rate=1e-3, gradient_norm=1.0, units=1.0, ids="0" * 16
            )
    recorder.settle()
    return (time.process_time() - began) / repeats


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    size = arguments.micro_batch * arguments.accumulation
    section = TrainSection(budget=parse_budget("1000 steps"), global_batch_size=size)
    plan = Plan(
        world_size=1,
        global_batch_size=size,
        micro_batch_size=arguments.micro_batch,
        accumulation=arguments.accumulation,
        steps=1000,
        precision=arguments.precision,
        compile=False,
        threads=arguments.threads,
        evaluate_every=0,
        checkpoint_every=0,
        warmup_steps=10,
    )
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.cpu else time.perf_counter
    given = batches(arguments.steps, size)
    with tempfile.TemporaryDirectory() as folder, Sink(Path(folder) / "events.jsonl") as sink:
        loops: dict[str, tuple[Callable[[Batch, int], None], Callable[[], AbstractContextManager[None]]]] = {
            "plain": (plain_loop(section, plan), nullcontext),
            "ours": (our_loop(section, plan, Recorder(sink), Path(folder)), lambda: exact(arguments.threads)),
        }
        taken: dict[str, list[float]] = {name: [] for name in loops}
        for turn in range(arguments.rounds + 1):
            for name in sorted(loops, reverse=turn % 2 == 0):
                step, settings = loops[name]
                with settings():
                    began = clock()
                    for number, batch in enumerate(given):
                        step(batch, number)
                    if turn:
                        taken[name].append((clock() - began) / len(given))
        recording = recording_seconds(Recorder(sink), arguments.accumulation)
    seconds = {name: statistics.median(times) for name, times in taken.items()}
    ratios = [ours / plain for ours, plain in zip(taken["ours"], taken["plain"], strict=True)]
    return {
        "schema": 1,
        "precision": arguments.precision,
        "clock": "cpu" if arguments.cpu else "wall",
        "micro_batch": arguments.micro_batch,
        "accumulation": arguments.accumulation,
        "step_seconds": seconds,
        "tokens_per_second": {name: size * LENGTH / value for name, value in seconds.items()},
        "ours_over_plain": statistics.median(ratios),
        "recording_share": recording / seconds["ours"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3, help="steps of each loop in a round")
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--accumulation", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu", action="store_true", help="CPU seconds instead of the clock's: for a busy machine")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    arguments = parser.parse_args()
    found = measure(arguments)
    if arguments.json:
        print(json.dumps(found))
        return
    for name, seconds in found["step_seconds"].items():
        print(f"{name:<8} {seconds * 1e3:8.1f} ms a step   {found['tokens_per_second'][name]:8.0f} tokens/s")
    print(f"ours / plain   {found['ours_over_plain']:.3f}   (step time; at most 1 is asked)")
    print(f"recording      {found['recording_share']:+.2%}   of a step (below 1 % is asked)")


if __name__ == "__main__":
    main()
