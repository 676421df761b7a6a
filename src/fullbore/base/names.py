"""Readable names for runs: `calm-otter-3`, easy to say, to type and to complete."""

from __future__ import annotations

import random
from collections.abc import Iterable

_ADJECTIVES = (
    "amber bold brisk calm clear crisp deft eager early fair fleet fresh gentle glad golden grand keen kind "
    "light lively lucid merry mild neat noble plain proud quick quiet rapid ready royal sharp silver smooth "
    "snug solid spry steady still sunny swift tidy true vivid warm wide wise young zesty"
).split()
_ANIMALS = (
    "badger bear beaver bison crane deer dolphin eagle falcon ferret finch fox gecko goose hare hawk heron "
    "horse ibex jackal jay kestrel koala lark lemur lion llama lynx marten mole moose otter owl panda pelican "
    "puffin quail raven robin seal shrike sparrow stork swan tern tiger toad trout viper walrus wolf wren yak"
).split()


def run_name(taken: Iterable[str]) -> str:
    """A new `adjective-animal-number` that is not in `taken`; the number grows until it is free."""
    used = set(taken)
    source = random.SystemRandom()
    stem = f"{source.choice(_ADJECTIVES)}-{source.choice(_ANIMALS)}"
    number = 1
    while f"{stem}-{number}" in used:
        number += 1
    return f"{stem}-{number}"
