"""How to ask a model that is served: its doors, and a command that works as it stands."""

from __future__ import annotations

import json
import shlex
from math import prod
from typing import Any

from fullbore.serve.catalogue import Served
from fullbore.serve.inference import metadata

_WRITTEN_OUT = 32
"""Values of one sample up to which a command holds them all."""
_HEADER = '-H "Content-Type: application/json"'


def invitation(served: Served, url: str, prompt: str) -> dict[str, Any]:
    """The model's name, its task, the addresses that answer for it, and a `curl` that asks it.

    `prompt`: what a language model is asked.
    """
    infer = f"{url}/v2/models/{served.name}/infer"
    return {
        "name": served.name,
        "task": served.loaded.task.kind,
        "doors": [f"{url}/v1/completions", infer] if served.generates else [infer],
        "example": _completion(served, url, prompt) if served.generates else _inference(served, infer),
    }


def _completion(served: Served, url: str, prompt: str) -> str:
    body = json.dumps({"model": served.name, "prompt": prompt, "max_tokens": 16}, ensure_ascii=False)
    return f"curl -s {url}/v1/completions {_HEADER} -d {shlex.quote(body)}"


def _inference(served: Served, url: str) -> str:
    """One sample: a text, the mean of the training rows, a black picture."""
    [wanted] = metadata(served)["inputs"]
    shape = [1, *wanted["shape"][1:]]
    tensor = {"name": wanted["name"], "shape": shape, "datatype": wanted["datatype"]}
    count = prod(shape)
    if count > _WRITTEN_OUT:
        tensor = {**tensor, "data": [0]}
        body = json.dumps({"inputs": [tensor]}).replace("[0]", f"[0] * {count}")
        script = f"import json; print(json.dumps({body}))"
        return f"python3 -c {shlex.quote(script)} | curl -s {url} {_HEADER} -d @-"
    data: list[Any] = ["some text"]
    if served.takes == "features":
        means = (served.loaded.statistics or {}).get("mean") or [0.0] * count
        data = [float(f"{value:.4g}") for value in means]
    return f"curl -s {url} {_HEADER} -d {shlex.quote(json.dumps({'inputs': [{**tensor, 'data': data}]}))}"
