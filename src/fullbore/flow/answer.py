"""The last stage of a run: the model is served on loopback and asked something, over HTTP."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
from numpy.typing import NDArray

from fullbore.base.errors import RunFailed
from fullbore.data.shards import Shards
from fullbore.flow.serve import load_model, model_folder
from fullbore.flow.session import Session
from fullbore.models.weights import LoadedModel
from fullbore.record.ledger import State
from fullbore.serve import run as server
from fullbore.spec.serve import ServeSection

_SAMPLES = 4
_PATIENCE = 10.0
"""Seconds beyond `serve.request_timeout`, so that it is the server that gives up."""
_SHOWN = 60
_TEMPERATURE = 0.7


@dataclass(frozen=True)
class _Client:
    """Who asks the server at `url`."""

    url: str
    section: ServeSection
    mend: str
    """What to do about a request that is refused."""

    def post(self, path: str, body: bytes) -> dict[str, Any]:
        """The answer. Raises RunFailed with what the server says instead of answering."""
        request = Request(self.url + path, body, {"Content-Type": "application/json"}, method="POST")
        try:
            with urlopen(request, timeout=self.section.request_timeout + _PATIENCE) as response:
                return dict(json.load(response))
        except HTTPError as error:
            told = json.load(error)["error"]
            message = told if isinstance(told, str) else told["message"]
            raise RunFailed(f"serve: {path} answered {error.code}: {message}", hint=self.mend) from None


def answer(session: Session) -> dict[str, Any]:
    """Serve the run's model on a free port, ask it once, return what was asked and answered. Raises RunFailed."""
    section, paths = session.job.serve, session.run.paths
    assert section is not None
    with session.stage("serve") as facts, session.recorder.state(State.SERVE):
        models = load_model(model_folder(str(paths.folder)))
        [(name, loaded)] = models.items()
        with server.background(models, section.model_copy(update={"port": 0})) as url:
            client = _Client(url, section, f"change [serve] in {paths.job}, then: fullbore resume {session.run.name}")
            if loaded.task.kind == "causal_lm":
                found = _complete(client, name, loaded)
            else:
                found = _infer(client, name, Shards(paths.artifact("corpus")))
        facts["detail"] = f"{url} answered {found['prompt']!r} with {_shown(found['text'])!r}"
    return found


def _shown(text: str) -> str:
    """The beginning of it in one line, each run of blanks as one."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"


def _complete(client: _Client, model: str, loaded: LoadedModel) -> dict[str, Any]:
    """Have `serve.prompt` continued; where it and the answer are longer than the model's context, both are cut."""
    prompt: str | list[int] = client.section.prompt
    tokens, context, vocabulary = client.section.prompt_tokens, loaded.sizes.sequence_length, loaded.tokenizer
    if context is not None and vocabulary is not None:
        given = vocabulary.encode(client.section.prompt).tolist()
        room = context - min(tokens, context // 2)
        if len(given) > room:
            prompt = given = given[-room:]
        tokens = min(tokens, context - max(1, len(given)))
    body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": _TEMPERATURE, "seed": 0}
    reply = client.post("/v1/completions", _json(body))
    asked = prompt if vocabulary is None or isinstance(prompt, str) else vocabulary.decode(prompt)
    return {"prompt": asked, "text": reply["choices"][0]["text"], "usage": reply["usage"]}


def _infer(client: _Client, model: str, corpus: Shards) -> dict[str, Any]:
    """Ask for a few samples of the validation split (else of the training split), as a client would send them."""
    split = "validation" if corpus.rows("validation") else "train"
    columns = corpus.gather(split, np.arange(min(_SAMPLES, corpus.rows(split))))
    name = next(column for column in ("text", "features", "pixels") if column in columns)
    values: Any = columns[name]
    if name == "features" and corpus.info["statistics"]:
        values = _as_measured(values, corpus.info["statistics"])
    count, body = _largest(client, name, values)
    reply = client.post(f"/v2/models/{model}/infer", body)
    outputs = {output["name"]: output["data"] for output in reply["outputs"]}
    return {"prompt": f"{count} {split} samples ({name})", "text": json.dumps(outputs), "outputs": outputs}


def _largest(client: _Client, name: str, values: Any) -> tuple[int, bytes]:
    """How many of `values` the server takes at once, and the request for them. Raises RunFailed if not even one."""
    limit = client.section.body_bytes
    for count in range(len(values), 0, -1):
        body = _json({"inputs": [_tensor(name, values[:count])]})
        if len(body) <= limit:
            return count, body
    raise RunFailed(
        f"serve: one sample makes a request of {len(body)} bytes, expected at most serve.body_bytes = {limit}",
        hint=f"raise serve.body_bytes: {client.mend}",
    )


def _tensor(name: str, values: Any) -> dict[str, Any]:
    if name == "text":
        return {"name": name, "shape": [len(values)], "datatype": "BYTES", "data": values}
    kind = "FP32" if name == "features" else "UINT8"
    return {"name": name, "shape": list(values.shape), "datatype": kind, "data": values.ravel().tolist()}


def _json(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def _as_measured(features: NDArray[Any], statistics: Mapping[str, Any]) -> NDArray[Any]:
    """Standardised features [n, F] back in their own units: a client knows nothing of the training split's mean."""
    raw: NDArray[Any] = features * np.asarray(statistics["deviation"]) + np.asarray(statistics["mean"])
    return raw
