"""The JSON Schema knows and describes every setting."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fullbore.spec.explain import all_keys
from fullbore.spec.schema import schema

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


MADE = schema()


def sections(name: str) -> list[dict[str, Any]]:
    made = MADE
    entry = made["properties"][name]
    references = [entry["$ref"]] if "$ref" in entry else [option["$ref"] for option in entry["anyOf"]]
    return [made["$defs"][reference.rpartition("/")[2]] for reference in references]


def test_every_setting_is_described() -> None:
    made = schema()
    assert made["$schema"].endswith("2020-12/schema") and made["title"] and made["description"] and made["examples"]
    for definition in [made, *made["$defs"].values()]:
        assert definition["description"]
        for key, entry in definition["properties"].items():
            assert entry.get("description") or "$ref" in entry, key


def test_every_key_is_in_it_and_null_is_not() -> None:
    for key in all_keys():
        name, _, field = key.partition(".")
        assert name in MADE["properties"]
        if field:
            assert any(field in section["properties"] for section in sections(name)), key
    assert '"null"' not in json.dumps(schema())


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_use_only_what_it_knows(recipe: Path) -> None:
    for name, value in tomllib.loads(recipe.read_text()).items():
        assert name in MADE["properties"]
        if isinstance(value, dict):
            assert any(set(value) <= set(section["properties"]) for section in sections(name)), name


def test_sizes_are_shown_as_they_are_written() -> None:
    defaults = {name: entry.get("default") for name, entry in sections("serve")[0]["properties"].items()}
    assert defaults["queue_bytes"] == "64MiB" and defaults["body_bytes"] == "8MiB" and defaults["port"] == 8000
    assert sections("tokenizer")[0]["properties"]["training_bytes"]["default"] == "32MB"
