"""Maps with one value a pixel, binned: masks, flat fields.  All arrays are (slow, fast)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

STRIP_BYTES = 1 << 20
"""A map is averaged in strips of rows that a cache holds."""


def binned_shape(shape: tuple[int, int], binning: int) -> tuple[int, int]:
    """(slow, fast) over the binning, rounded up."""
    return -(-shape[0] // binning), -(-shape[1] // binning)


def packed(mask: Array) -> bytes:
    """Where a mask isn't 0, as deflated bits."""
    flat = mask.reshape(-1)
    # In pieces that a cache holds, of whole bytes.
    bits = [np.packbits(flat[at : at + STRIP_BYTES] != 0).tobytes() for at in range(0, len(flat), STRIP_BYTES)]
    return zlib.compress(b"".join(bits), 1)


def unpacked(packed: bytes, shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """(ny, nx) uint8, 0 or 1: a mask of that shape, of deflated bits."""
    bits = np.frombuffer(zlib.decompress(packed), np.uint8)
    return np.unpackbits(bits, count=shape[0] * shape[1]).reshape(shape)


def _over_bins(ufunc: np.ufunc, values: Array, binning: int) -> Array:
    """Reduce b x b pixels by `ufunc`; a bin at the edge has fewer pixels, the absent ones don't count."""
    # One strided pass a row or column of the bin: several times as fast as ufunc.reduceat.
    rows: Array = values[::binning].copy()
    for k in range(1, binning):
        part = values[k::binning]
        ufunc(rows[: len(part)], part, out=rows[: len(part)])
    result: Array = rows[:, ::binning].copy()
    for k in range(1, binning):
        part = rows[:, k::binning]
        ufunc(result[:, : part.shape[1]], part, out=result[:, : part.shape[1]])
    return result


def _strips(values: Array, binning: int, item_bytes: int) -> Iterator[tuple[slice, Array]]:
    """Rows of a map that a cache holds as items of so many bytes, and the rows of bins that they make.

    So no other map of that size is ever in memory.
    """
    rows = max(1, STRIP_BYTES // (item_bytes * binning * values.shape[1]))
    for at in range(0, -(-len(values) // binning), rows):
        yield slice(at, at + rows), values[at * binning : (at + rows) * binning]


def bin_mask(mask: npt.NDArray[Any], binning: int) -> npt.NDArray[np.uint32]:
    """The bits that any of the b x b pixels has: uint32, shape rounded up.

    The part of an edge bin that lies outside of the detector is absent, not masked.
    """
    binned = np.empty(binned_shape((mask.shape[0], mask.shape[1]), binning), np.uint32)
    for rows, strip in _strips(mask, binning, 4):
        binned[rows] = _over_bins(np.bitwise_or, strip.astype(np.uint32, copy=False), binning)
    return binned


def mask_blank(mask: npt.NDArray[Any], binning: int) -> npt.NDArray[np.uint8]:
    """1 where every one of the b x b pixels is flagged, else 0: the pixels that no sum can fill."""
    blank = np.empty(binned_shape((mask.shape[0], mask.shape[1]), binning), np.uint8)
    for rows, strip in _strips(mask, binning, 1):
        blank[rows] = _over_bins(np.logical_and, strip != 0, binning)
    return blank


def bin_mean(values: npt.NDArray[Any], mask: npt.NDArray[Any] | None, binning: int) -> npt.NDArray[np.float64]:
    """Mean over the valid pixels (mask 0, finite) of b x b; over all finite ones where none is valid.

    A bin without a finite value gives 0.
    """
    mean = np.empty(binned_shape((values.shape[0], values.shape[1]), binning))
    for rows, strip in _strips(values, binning, 8):
        under = None if mask is None else mask[rows.start * binning : rows.stop * binning]
        mean[rows] = _mean_of_strip(strip, under, binning)
    return mean


def _mean_of_strip(values: Array, mask: Array | None, binning: int) -> npt.NDArray[np.float64]:
    floats = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(floats)
    clean = np.where(finite, floats, 0.0)
    mean, n_valid = _mean(clean, finite if mask is None else finite & (mask == 0), binning)
    if mask is not None and not n_valid.all():
        spare, _ = _mean(clean, finite, binning)
        mean = np.where(n_valid > 0, mean, spare)
    return mean


def _mean(
    values: npt.NDArray[np.float64], valid: npt.NDArray[np.bool_], binning: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int32]]:
    count = _over_bins(np.add, valid.astype(np.int32), binning)
    total = _over_bins(np.add, values * valid, binning)
    return total / np.maximum(count, 1), count
