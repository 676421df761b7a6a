"""Generation: the cache changes nothing, a seed repeats, the knobs do what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import write
from torch import Tensor

from fullbore.base.errors import InputError
from fullbore.models.build import Sizes, build
from fullbore.models.generate import choose, generate
from fullbore.spec.model import DecoderModel, ModelSection, TaskSection, TransformersModel

TASK = TaskSection(kind="causal_lm")
PROMPT = [5, 9, 31, 2]


def networks(folder: Path) -> dict[str, Any]:
    sections: dict[str, ModelSection] = {
        "decoder": DecoderModel(kind="decoder", width=32, layers=2, heads=4, key_value_heads=2),
        "gpt2": TransformersModel(kind="transformers", folder=str(write(folder / "a", "gpt2")), pretrained=False),
        "gemma2": TransformersModel(kind="transformers", folder=str(write(folder / "b", "gemma2")), pretrained=False),
    }
    made = {name: build(section, TASK, Sizes(vocabulary_size=60), seed=3).eval() for name, section in sections.items()}
    for module in made.values():
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(4)
    return made


def uncached(module: Any, tokens: list[int], count: int, **how: Any) -> list[int]:
    """The same by reading everything again for each token."""
    source, tokens = torch.Generator().manual_seed(how.get("seed", 0)), list(tokens)
    start = len(tokens)
    with torch.no_grad():
        for _ in range(count):
            logits = module(torch.tensor([tokens]))[0, -1]
            tokens.append(choose(logits, how.get("temperature", 0), how.get("top_k", 0), how.get("top_p", 1.0), source))
    return tokens[start:]


@pytest.mark.parametrize("name", ["decoder", "gpt2", "gemma2"])
@pytest.mark.parametrize("how", [{}, {"temperature": 1.3, "top_k": 20, "top_p": 0.9, "seed": 11}])
def test_the_cache_changes_nothing(tmp_path: Path, name: str, how: dict[str, Any]) -> None:
    module = networks(tmp_path)[name]
    assert list(generate(module, PROMPT, max_tokens=12, **how)) == uncached(module, PROMPT, 12, **how)


def test_a_seed_repeats_and_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    module = networks(tmp_path)["decoder"]
    before = torch.get_rng_state()
    first, again, other, free = (
        list(generate(module, PROMPT, max_tokens=20, temperature=2.0, seed=seed)) for seed in (1, 1, 2, None)
    )
    assert first == again and first != other and len(free) == 20
    assert torch.equal(before, torch.get_rng_state())


def test_it_ends_with_a_stop_token_or_the_count(tmp_path: Path) -> None:
    module = networks(tmp_path)["decoder"]
    whole = list(generate(module, PROMPT, max_tokens=10))
    stopped = list(generate(module, PROMPT, max_tokens=10, stop_ids={whole[3]}))
    assert stopped == whole[: whole.index(whole[3]) + 1]
    assert list(generate(module, PROMPT, max_tokens=0)) == []


def test_tokens_come_one_at_a_time(tmp_path: Path) -> None:
    stream = generate(networks(tmp_path)["decoder"], PROMPT, max_tokens=1000)
    assert [next(stream) for _ in range(3)] == list(generate(networks(tmp_path)["decoder"], PROMPT, max_tokens=3))
    stream.close()  # type: ignore[attr-defined]


def test_no_prompt_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no tokens"):
        next(generate(networks(tmp_path)["decoder"], [], max_tokens=1))


def drawn(logits: Tensor, **how: Any) -> set[int]:
    source = torch.Generator().manual_seed(0)
    knobs = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, **how}
    return {choose(logits, source=source, **knobs) for _ in range(300)}


def test_the_knobs() -> None:
    logits = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05]).log()
    assert drawn(logits) == {0, 1, 2, 3, 4}
    assert drawn(logits, temperature=0) == {0}
    assert drawn(logits, temperature=0.05) == {0}
    assert drawn(logits, top_k=2) == {0, 1}
    assert drawn(logits, top_k=99) == {0, 1, 2, 3, 4}
    assert drawn(logits, top_p=0.6) == {0, 1}
    assert drawn(logits, top_p=0.0) == {0}
    assert drawn(logits, top_k=3, top_p=0.5) == {0}


def test_it_runs_under_autocast_and_in_bf16(tmp_path: Path) -> None:
    module = networks(tmp_path)["decoder"]
    with torch.autocast("cpu", torch.bfloat16):
        assert len(list(generate(module, PROMPT, max_tokens=5))) == 5
    assert len(list(generate(module.to(torch.bfloat16), PROMPT, max_tokens=5))) == 5
