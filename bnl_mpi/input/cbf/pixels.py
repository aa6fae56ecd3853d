"""The pixels of one CBF file."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import numpy as np

from ...errors import InputError
from ...pixels import kernels
from .header import Binary, Header, open_to_pixels

Array = np.ndarray[Any, Any]


def decode(data: Any, binary: Binary, out: Array) -> None:
    """Put the pixels into `out`, (ny, nx) of the binary's type; ValueError where they are corrupt."""
    wide = out if out.dtype.itemsize == 4 else np.empty(out.shape, np.int32)
    taken = kernels.byte_offset_decode(data, wide)
    if taken < binary.size and not _sum_fits(data, binary):
        raise ValueError(f"corrupt: all pixels are there after {taken} of {binary.size} bytes")
    if wide is not out:
        out[...] = wide.astype(out.dtype)


def _sum_fits(data: Any, binary: Binary) -> bool:
    """Whether the header's checksum says that the data are what was written, be they longer than needed."""
    return binary.md5 == base64.b64encode(hashlib.md5(bytes(data), usedforsecurity=False).digest()).decode()


def read_pixels(header: Header) -> Array:
    """(ny, nx): a file's pixels; InputError where they can't be read."""
    if header.damage is not None:
        raise InputError(header.damage)
    out = np.empty(header.binary.shape, header.binary.dtype)
    try:
        opened = open_to_pixels(header.path)
        with opened.file:
            decode(opened.pixels(header.binary.size), header.binary, out)
    except (OSError, ValueError) as error:
        raise InputError(f"{header.path}: can't be read: {error}; restore the file") from None
    return out
