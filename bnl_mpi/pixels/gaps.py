"""`--fill_gaps`: invalid areas take values interpolated from their edges, so that wavelets don't ring there.

Each invalid pixel gets the mean of the nearest valid pixels above, below, left and right, weighted by the
inverse of their distance.  Module gaps are the same in every image, so where they look is found once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import kernels

Array = np.ndarray[Any, Any]

_FARTHEST = 65535
"""Sides that the compiled code takes."""


def _nearest_before(valid: Array, axis: int) -> Array:
    """For every pixel the index along `axis` of the last valid pixel up to it, or -1."""
    n = valid.shape[axis]
    index = np.arange(n, dtype=np.int32).reshape((-1, 1) if axis == 0 else (1, -1))
    found: Array = np.maximum.accumulate(np.where(valid, index, -1), axis=axis)
    return found


def _distances(invalid: Array, pixels: Array) -> Array:
    """`Filler.distances` of some invalid pixels."""
    y, x = np.divmod(pixels.astype(np.int64), invalid.shape[1])
    valid = np.asarray(invalid) == 0
    distances = []
    for axis in (0, 1):
        here, other = (y, x) if axis == 0 else (x, y)
        # Of the lines across which nobody looks nothing is needed.
        lines, line = np.unique(other, return_inverse=True)
        looked_at = valid.take(lines, axis=1 - axis)
        for flip in (False, True):
            nearest = _nearest_before(np.flip(looked_at, axis) if flip else looked_at, axis)
            nearest = np.flip(nearest, axis) if flip else nearest
            at = nearest[here, line] if axis == 0 else nearest[line, here]
            there = valid.shape[axis] - 1 - at if flip else at
            distances.append(np.where(at >= 0, np.abs(here - there), 0))
    return np.stack(distances, axis=1)


class Filler:
    """Fills the pixels where `invalid`, (ny, nx), is not 0, or of these `pixels` alone; indices are flat,
    slow * nx + fast."""

    def __init__(self, invalid: Array, pixels: Array | None = None) -> None:
        compiled, self._nx = kernels.compiled(), invalid.shape[1]
        dtype = np.uint16 if max(invalid.shape) <= _FARTHEST else np.uint32
        self.pixels = (np.flatnonzero(invalid) if pixels is None else pixels).astype(np.uint32)
        if pixels is None and compiled is not None and len(self.pixels) and dtype == np.uint16:
            self.distances = np.empty((len(self.pixels), 4), dtype)
            """(n, 4): how far the pixels above, below, left and right are that each takes its value from; 0: none."""
            compiled.gap_distances(np.ascontiguousarray(invalid, np.uint8), self.distances)
        else:
            self.distances = _distances(invalid, self.pixels).astype(dtype)

    def sources(self) -> Array:
        """(n, 4): the pixels that each takes its value from; itself where there is none."""
        steps = np.array([-self._nx, self._nx, -1, 1])
        return np.asarray(self.pixels[:, None].astype(np.int64) + self.distances * steps)

    def fill(self, values: Array) -> None:
        """Write into `values`, (ny, nx) of integers or floats, in place; integers are rounded."""
        compiled, distances = kernels.compiled(), self.distances
        known = values.dtype in (np.uint16, np.int32) and distances.dtype == np.uint16
        if compiled is not None and len(self.pixels) and known:
            compiled.fill_gaps(values, self.pixels, distances)
            return
        flat = values.reshape(-1)
        weights = np.where(distances > 0, 1.0 / np.maximum(distances, 1), 0.0)
        sources, total, mean = self.sources(), np.zeros(len(self.pixels)), np.zeros(len(self.pixels))
        # In this order, as the compiled code does: halves are rounded.
        for k in range(4):
            total += weights[:, k]
        for k in range(4):
            mean += flat[sources[:, k]] * (weights[:, k] / np.where(total > 0, total, 1.0))
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
            astray = pixels[self._static.sources()].any(axis=1)
            pixels[self._static.pixels[astray]] = True
        Filler(own.reshape(values.shape), np.flatnonzero(pixels)).fill(values)
