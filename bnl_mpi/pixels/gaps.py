"""`--fill_gaps`: invalid areas take values interpolated from their edges, so that wavelets don't ring there.

Each invalid pixel gets the mean of the nearest valid pixels above, below, left and right, weighted by the
inverse of their distance.  Module gaps are the same in every image, so where they look is found once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import kernels

Array = np.ndarray[Any, Any]


def _nearest_before(valid: Array, axis: int) -> Array:
    """For every pixel the index along `axis` of the last valid pixel up to it, or -1."""
    n = valid.shape[axis]
    index = np.arange(n, dtype=np.int32).reshape((-1, 1) if axis == 0 else (1, -1))
    found: Array = np.maximum.accumulate(np.where(valid, index, -1), axis=axis)
    return found


def _sources(invalid: Array, pixels: Array) -> tuple[Array, Array]:
    """`Filler.sources` of some invalid pixels, and what each counts."""
    y, x = np.divmod(pixels.astype(np.int64), invalid.shape[1])
    valid = np.asarray(invalid) == 0
    sources, weights = [], []
    for axis in (0, 1):
        here, other = (y, x) if axis == 0 else (x, y)
        # Of the lines across which nobody looks nothing is needed.
        lines, line = np.unique(other, return_inverse=True)
        looked_at = valid.take(lines, axis=1 - axis)
        for flip in (False, True):
            nearest = _nearest_before(np.flip(looked_at, axis) if flip else looked_at, axis)
            nearest = np.flip(nearest, axis) if flip else nearest
            at = nearest[here, line] if axis == 0 else nearest[line, here]
            found = at >= 0
            at = np.where(found, valid.shape[axis] - 1 - at if flip else at, here)
            sources.append(at * valid.shape[1] + x if axis == 0 else y * valid.shape[1] + at)
            weights.append(np.where(found, 1.0 / np.maximum(np.abs(here - at), 1), 0.0))
    total = np.sum(weights, axis=0)
    return np.array(sources, np.uint32), np.array(weights) / np.where(total > 0, total, 1.0)


class Filler:
    """Fills the pixels where `invalid`, (ny, nx), is not 0, or of these `pixels` alone; indices are flat,
    slow * nx + fast."""

    def __init__(self, invalid: Array, pixels: Array | None = None) -> None:
        compiled = kernels.compiled()
        if pixels is None and compiled is not None and invalid.any():
            invalid = np.ascontiguousarray(invalid, np.uint8)
            self.pixels = np.flatnonzero(invalid).astype(np.uint32)
            self.sources = np.empty((4, len(self.pixels)), np.uint32)
            """(4, n): the pixels that each takes its value from; itself where there is none."""
            self._weights = np.empty(self.sources.shape)
            compiled.gap_sources(invalid, self.sources, self._weights)
        else:
            self.pixels = (np.flatnonzero(invalid) if pixels is None else pixels).astype(np.uint32)
            self.sources, self._weights = _sources(invalid, self.pixels)

    def fill(self, values: Array) -> None:
        """Write into `values`, (ny, nx) of integers or floats, in place; integers are rounded."""
        compiled = kernels.compiled()
        if compiled is not None and len(self.pixels) and values.dtype in (np.uint16, np.int32):
            compiled.fill_gaps(values, self.pixels, self.sources, self._weights)
            return
        flat = values.reshape(-1)
        mean = np.einsum("ij,ij->j", flat[self.sources].astype(np.float64), self._weights)
        flat[self.pixels] = np.rint(mean) if values.dtype.kind in "iu" else mean


class GapFiller:
    """Fills the static gaps `blank`, and what is invalid in one image besides."""

    def __init__(self, blank: Array | None) -> None:
        self._static = Filler(blank) if blank is not None and blank.any() else None

    def fill(self, values: Array, invalid: Array | None) -> None:
        """`values` is (ny, nx), as is `invalid`: not 0 where a pixel is, gaps included; None where only gaps are."""
        if self._static is not None:
            self._static.fill(values)
        if invalid is None:
            return
        own = np.asarray(invalid).reshape(-1) != 0
        pixels = own.copy()
        if self._static is not None:
            pixels[self._static.pixels] = False
            # Gap pixels that would look at one of these look further.
            astray = pixels[self._static.sources].any(axis=0)
            pixels[self._static.pixels[astray]] = True
        Filler(own.reshape(values.shape), np.flatnonzero(pixels)).fill(values)
