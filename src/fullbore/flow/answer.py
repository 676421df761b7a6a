"""The last stage of a run: the model is served on loopback and asked something, over HTTP."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullbore.data.shards import Shards
from fullbore.flow.serve import load_model, model_folder
from fullbore.flow.session import Session
from fullbore.record.ledger import State
from fullbore.serve import run as server

_SAMPLES = 4
_SECONDS = 60
_SHOWN = 60
_TEMPERATURE = 0.7


def answer(session: Session) -> dict[str, Any]:
    """Serve the run's model on a free port, ask it once, return what was asked and answered."""
    section = session.job.serve
    assert section is not None
    with session.stage("serve") as facts, session.recorder.state(State.SERVE):
        models = load_model(model_folder(str(session.run.paths.folder)))
        [name] = models
        with server.background(models, section.model_copy(update={"port": 0})) as url:
            if session.job.task is not None and session.job.task.kind == "causal_lm":
                found = _complete(url, name, section.prompt, section.prompt_tokens)
            else:
                found = _infer(url, name, session)
        facts["detail"] = f"{url} answered {found['prompt']!r} with {_shown(found['text'])!r}"
    return found


def _shown(text: str) -> str:
    """The beginning of it in one line, each run of blanks as one."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=_SECONDS) as response:
        return dict(json.load(response))


def _complete(url: str, model: str, prompt: str, tokens: int) -> dict[str, Any]:
    body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": _TEMPERATURE, "seed": 0}
    reply = _post(f"{url}/v1/completions", body)
    return {"prompt": prompt, "text": reply["choices"][0]["text"], "usage": reply["usage"]}


def _infer(url: str, model: str, session: Session) -> dict[str, Any]:
    """Ask for a few samples of the validation split (else of the training split), as a client would send them."""
    corpus = Shards(session.run.paths.artifact("corpus"))
    split = "validation" if corpus.rows("validation") else "train"
    columns = corpus.gather(split, np.arange(min(_SAMPLES, corpus.rows(split))))
    name = next(column for column in ("text", "features", "pixels", "image") if column in columns)
    values = columns[name]
    if name == "features" and corpus.info["statistics"]:
        values = _as_measured(np.asarray(values), corpus.info["statistics"])
    if name == "text":
        tensor = {"name": name, "shape": [len(values)], "datatype": "BYTES", "data": list(values)}
    else:
        array = np.asarray(values)
        kind = "FP32" if name == "features" else "UINT8"
        tensor = {"name": name, "shape": list(array.shape), "datatype": kind, "data": array.ravel().tolist()}
    reply = _post(f"{url}/v2/models/{model}/infer", {"inputs": [tensor]})
    outputs = {output["name"]: output["data"] for output in reply["outputs"]}
    return {"prompt": f"{len(values)} {split} samples ({name})", "text": json.dumps(outputs), "outputs": outputs}


def _as_measured(features: NDArray[Any], statistics: Mapping[str, Any]) -> NDArray[Any]:
    """Standardised features [n, F] back in their own units: a client knows nothing of the training split's mean."""
    raw: NDArray[Any] = features * np.asarray(statistics["deviation"]) + np.asarray(statistics["mean"])
    return raw
