"""One token after another from a causal language model, with what was computed kept."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fullbore.base.errors import InputError


def generate(
    module: nn.Module,
    tokens: Sequence[int],
    *,
    max_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int | None = None,
    stop_ids: Collection[int] = (),
) -> Iterator[int]:
    """The tokens that follow `tokens`, each as soon as it is known; ends after `max_tokens` or with one of `stop_ids`,
    which is given out as the last.

    temperature 0 takes the likeliest token each time. Otherwise a token is drawn from the `top_k` likeliest (0: all),
    of these from the fewest that hold `top_p` of the probability (Holtzman et al. 2020); the same seed draws the same
    tokens. `module` is a Decoder or a Hub for causal_lm, in eval mode. Raises InputError without a prompt.
    """
    if not tokens:
        raise InputError("prompt: found no tokens, expected at least one", hint="begin with the end-of-text token")
    network: Any = module
    source = torch.Generator()
    if seed is None:
        source.seed()
    else:
        source.manual_seed(seed)
    following = torch.tensor([list(tokens)], dtype=torch.int64)
    with torch.inference_mode():
        cache = network.cache(1, len(tokens) + max_tokens)
    for _ in range(max_tokens):
        with torch.inference_mode():
            logits = network.next_logits(following, cache)[0]
            token = choose(logits, temperature, top_k, top_p, source)
        yield token
        if token in stop_ids:
            return
        following = torch.tensor([[token]], dtype=torch.int64)


def choose(logits: Tensor, temperature: float, top_k: int, top_p: float, source: torch.Generator) -> int:
    """One token by `logits` [V]."""
    if temperature <= 0:
        return int(logits.argmax())
    scores = logits.float() / temperature
    kept = min(top_k, len(scores)) if top_k else len(scores)
    best, ids = scores.topk(kept) if kept < len(scores) else scores.sort(descending=True, stable=True)
    probabilities = best.softmax(0)
    if top_p < 1:
        before = probabilities.cumsum(0) - probabilities
        probabilities = probabilities.masked_fill(before >= max(top_p, 1e-9), 0)
    return int(ids[torch.multinomial(probabilities, 1, generator=source)])
