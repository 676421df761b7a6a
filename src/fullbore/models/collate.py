"""From columns of samples to batches of tensors: padding, pixels, features. Pure functions of their arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fullbore.base.errors import InputError

Columns = Mapping[str, Any]
Batch = dict[str, Tensor]
MULTIPLE = 8


def rows(column: Any) -> Tensor:
    """Token rows of one length as int32 [B, T]."""
    return torch.from_numpy(np.asarray(column).astype(np.int32))


def padded(column: Sequence[NDArray[Any]], pad: int) -> Batch:
    """Token lists as int32 [B, T] and their mask [B, T]; T is the longest, rounded up to a multiple of 8."""
    longest = max((len(cell) for cell in column), default=0)
    length = max(MULTIPLE, -(-longest // MULTIPLE) * MULTIPLE)
    tokens = np.full((len(column), length), pad, np.int32)
    mask = np.zeros((len(column), length), np.bool_)
    for row, cell in enumerate(column):
        tokens[row, : len(cell)] = cell
        mask[row, : len(cell)] = True
    return {"tokens": torch.from_numpy(tokens), "attention_mask": torch.from_numpy(mask)}


def pixels(column: Any) -> Tensor:
    """Images as uint8 [B, C, H, W], from [B, H, W], [B, C, H, W] or [B, H, W, C] with 1, 3 or 4 channels."""
    images = np.asarray(column)
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise InputError(
            f"pixels: found {images.dtype} of shape {images.shape}, expected uint8 [B, H, W] or [B, C, H, W]"
        )
    if images.ndim == 3:
        images = images[:, None]
    elif images.shape[1] not in (1, 3, 4) and images.shape[3] in (1, 3, 4):
        images = images.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(images))


def image_shape(cell: Sequence[int]) -> tuple[int, int, int]:
    """Channels, height, width of a stored image's shape, by the rule of `pixels`."""
    _, channels, height, width = pixels(np.zeros((1, *cell), np.uint8)).shape
    return channels, height, width


def inputs(columns: Columns, pad: int) -> Batch:
    """What a network reads of `columns`: tokens with their mask, pixels, or features."""
    if "tokens" in columns:
        return padded(columns["tokens"], pad)
    if "pixels" in columns:
        return {"pixels": pixels(columns["pixels"])}
    if "features" in columns:
        return {"features": torch.from_numpy(np.asarray(columns["features"], np.float32))}
    raise InputError(f"samples: found columns {', '.join(columns) or 'none'}, expected tokens, pixels or features")
