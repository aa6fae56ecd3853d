"""Regions of an image that are kept, and the smooth level of all else: `--keep`'s arithmetic.

The level is a local mean of the valid pixels that aren't kept, with weights that are near to a Gaussian's: counts are
pooled over cells of up to 8 x 8 pixels, blurred, divided, and interpolated between the cells' centres.  Integers, and
doubles that hold whole numbers exactly, so that the result is the same on every machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from . import background_numpy, kernels

Array = np.ndarray[Any, Any]

SIGMA = 8.0
"""Of the Gaussian, in pixels of a frame."""

LEAST_SIGMA = 1.0
"""The same in pixels of the image, at least: beyond bins of 8 nothing is left to be smoothed else."""

LARGEST_CELL_BITS = 3

LEVEL_ONE = background_numpy.LEVEL_ONE
POSITION_UNITS = background_numpy.POSITION_UNITS
KEPT, ABSENT, AROUND = background_numpy.KEPT, background_numpy.ABSENT, background_numpy.AROUND
dithered = background_numpy.dithered
EVERY_LEVEL = (1 << 32) - 1

_NO_DISCS = np.array([[-(1 << 20), -(1 << 20), 0]], np.int32)
"""One outside every image: the compiled code takes no empty array."""


@dataclass(frozen=True)
class Smoothing:
    """How the local mean is made."""

    cell_bits: int
    """Cells are of 2**cell_bits x 2**cell_bits pixels."""
    weights: Array
    """uint32, an odd number of them, 256 in sum: what neighbouring cells count along each axis."""


def smoothing(binning: int) -> Smoothing:
    """For images of pixels binned `binning` x `binning`."""
    sigma = max(SIGMA / binning, LEAST_SIGMA)
    bits = min(LARGEST_CELL_BITS, int(math.log2(sigma)))
    cell = 1 << bits
    # Pooling and interpolation spread, too: a box's and a triangle's variance.
    spread = 1 / 12 + 1 / 6 if cell > 1 else 0.0
    variance = (sigma / cell) ** 2 - spread
    reach = math.ceil(3 * math.sqrt(variance))
    shape = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * variance))
    weights = np.rint(256 * shape / shape.sum()).astype(np.int64)
    weights[reach] += 256 - weights.sum()
    return Smoothing(bits, weights.astype(np.uint32))


class Applied(NamedTuple):
    """What became of an image: counts of all valid pixels before and after, and the valid pixels that are kept."""

    sum_before: int
    sum_after: int
    kept: Array
    """Flat indices, uint32, in order."""


def keep_discs(state: Array, discs: Array, bit: int = KEPT) -> None:
    """Set `bit` where a pixel's centre is within a disc, (n, 3) of x, y, r in eighths of a pixel."""
    compiled = kernels.compiled()
    if compiled is None:
        background_numpy.keep_discs(state, discs, bit)
    elif len(discs):
        compiled.keep_discs(state, np.ascontiguousarray(discs, np.int32), bit)


class Room(NamedTuple):
    """Memory that `find` and `apply` use, made once: it is large, and new memory is slow."""

    indices: Array
    """uint32, one a pixel."""
    cells: Array
    """float64."""


def room_for(shape: tuple[int, int], how: Smoothing) -> Room:
    """For images of `shape`, (ny, nx)."""
    compiled = kernels.compiled()
    if compiled is None:
        return Room(np.empty(0, np.uint32), np.empty(0, np.float64))
    cells = np.empty(compiled.background_room(*shape, how.cell_bits) // 8, np.float64)
    return Room(np.empty(shape[0] * shape[1], np.uint32), cells)


def find(
    values: Array,
    flags: Array,
    state: Array,
    level: Array,
    discs: Array,
    how: Smoothing,
    limit: int,
    room: Room | None = None,
) -> Array:
    """Find what is to be kept of an image beside discs, and the level of the rest.

    That is what stands out of its surroundings, v > m + 5 sqrt(m + 1/2) + 1, twice over, with eight neighbours each,
    and the neighbours of saturated pixels and of pixels that are invalid by their value.

    Args:
        values: (ny, nx) uint16 counts, any at invalid pixels.
        flags: (ny, nx) uint8, as `kernels.finish` takes them.
        state: (ny, nx) uint8: KEPT where kept anyway, ABSENT where every image is invalid, else 0; what is found is
            added, and AROUND out to twice a disc's radius and half a pixel.
        level: (ny, nx) uint32, set to the local mean m, times 4096.
        discs: (n, 3) int32: x, y and radius in eighths of a pixel; kept where a pixel's centre is within.
        how: as `smoothing` gives it.
        limit: saturation value.
        room: as `room_for` makes it; None: it is made here.

    Returns:
        Flat indices (slow * nx + fast), uint32, of the pixels found, whose neighbours are kept with them.
    """
    discs = np.ascontiguousarray(discs, np.int32).reshape(-1, 3) if len(discs) else _NO_DISCS
    compiled = kernels.compiled()
    if compiled is None:
        weights = how.weights.astype(np.int64)
        return background_numpy.find(values, flags, state, level, discs, how.cell_bits, weights, limit)
    indices, cells = room_for((values.shape[0], values.shape[1]), how) if room is None else room
    n = compiled.background_find(values, flags, state, level, indices, discs, how.cell_bits, how.weights, limit, cells)
    found: Array = indices[:n].copy()
    return found


def low_level(*, exact: bool, is_coded: bool) -> int:
    """The level, times 4096, below which kept pixels stay and the level is dithered around them.

    Where it is below a half, nothing can be taken from most pixels.  Where pixels are to stay `exact`, they do so at
    every level; and before a lossy codec, which smooths an ordered dither away but not what it did to the spots.
    """
    return EVERY_LEVEL if exact or is_coded else LEVEL_ONE // 2


def apply(values: Array, state: Array, level: Array, limit: int, low: int, room: Room | None = None) -> Applied:
    """Replace all that isn't kept by its level, rounded so that the sum of all counts stays; invalid pixels too.

    What stands on the background keeps its height above it: kept pixels are moved by the rounding's difference of their
    own level, by an ordered dither.  Where the level is below `low`, it is dithered around discs in place of that, and
    kept pixels stay; see `low_level`.  Saturated ones always stay.

    Args:
        values: (ny, nx) uint16, changed.
        state, level, limit: as `find` left them.
        room: as `room_for` makes it, or None.
    """
    compiled = kernels.compiled()
    if compiled is None:
        before, after, _ = background_numpy.apply(values, state, level, limit, low)
        return Applied(before, after, np.flatnonzero((state & (KEPT | ABSENT)) == KEPT).astype(np.uint32))
    kept = np.empty(values.size, np.uint32) if room is None else room.indices
    before, after, n = compiled.background_apply(values, state, level, limit, low, kept)
    return Applied(before, after, kept[:n].copy())
