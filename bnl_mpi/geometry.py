"""Maps with one value a pixel, binned: masks, flat fields.  All arrays are (slow, fast)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def binned_shape(shape: tuple[int, int], binning: int) -> tuple[int, int]:
    """(slow, fast) over the binning, rounded up."""
    return -(-shape[0] // binning), -(-shape[1] // binning)


def _starts(n: int, binning: int) -> npt.NDArray[np.intp]:
    return np.arange(0, n, binning, dtype=np.intp)


def _over_bins(ufunc: np.ufunc, values: npt.NDArray[Any], binning: int) -> npt.NDArray[Any]:
    """Reduce b x b pixels by `ufunc`; a bin at the edge has fewer pixels, the absent ones don't count."""
    ny, nx = values.shape
    rows = ufunc.reduceat(values, _starts(ny, binning), axis=0)
    result: npt.NDArray[Any] = ufunc.reduceat(rows, _starts(nx, binning), axis=1)
    return result


def bin_mask(mask: npt.NDArray[Any], binning: int) -> npt.NDArray[np.uint32]:
    """The bits that any of the b x b pixels has: uint32, shape rounded up.

    The part of an edge bin that lies outside of the detector is absent, not masked.
    """
    bits = np.ascontiguousarray(mask).astype(np.uint32, copy=False)
    return _over_bins(np.bitwise_or, bits, binning).astype(np.uint32, copy=False)


def mask_blank(mask: npt.NDArray[Any], binning: int) -> npt.NDArray[np.uint8]:
    """1 where every one of the b x b pixels is flagged, else 0: the pixels that no sum can fill."""
    flagged = np.asarray(mask) != 0
    return _over_bins(np.logical_and, flagged, binning).astype(np.uint8)


def bin_mean(
    values: npt.NDArray[Any], mask: npt.NDArray[Any] | None, binning: int
) -> npt.NDArray[np.float64]:
    """Mean over the valid pixels (mask 0, finite) of b x b; over all finite ones where none is valid.

    A bin without a finite value gives 0.
    """
    floats = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(floats)
    clean = np.where(finite, floats, 0.0)
    valid = finite if mask is None else finite & (np.asarray(mask) == 0)
    mean, n_valid = _mean(clean, valid, binning)
    if mask is not None and not n_valid.all():
        spare, _ = _mean(clean, finite, binning)
        mean = np.where(n_valid > 0, mean, spare)
    return mean


def _mean(
    values: npt.NDArray[np.float64], valid: npt.NDArray[np.bool_], binning: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    count = _over_bins(np.add, valid.astype(np.int64), binning)
    total = _over_bins(np.add, values * valid, binning)
    return total / np.maximum(count, 1), count
