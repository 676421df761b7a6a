"""Training with the real decoder, task and feed: bit-equal again, bit-equal resumed, compiled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_training as small
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fullbore.data.columns import Column
from fullbore.data.feed import Feed, once
from fullbore.data.shards import Shards, Writer
from fullbore.models.decoder import Decoder
from fullbore.models.language import CausalLM
from fullbore.record import artifact
from fullbore.record.span import Recorder
from fullbore.spec.model import DecoderModel
from fullbore.train.loop import TrainSetup, run
from fullbore.train.step import Loss
from fullbore.train.trial import step_seconds

VOCABULARY, LENGTH = 48, 16


def _decoder() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Decoder(DecoderModel(kind="decoder", width=32, layers=2, heads=2), VOCABULARY)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """Rows that count upwards from random tokens: easily learnt."""
    folder = tmp_path_factory.mktemp("packed") / "shards"
    generator = np.random.default_rng(0)
    schema = {"tokens": Column("tokens", "uint16", (LENGTH + 1,))}
    splits: dict[str, list[dict[str, Any]]] = {}
    with artifact.create(folder, "shards") as draft:
        for split, rows in (("train", 64), ("validation", 10)):
            tokens = (generator.integers(VOCABULARY, size=(rows, 1)) + np.arange(LENGTH + 1)) % VOCABULARY
            writer = Writer(draft.folder, split, schema, 1 << 20)
            writer.write({"tokens": tokens.astype(np.uint16)})
            splits[split] = writer.finish()
        columns = {name: column.to_json() for name, column in schema.items()}
        draft.info |= {"splits": splits, "columns": columns}
        draft.info |= {"sequence_length": LENGTH}
    return Shards(artifact.read(folder))


def _setup(folder: Path, shards: Shards, kept: small.Kept, **changes: Any) -> TrainSetup:
    task = CausalLM()

    def feed() -> Feed:
        return Feed(shards, global_batch_size=8, seed=1, collate=task.collate)

    def validation(*, limit: int | None = None) -> Any:
        return once(shards, "validation", 4, task.collate, limit=limit)

    plan = small.plan(**{"micro_batch_size": 4, "precision": "bf16", **changes.pop("plan", {})})
    made = small.setup(folder, plan, build=_decoder, recorder=Recorder(kept))
    return small.replace(made, task=task, feed=feed, validation=validation, **changes)


def test_the_decoder_learns_and_repeats_itself(tmp_path: Path, shards: Shards) -> None:
    losses, weights = [], []
    for name in ("one", "two"):
        kept = small.Kept()
        result = run(_setup(tmp_path / name, shards, kept, plan={"steps": 30}))
        losses.append([event["loss"] for event in kept.of("step")])
        weights.append(small.tensors(result.module))
        assert result.units == 30 * 8 * LENGTH
        assert result.metrics.keys() >= {"loss", "perplexity"}
    assert losses[0] == losses[1]
    assert small.same(*weights)
    assert losses[0][-1] < 0.8 * losses[0][0]


def test_the_decoder_resumes_bit_for_bit(tmp_path: Path, shards: Shards) -> None:
    whole, first, second = small.Kept(), small.Kept(), small.Kept()
    expected = run(_setup(tmp_path / "whole", shards, whole))
    polls = iter([False] * 4 + [True])
    run(_setup(tmp_path / "parts", shards, first, stop=lambda: next(polls)))
    result = run(_setup(tmp_path / "parts", shards, second, resume=True))
    key = ("step", "loss", "ids", "gradient_norm", "learning_rate")
    told = [[tuple(event[k] for k in key) for event in kept.of("step")] for kept in (whole, first, second)]
    assert told[1] + told[2] == told[0]
    assert small.same(small.tensors(result.module), small.tensors(expected.module))


def test_tied_weights_are_saved_once(tmp_path: Path, shards: Shards) -> None:
    result = run(_setup(tmp_path, shards, small.Kept(), plan={"steps": 2}))
    stored = load_file(result.checkpoint / "model.safetensors")
    assert sum(tensor.numel() for tensor in stored.values()) == sum(p.numel() for p in result.module.parameters())


def test_the_logits_never_exist_at_once_in_fp32() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        wide = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and out.dtype is torch.float32 and out.ndim == 2 and out.shape[1] == 4096:
                self.wide = max(self.wide, out.shape[0])
            return out

    model = Decoder(DecoderModel(kind="decoder", width=16, layers=1, heads=1), 4096)
    batch = {"tokens": torch.zeros(24, 129, dtype=torch.int32)}
    with Largest() as largest, torch.autocast("cpu", dtype=torch.bfloat16):
        Loss(model, CausalLM())(batch)
    assert largest.wide <= 4096


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_steps_agree_and_compiling_is_its_own_state(tmp_path: Path, shards: Shards) -> None:
    plain, compiled = small.Kept(), small.Kept()
    run(_setup(tmp_path / "plain", shards, plain, plan={"precision": "fp32", "steps": 4}))
    setup = _setup(tmp_path / "compiled", shards, compiled, plan={"precision": "fp32", "steps": 4, "compile": True})
    run(setup)
    losses = [[event["loss"] for event in kept.of("step")] for kept in (plain, compiled)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    seconds = setup.recorder.ledger().seconds
    assert seconds["compile"] > seconds["forward"] + seconds["backward"]


def test_a_trial_with_the_real_feed(tmp_path: Path, shards: Shards) -> None:
    setup = _setup(tmp_path, shards, small.Kept())
    whole = replace(setup, plan=replace(setup.plan, precision="bf16", micro_batch_size=8, accumulation=1))
    parts = replace(setup, plan=replace(setup.plan, precision="fp32", micro_batch_size=2, accumulation=4))
    assert step_seconds(whole, steps=1).loss == pytest.approx(step_seconds(parts, steps=1).loss, rel=0.02)
