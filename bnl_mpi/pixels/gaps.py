"""`--fill_gaps`: invalid areas take values interpolated from their edges, so that wavelets don't ring there.

Each invalid pixel gets the mean of the nearest valid pixels above, below, left and right, weighted by the
inverse of their distance.  Module gaps are the same in every image, so where they look is found once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def _nearest_before(valid: Array, axis: int) -> Array:
    """For every pixel the index along `axis` of the last valid pixel up to it, or -1."""
    n = valid.shape[axis]
    index = np.arange(n, dtype=np.int32).reshape((-1, 1) if axis == 0 else (1, -1))
    found: Array = np.maximum.accumulate(np.where(valid, index, -1), axis=axis)
    return found


class Filler:
    """Fills the pixels where `invalid`, (ny, nx), is not 0; indices are flat, slow * nx + fast."""

    def __init__(self, invalid: Array) -> None:
        self.shape = invalid.shape
        ny, nx = invalid.shape
        self.pixels = np.flatnonzero(invalid)
        y, x = np.divmod(self.pixels, nx)
        valid = np.asarray(invalid) == 0
        sources, weights = [], []
        for axis, (size, here) in enumerate(((ny, y), (nx, x))):
            for flip in (False, True):
                looked = np.flip(valid, axis) if flip else valid
                nearest = _nearest_before(looked, axis)
                nearest = np.flip(nearest, axis) if flip else nearest
                at = nearest.reshape(-1)[self.pixels]
                found = at >= 0
                at = np.where(found, size - 1 - at if flip else at, here)
                sources.append(at * nx + x if axis == 0 else y * nx + at)
                weights.append(np.where(found, 1.0 / np.maximum(np.abs(here - at), 1), 0.0))
        self._sources = np.array(sources)
        total = np.sum(weights, axis=0)
        self._weights = np.array(weights) / np.where(total > 0, total, 1.0)

    def fill(self, values: Array) -> None:
        """Write into `values`, (ny, nx) of integers or floats, in place; integers are rounded."""
        flat = values.reshape(-1)
        mean = np.einsum("ij,ij->j", flat[self._sources].astype(np.float64), self._weights)
        flat[self.pixels] = np.rint(mean) if values.dtype.kind in "iu" else mean


class GapFiller:
    """Fills the static gaps `blank`, and what is invalid in one image besides."""

    def __init__(self, blank: Array | None) -> None:
        self._blank = blank
        self._static = Filler(blank) if blank is not None and blank.any() else None

    def fill(self, values: Array, invalid: Array) -> None:
        """`values` and `invalid` are (ny, nx); `invalid`, not 0 where a pixel is invalid, includes the gaps."""
        extra = np.asarray(invalid) != 0
        n_static = 0 if self._static is None else len(self._static.pixels)
        if np.count_nonzero(extra) == n_static:
            if self._static is not None:
                self._static.fill(values)
            return
        Filler(extra).fill(values)
