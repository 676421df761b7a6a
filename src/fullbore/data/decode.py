"""Images to pixels: JPEG through simplejpeg, PNG (and JPEG in CMYK) through Pillow."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def decode(content: bytes, size: int | None = None) -> Pixels:
    """uint8 [3, H, W] of a JPEG or PNG, resized to `size` × `size` if given. Raises ValueError with the reason.

    16 bits a channel are scaled to 8. A JPEG is decoded at the smallest of libjpeg's scales that is no smaller than
    `size`.
    """
    if content[:2] == b"\xff\xd8" and simplejpeg.is_jpeg(content):
        space = simplejpeg.decode_jpeg_header(content)[2]
        if space not in ("CMYK", "YCCK"):
            least = {"min_height": size, "min_width": size, "min_factor": 1} if size else {}
            return resize(simplejpeg.decode_jpeg(content, "RGB", **least).transpose(2, 0, 1), size)
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            pixels = np.asarray(_eight_bits(image).convert("RGB"))
    except (OSError, SyntaxError, EOFError, struct.error, zlib.error, Image.DecompressionBombError) as error:
        raise ValueError(f"not a whole JPEG or PNG ({str(error).splitlines()[0][:120]})") from None
    return resize(pixels.transpose(2, 0, 1), size)


def _eight_bits(image: Image.Image) -> Image.Image:
    """A greyscale PNG of 16 bits (modes I;16 and I, which `convert` would clip at 255) as one of 8."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray(((np.asarray(image, np.uint32) * 255 + 32767) // 65535).astype(np.uint8))


def resize(pixels: Pixels, size: int | None) -> Pixels:
    """uint8 [C, size, size] of `pixels` (uint8 [C, H, W]), contiguous; bilinear, with the area below each pixel."""
    if size is None or pixels.shape[1:] == (size, size):
        return np.ascontiguousarray(pixels)
    planes = [
        Image.fromarray(np.ascontiguousarray(plane)).resize((size, size), Image.Resampling.BILINEAR) for plane in pixels
    ]
    return np.stack([np.asarray(plane) for plane in planes])
