"""Strong pixels and their components in NumPy; the functions are those of `bnl_mpi.pixels.strong`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

GREATEST = (1 << 24) - 1
"""Counts above it are taken for it, so that no sum of squares leaves 63 bits."""


def _window_sums(values: Array, kernel: int) -> Array:
    """Sums of (ny, nx) int64 over (2k+1) x (2k+1) pixels, fewer at the edges, from a summed-area table."""
    ny, nx = values.shape
    table = np.zeros((ny + 1, nx + 1), np.int64)
    np.cumsum(np.cumsum(values, axis=0), axis=1, out=table[1:, 1:])
    y, x = np.arange(ny), np.arange(nx)
    y0, y1 = np.maximum(y - kernel, 0), np.minimum(y + kernel + 1, ny)
    x0, x1 = np.maximum(x - kernel, 0), np.minimum(x + kernel + 1, nx)
    rows = table[y1] - table[y0]
    summed: Array = rows[:, x1] - rows[:, x0]
    return summed


def strong_pixels(
    frame: Array,
    mask: Array | None,
    top: int,
    kernel: int,
    min_count: int,
    nsigma_b: float,
    nsigma_s: float,
    threshold: float,
    strong: Array,
) -> int:
    """Set `strong` and count; see `bnl_mpi.pixels.strong.strong_pixels`."""
    valid = frame <= top
    if mask is not None:
        valid &= np.asarray(mask) == 0
    value = np.where(valid, np.minimum(frame.astype(np.int64), GREATEST), 0)
    m, x, y = (_window_sums(v, kernel) for v in (valid.astype(np.int64), value, value * value))
    spread = (m * y - x * x - x * (m - 1)).astype(np.float64)
    above = (m * value - x).astype(np.float64)
    wide = spread > x.astype(np.float64) * nsigma_b * np.sqrt(2.0 * np.maximum(m - 1, 0))
    high = above > nsigma_s * np.sqrt(m.astype(np.float64) * x)
    strong[...] = valid & (value > threshold) & (m >= min_count) & wide & high
    return int(np.count_nonzero(strong))


def components(keys: Array, ny: int, nx: int, labels: Array) -> int:
    """Number the components; see `bnl_mpi.pixels.strong.components`."""
    first, second = _touching(keys, ny, nx)
    root = np.arange(len(keys))
    while True:
        least = np.minimum(root[first], root[second])
        lower = root.copy()
        np.minimum.at(lower, first, least)
        np.minimum.at(lower, second, least)
        lower = lower[lower]
        if np.array_equal(lower, root):
            break
        root = lower
    roots, numbered = np.unique(root, return_inverse=True)
    labels[...] = numbered
    return len(roots)


def _touching(keys: Array, ny: int, nx: int) -> tuple[Array, Array]:
    """Indices of the pairs of pixels that share a face."""
    firsts, seconds = [], []
    for step, row in ((1, nx), (nx, ny * nx), (ny * nx, 0)):
        wanted = keys + step
        at = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
        there = keys[at] == wanted
        if row:
            there &= wanted % row >= step
        firsts.append(np.flatnonzero(there))
        seconds.append(at[there])
    return np.concatenate(firsts), np.concatenate(seconds)
