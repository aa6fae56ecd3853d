"""Maps with one value a pixel, binned: masks, flat fields.  All arrays are (slow, fast)."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

STRIP_BYTES = 1 << 20
"""A map is averaged in strips of rows that a cache holds."""


def binned_shape(shape: tuple[int, int], binning: int) -> tuple[int, int]:
    """(slow, fast) over the binning, rounded up."""
    return -(-shape[0] // binning), -(-shape[1] // binning)


def unpacked(packed: bytes, shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """(ny, nx) uint8, 0 or 1: a mask of that shape, of deflated bits."""
    bits = np.frombuffer(zlib.decompress(packed), np.uint8)
    return np.unpackbits(bits, count=shape[0] * shape[1]).reshape(shape)


def _over_bins(ufunc: np.ufunc, values: Array, binning: int) -> Array:
    """Reduce b x b pixels by `ufunc`; a bin at the edge has fewer pixels, the absent ones don't count."""
    return np.ascontiguousarray(_over_rows(ufunc, _over_rows(ufunc, values, binning).T, binning).T)


def _over_rows(ufunc: np.ufunc, values: Array, binning: int) -> Array:
    """One strided pass a row of the bin: several times as fast as ufunc.reduceat."""
    result: Array = values[::binning].copy()
    for row in range(1, binning):
        part = values[row::binning]
        ufunc(result[: len(part)], part, out=result[: len(part)])
    return result


def bin_mask(mask: npt.NDArray[Any], binning: int) -> npt.NDArray[np.uint32]:
    """The bits that any of the b x b pixels has: uint32, shape rounded up.

    The part of an edge bin that lies outside of the detector is absent, not masked.
    """
    bits = np.ascontiguousarray(mask).astype(np.uint32, copy=False)
    return _over_bins(np.bitwise_or, bits, binning)


def mask_blank(mask: npt.NDArray[Any], binning: int) -> npt.NDArray[np.uint8]:
    """1 where every one of the b x b pixels is flagged, else 0: the pixels that no sum can fill."""
    ny, nx = binned_shape((mask.shape[0], mask.shape[1]), binning)
    blank = np.empty((ny, nx), np.uint8)
    # In strips, so that no other map of the mask's size is ever in memory.
    rows = max(1, STRIP_BYTES // (binning * mask.shape[1]))
    for at in range(0, ny, rows):
        flagged = mask[at * binning : (at + rows) * binning] != 0
        blank[at : at + rows] = _over_bins(np.logical_and, flagged, binning)
    return blank


def bin_mean(values: npt.NDArray[Any], mask: npt.NDArray[Any] | None, binning: int) -> npt.NDArray[np.float64]:
    """Mean over the valid pixels (mask 0, finite) of b x b; over all finite ones where none is valid.

    A bin without a finite value gives 0.
    """
    rows = max(1, STRIP_BYTES // (8 * binning * values.shape[1])) * binning
    strips = [
        _mean_of_strip(values[at : at + rows], None if mask is None else mask[at : at + rows], binning)
        for at in range(0, len(values), rows)
    ]
    return np.concatenate(strips)


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
