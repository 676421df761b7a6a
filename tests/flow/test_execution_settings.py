"""Settings of how a step is executed reach the run: the same losses, and each choice said."""

from __future__ import annotations

import json

import pytest

from fullbore.base.errors import JobError
from fullbore.spec.load import load
from tests.flow.conftest import TINY, Bench

SHORT = TINY.partition("[compress]")[0].replace('"30 steps"', '"8 steps"')


@pytest.mark.slow
def test_recomputation_attention_and_feed_change_no_loss(bench: Bench) -> None:
    bench.done("run", bench.job(SHORT), "--name", "plain")
    told = bench.run("run", "job.toml", "--name", "again", "--set", "train.recompute=true", "--json")
    assert told.code == 0 and "train.recompute true (set by the job)" in told.stderr
    bench.done("run", "job.toml", "--name", "fed", "--set", "train.prefetch=0", "--set", "train.feed_threads=2")
    bench.done("run", "job.toml", "--name", "other", "--set", "train.attention=plain")
    losses = bench.losses("plain")
    assert len(losses) == 8
    assert bench.losses("again") == losses == bench.losses("fed"), "bit for bit"
    assert bench.losses("other") == pytest.approx(losses, rel=1e-5)
    plan = json.loads((bench.folder / "runs" / "fed" / "plan.json").read_text())
    assert (plan["prefetch"], plan["feed_threads"]) == (0, 2)
    plan = json.loads((bench.folder / "runs" / "plain" / "plan.json").read_text())
    chosen = next(choice for choice in plan["choices"] if choice["key"] == "train.recompute")
    assert chosen["value"] == "false" and "without it" in chosen["reason"] and not plan["recompute"]


def test_what_a_network_does_not_have_cannot_be_set(bench: Bench) -> None:
    text = SHORT.replace('kind = "causal_lm"\nbaselines = ["bigram", "trigram"]', 'kind = "classification"')
    text = text.replace('kind = "decoder"\nwidth = 32\nlayers = 2\nheads = 2', 'kind = "textcnn"')
    job = bench.job(text.replace('format = "text"', 'format = "csv"\nlabel = "label"'))
    load(job)
    for setting, told in (("attention=plain", "for model.kind = decoder, not"), ("recompute=true", "models of blocks")):
        key, _, value = setting.partition("=")
        with pytest.raises(JobError, match=rf"train\.{key}: .*{told}"):
            load(job, {f"train.{key}": value})
