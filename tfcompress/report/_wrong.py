"""Images that a model got wrong, small enough for a page."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import numpy as np

__all__ = ["as_png", "is_image"]

_SIDE = 96  # pixels along the longer side of a picture


def is_image(shape: tuple[Any, ...]) -> bool:
    """Whether an input of this shape, without the batch, is a picture."""
    return len(shape) == 3 and shape[-1] in (1, 3)


def as_png(image: np.ndarray) -> str:
    """A picture of shape (height, width, 1 or 3) as a PNG file in base64.

    Values are stretched to the full range; large pictures are thinned out.
    """
    step = max(1, -(-max(image.shape[:2]) // _SIDE))
    pixels = image[::step, ::step].astype("float64")
    low, high = np.nanmin(pixels), np.nanmax(pixels)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif low >= 0 and high <= 255:
        low, high = 0.0, 255.0
    elif low >= -1 and high <= 1:
        low, high = -1.0, 1.0
    scaled = np.nan_to_num((pixels - low) / max(high - low, 1e-12))
    data = np.clip(np.rint(255 * scaled), 0, 255).astype("uint8")
    # A PNG needs no imaging package: a signature, a header (size, 8 bits, gray or
    # RGB), and the rows, each after a byte for "no filter", compressed with zlib.
    height, width, channels = data.shape
    rows = b"".join(b"\0" + row.tobytes() for row in data)
    header = struct.pack(
        ">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0
    )
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)
    return base64.b64encode(png).decode("ascii")


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check
