"""What people send to a model, as a batch; what the model says, as they read it. The doors share it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fullbore.base.errors import InputError
from fullbore.models import collate
from fullbore.models.collate import Batch, Columns
from fullbore.models.supervised import answers
from fullbore.models.weights import LoadedModel


def preprocess(loaded: LoadedModel, inputs: Sequence[Any]) -> Batch:
    """Texts, rows of features as they were measured, or images (uint8) as the batch that the network reads.

    Raises InputError naming what does not fit the model.
    """
    if not len(inputs):
        raise InputError("inputs: found none, expected at least one")
    return collate.inputs(columns(loaded, inputs), loaded.tokenizer.pad if loaded.tokenizer is not None else 0)


def columns(loaded: LoadedModel, inputs: Sequence[Any]) -> Columns:
    """The same as columns, before they are padded and stacked."""
    sizes = loaded.sizes
    if sizes.image is not None:
        return {"pixels": _pixels(inputs, sizes.image)}
    if sizes.features is not None:
        return {"features": standardised(loaded, _features(inputs, sizes.features))}
    wrong = next((type(item).__name__ for item in inputs if not isinstance(item, str)), None)
    if wrong is not None:
        raise InputError(f"inputs: found {wrong}, expected text")
    if loaded.tokenizer is None:
        raise InputError(f"{loaded.name}: has no tokenizer, so it cannot read text")
    return {"tokens": loaded.tokenizer.encode_batch(list(inputs), limit=sizes.sequence_length)}


def _features(inputs: Sequence[Any], width: int) -> np.ndarray[Any, Any]:
    try:
        rows = np.asarray(inputs, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"inputs: expected rows of {width} numbers") from None
    if rows.ndim != 2 or rows.shape[1] != width:
        raise InputError(f"inputs: found shape {list(rows.shape)}, expected [{len(inputs)}, {width}]")
    if not np.isfinite(rows).all():
        raise InputError("inputs: found NaN or infinite features, expected finite numbers")
    return rows


def _pixels(inputs: Sequence[Any], image: tuple[int, int, int]) -> np.ndarray[Any, Any]:
    try:
        images = np.asarray(inputs)
        fits = images.dtype.kind in "iu" and images.size and images.min() >= 0 and images.max() <= 255
        pixels = collate.pixels(images.astype(np.uint8)) if fits else None
    except (TypeError, ValueError, InputError):
        pixels = None
    if pixels is None or tuple(pixels.shape[1:]) != image:
        raise InputError(f"inputs: expected images of {list(image)} (channels, height, width), integers from 0 to 255")
    return pixels.numpy()


def standardised(loaded: LoadedModel, features: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Features [B, F] as they were measured, on the scale that the model was trained on, float32."""
    statistics = loaded.statistics or {}
    if statistics.get("mean") is not None:
        features = (features - np.asarray(statistics["mean"])) / np.asarray(statistics["deviation"])
    return features.astype(np.float32)


def postprocess(loaded: LoadedModel, outputs: Tensor) -> list[dict[str, Any]]:
    """Outputs [B, N] as {"label", "score", "scores"} of the likeliest class, or {"value"} in the target's own units."""
    if loaded.task.kind == "regression":
        statistics = loaded.statistics or {}
        deviation = float(statistics.get("target_deviation") or 1)
        mean = float(statistics.get("target_mean") or 0)
        return [{"value": value * deviation + mean} for value in outputs.double().reshape(-1).tolist()]
    probabilities = outputs.float().softmax(-1)
    names = loaded.classes or tuple(str(number) for number in range(probabilities.shape[-1]))
    return [
        {"label": names[best], "score": row[best], "scores": dict(zip(names, row, strict=True))}
        for row, best in zip(probabilities.tolist(), probabilities.argmax(-1).tolist(), strict=True)
    ]


def predict(loaded: LoadedModel, inputs: Sequence[Any]) -> list[dict[str, Any]]:
    """One answer for each input. Raises InputError if the model answers with tokens, or an input does not fit."""
    if loaded.task.kind not in ("classification", "regression"):
        raise InputError(f"{loaded.name}: does {loaded.task.kind}, which predicts tokens; use generate")
    batch = preprocess(loaded, inputs)
    with torch.inference_mode():
        return postprocess(loaded, answers(loaded.module, batch))
