"""PNG files of 8-bit palettes, as small as zlib makes them."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Colour = tuple[int, int, int]


def encode(indices: Array, palette: Sequence[Colour]) -> bytes:
    """A PNG of (height, width) indices into at most 256 colours."""
    height, width = indices.shape
    rows = np.zeros((height, width + 1), np.uint8)
    rows[:, 1:] = indices
    colours = b"".join(bytes(colour) for colour in palette)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", colours),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )


def data_url(png: bytes) -> str:
    """What an `src` takes."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def gradient(stops: Sequence[str], n: int) -> list[Colour]:
    """`n` colours from the first `#rrggbb` to the last, evenly through the others."""
    points = np.array([[int(stop[k : k + 2], 16) for k in (1, 3, 5)] for stop in stops], float)
    at = np.linspace(0, len(stops) - 1, n)
    mixed = [np.interp(at, np.arange(len(stops)), points[:, k]) for k in range(3)]
    return [(int(r), int(g), int(b)) for r, g, b in np.rint(np.stack(mixed, axis=1))]
