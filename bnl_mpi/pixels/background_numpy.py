"""Regions kept and the background's level in NumPy: where nothing was compiled, and as the compiled code's oracle.

The functions are those of `bnl_mpi.pixels.background`, where arguments and results are described.
"""

from __future__ import annotations

import numpy as np

from .kernels_numpy import FLAG_INVALID, Array

LEVEL_BITS = 12
"""Levels are counts in fixed point: this many bits are after the point."""

LEVEL_ONE = 1 << LEVEL_BITS

POSITION_UNITS = 8
"""Positions and radii of discs are in eighths of a pixel."""

NEAR_SHARE = 32
"""A mean needs this share, at least, of the weight that a place with all its neighbours has."""

DITHER = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]])

_NOTHING = 0xFFFFFFFF


KEPT, ABSENT, AROUND = 1, 2, 4
"""Bits of a pixel's state; background has neither of the first two, AROUND says that a disc is near."""


def keep_discs(state: Array, discs: Array, bit: int = KEPT) -> None:
    """Set `bit` where a pixel's centre is within a disc, (n, 3) of x, y, r in eighths of a pixel."""
    ny, nx = state.shape
    y = np.arange(ny, dtype=np.int64) * POSITION_UNITS + POSITION_UNITS // 2
    x = np.arange(nx, dtype=np.int64) * POSITION_UNITS + POSITION_UNITS // 2
    for disc_x, disc_y, r in discs.astype(np.int64):
        rows, columns = np.abs(y - disc_y) <= r, np.abs(x - disc_x) <= r
        square = (y[rows, None] - disc_y) ** 2 + (x[None, columns] - disc_x) ** 2
        state[np.ix_(rows, columns)] |= (square <= r * r).astype(np.uint8) * np.uint8(bit)


def _grown(chosen: Array) -> Array:
    """`chosen` and the eight neighbours of each."""
    grown: Array = chosen.copy()
    for axis in (0, 1):
        before = grown.copy()
        ahead, behind = [slice(None)] * 2, [slice(None)] * 2
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        grown[tuple(ahead)] |= before[tuple(behind)]
        grown[tuple(behind)] |= before[tuple(ahead)]
    return grown


def _pooled(values: Array, size: int) -> Array:
    ny, nx = values.shape
    rows = np.add.reduceat(values, np.arange(0, ny, size), axis=0, dtype=np.int64)
    pooled: Array = np.add.reduceat(rows, np.arange(0, nx, size), axis=1, dtype=np.int64)
    return pooled


def _blurred(values: Array, weights: Array) -> Array:
    reach = len(weights) // 2
    for axis in (0, 1):
        padded = np.pad(values, [(reach, reach) if a == axis else (0, 0) for a in (0, 1)])
        n = values.shape[axis]
        values = np.zeros_like(values)
        for k, w in enumerate(weights):
            values += int(w) * padded.take(range(k, k + n), axis=axis)
    return values


def _means(total: Array, n: Array, cell_bits: int, weights: Array) -> Array:
    """The cells' levels: from coarser grids where there is too little near, 0 where there is nothing at all."""
    full, means = (1 << 2 * cell_bits) * 65536, []
    while True:
        blurred, near = _blurred(total, weights).astype(np.float64), _blurred(n, weights)
        level = np.floor(blurred * LEVEL_ONE / np.where(near > 0, near, 1) + 0.5).astype(np.int64)
        least = 1 if total.size == 1 else full / NEAR_SHARE
        means.append(np.where(near >= least, level, _NOTHING))
        if not (means[-1] == _NOTHING).any():
            break
        if total.size == 1:
            means[-1][:] = 0
            break
        total, n = _pooled(total, 2), _pooled(n, 2)
        full *= 4
    level = means.pop()
    while means:
        finer = means.pop()
        ny, nx = finer.shape
        wide = level.repeat(2, axis=0).repeat(2, axis=1)[:ny, :nx]
        level = np.where(finer == _NOTHING, wide, finer)
    return level


def _along(values: Array, n: int, size: int, axis: int) -> Array:
    """`values` at cells' centres, made `n` pixels along `axis`, linear between them."""
    at = 2 * np.arange(n) + 1 - size
    first = np.maximum(at, 0) // (2 * size)
    second = np.minimum(first + 1, values.shape[axis] - 1)
    part = np.where(at < 0, 0, at % (2 * size)).reshape((-1, 1) if axis == 0 else (1, -1))
    found: Array = (2 * size - part) * values.take(first, axis) + part * values.take(second, axis) + size
    return found // (2 * size)


def _means_of(values: Array, use: Array, cell_bits: int, weights: Array) -> Array:
    size = 1 << cell_bits
    total, n = _pooled(np.where(use, values, 0), size), _pooled(use, size)
    return _means(total, n, cell_bits, weights)


def levels(means: Array, shape: tuple[int, int], cell_bits: int) -> Array:
    """(ny, nx) int64: the level of each pixel, times 4096, between the means at cells' centres."""
    size, (ny, nx) = 1 << cell_bits, shape
    return _along(_along(means.astype(np.int64), ny, size, 0), nx, size, 1)


def find(values: Array, flags: Array, state: Array, means: Array, cell_bits: int, weights: Array, limit: int) -> Array:
    """See `bnl_mpi.pixels.background.Background.find`, but that discs are in `state` already.

    `means` of all cells are set, (cy, cx) uint32, times 4096.
    """
    counts, invalid = values.astype(np.int64), (flags & FLAG_INVALID) != 0
    saturated = ((state & ABSENT) == 0) & (invalid | (counts >= limit))
    state[invalid] |= ABSENT
    found = [np.flatnonzero(saturated)]
    state[_grown(saturated)] |= KEPT
    for search in range(3):
        means[...] = _means_of(counts, (state & (KEPT | ABSENT)) == 0, cell_bits, weights)
        now = levels(means, (values.shape[0], values.shape[1]), cell_bits)
        over = counts * LEVEL_ONE - now - LEVEL_ONE
        outliers = (
            ((state & (KEPT | ABSENT)) == 0) & (over > 0) & (over * over > 25 * (now + LEVEL_ONE // 2) * LEVEL_ONE)
        )
        if search == 2 or not outliers.any():
            break
        found.append(np.flatnonzero(outliers))
        state[_grown(outliers)] |= KEPT
    return np.concatenate(found).astype(np.uint32)


def _rounding(level: Array, wanted: int) -> int:
    """What is added to levels before they are cut to whole counts so that their sum is `wanted`, nearly."""
    n_of = np.bincount(level % LEVEL_ONE, minlength=LEVEL_ONE)
    up, start = int((level // LEVEL_ONE).sum()), LEVEL_ONE
    while start > 0 and up + n_of[start - 1] // 2 < wanted:
        start -= 1
        up += int(n_of[start])
    return LEVEL_ONE - start


def _thresholds(shape: tuple[int, ...]) -> Array:
    """(ny, nx): what is added to fractions of a count before they are cut."""
    ny, nx = shape
    tiled = np.tile(DITHER, (-(-ny // 4), -(-nx // 4)))[:ny, :nx]
    return np.asarray(tiled * (LEVEL_ONE // 16) + LEVEL_ONE // 32)


def dithered(levels: Array) -> Array:
    """Levels, (ny, nx), as whole counts: one of the two next to each, by its place, so that sums stay true."""
    return np.asarray((levels + _thresholds(levels.shape)) // LEVEL_ONE)


def apply(values: Array, state: Array, level: Array, limit: int, low_level: int) -> tuple[int, int]:
    """See `bnl_mpi.pixels.background.Background.apply`; `level`: of each pixel, times 4096."""
    counts, levels = values.astype(np.int64), level.astype(np.int64)
    valid, kept = (state & ABSENT) == 0, (state & (KEPT | ABSENT)) == KEPT
    low = levels < low_level
    moved = kept & ~low
    near = valid & ~kept & low & ((state & AROUND) != 0)
    rounded = valid & ~kept & ~near
    before = int(counts[valid].sum())
    wanted = int(counts[rounded].sum()) + (int(levels[moved].sum()) + LEVEL_ONE // 2) // LEVEL_ONE
    whole = np.minimum((levels + _rounding(levels[rounded | moved], wanted)) // LEVEL_ONE, limit)
    change = dithered(whole * LEVEL_ONE - levels)
    counts = np.where(moved & (counts < limit), np.clip(counts + change, 0, limit), counts)
    counts = np.where(near, dithered(levels), counts)
    up = _rounding(levels[rounded], max(0, before - int(counts[kept | near].sum())))
    counts = np.where(kept | near, counts, np.minimum((levels + up) // LEVEL_ONE, limit))
    values[...] = counts
    return before, int(counts[valid].sum())
