"""Numerics: the dtype that products run in, and what makes a step a pure function of the plan, the seed and its number.

bf16 is autocast over fp32 weights. Its cache of narrowed weights lives as long as the context, so one context spans
all micro-batches of a step: each weight is narrowed once a step, however many micro-batches there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import xxhash


def autocast(precision: str, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def seed_step(seed: int, rank: int, step: int) -> None:
    """Make all that step `step` draws (dropout) depend on these numbers alone, so that no generator's state need be
    saved. (torch.manual_seed looks for every kind of device, 0.1 ms: where there is none it is not asked.)"""
    number = xxhash.xxh3_64_intdigest(f"{seed}/{rank}/{step}".encode())
    if torch.accelerator.is_available():
        torch.manual_seed(number)
    else:
        torch.default_generator.manual_seed(number)


@contextmanager
def exact(threads: int) -> Iterator[None]:
    """`threads` compute threads and reproducible kernels inside; afterwards all global settings are as they were.

    (Not torch.use_deterministic_algorithms, which says the same to the kernels but imports the compiler: 1 to 2 s.)
    """
    generator, count = torch.get_rng_state(), torch.get_num_threads()
    strict = torch.get_deterministic_debug_mode()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("error")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
        torch.set_deterministic_debug_mode(strict)
        torch.set_num_threads(count)
        torch.set_rng_state(generator)
