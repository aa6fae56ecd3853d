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
from .fused import BLOCK_BYTES, BLOCKS_AT_ONCE, Pooling

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


class Chunk(NamedTuple):
    """The chunk that an image became; sums as in `Applied`."""

    sum_before: int
    sum_after: int
    n_kept: int
    chunk: memoryview
    """Holds until the next one is made."""
    crc32: int
    """Of the image's pixels as a reader decodes them."""
    encode_seconds: float


def keep_discs(state: Array, discs: Array, bit: int = KEPT) -> None:
    """Set `bit` where a pixel's centre is within a disc, (n, 3) of x, y, r in eighths of a pixel."""
    compiled = kernels.compiled()
    if compiled is None:
        background_numpy.keep_discs(state, discs, bit)
    elif len(discs):
        compiled.keep_discs(state, np.ascontiguousarray(discs, np.int32), bit)


def low_level(*, exact: bool, is_coded: bool) -> int:
    """The level, times 4096, below which kept pixels stay and the level is dithered around them.

    Where it is below a half, nothing can be taken from most pixels.  Where pixels are to stay `exact`, they do so at
    every level; and before a lossy codec, which smooths an ordered dither away but not what it did to the spots.
    """
    return EVERY_LEVEL if exact or is_coded else LEVEL_ONE // 2


class Background:
    """What is to be kept of an image, and the level of the rest: of each `begin`, `find`, then `apply` or `chunk`.

    Its memory is made once: it is large, and new memory is slow.
    """

    def __init__(self, shape: tuple[int, int], binning: int, limit: int) -> None:
        """For images of `shape`, (ny, nx), of pixels binned `binning` x `binning`; `limit`: saturation value."""
        ny, nx = shape
        self._how, self._shape, self._limit = smoothing(binning), shape, limit
        size, self._rest = 1 << self._how.cell_bits, 0
        self._means = np.zeros((-(-ny // size), -(-nx // size)), np.uint32)
        self._always, self._state = np.empty(0, np.uint8), np.zeros(shape, np.uint8)
        compiled = kernels.compiled()
        if compiled is not None:
            self._indices = np.empty(ny * nx, np.uint32)
            self._room = np.empty(-(-compiled.background_room(ny, nx, self._how.cell_bits) // 8), np.float64)
        self._stage = self._chunk = np.empty(0)

    def _words(self, values: Array) -> tuple[Any, ...]:
        """The arguments that all of the compiled code's functions take."""
        return (values, self._means, self._indices, self._room, self._how.cell_bits, self._limit)

    def begin(self, values: Array, always: Array, discs: Array) -> None:
        """An image starts.

        Args:
            values: (ny, nx) uint16, what will hold its counts.
            always: (ny, nx) uint8: KEPT where kept anyway, ABSENT where every image is invalid, else 0.  Nothing is in
                it that an image brings: it isn't looked at again where it is the same array as for the image before.
            discs: (n, 3) int32: x, y and radius in eighths of a pixel; KEPT where a pixel's centre is within, AROUND
                out to twice the radius and half a pixel.
        """
        compiled, is_new = kernels.compiled(), always is not self._always
        self._always = always
        if compiled is not None:
            some = np.ascontiguousarray(discs, np.int32) if len(discs) else None
            compiled.background_begin(self._words(values), always, is_new, some)
            return
        around = discs.copy()
        around[:, 2] = 2 * around[:, 2] + POSITION_UNITS // 2
        np.copyto(self._state, always)
        keep_discs(self._state, around, AROUND)
        keep_discs(self._state, discs)

    def pooling(self, values: Array) -> Pooling | None:
        """For `fused.bslz4_reduce` to begin with `find`, to which it is given; None without compiled code.

        Of the image that was begun, whose `values` are yet to be made.
        """
        return None if kernels.compiled() is None else Pooling(self._words(values))

    def find(self, values: Array, flags: Array, pooling: Pooling | None = None) -> Array:
        """Find what is to be kept of an image beside discs, and the level of the rest.

        That is what stands out of its surroundings, v > m + 5 sqrt(m + 1/2) + 1, m their mean, twice over, with eight
        neighbours each, and the neighbours of saturated pixels and of pixels that are invalid by their value.

        Args:
            values: (ny, nx) uint16 counts, any at invalid pixels.
            flags: (ny, nx) uint8, as `kernels.finish` takes them.
            pooling: of the same image, or None; done or not.

        Returns:
            Flat indices (slow * nx + fast), uint32, in order, of the pixels found, whose neighbours are kept with them.
        """
        compiled, how = kernels.compiled(), self._how
        if compiled is None:
            weights = how.weights.astype(np.int64)
            found = background_numpy.find(values, flags, self._state, self._means, how.cell_bits, weights, self._limit)
            return np.sort(found)
        noted = -1 if pooling is None or pooling.noted is None else pooling.noted
        n, self._rest = compiled.background_find(self._words(values), flags, how.weights, noted)
        return np.sort(self._indices[:n])

    def state(self, values: Array) -> Array:
        """(ny, nx) uint8, of the image in hand, whose `values` are given: KEPT, ABSENT where invalid, AROUND a disc."""
        if (compiled := kernels.compiled()) is not None:
            compiled.background_state(self._words(values), self._state)
        return self._state.copy()

    def level(self) -> Array:
        """(ny, nx) uint32: the local mean m of the image in hand, times 4096."""
        compiled, bits = kernels.compiled(), self._how.cell_bits
        if compiled is None:
            return background_numpy.levels(self._means, self._shape, bits).astype(np.uint32)
        level = np.empty(self._shape, np.uint32)
        compiled.background_levels(self._means, bits, level)
        return level

    def apply(self, values: Array, low: int) -> Applied:
        """Replace all that isn't kept by its level, rounded so that the sum of all counts stays; invalid pixels too.

        What stands on the background keeps its height above it: kept pixels are moved by the rounding's difference of
        their own level, by an ordered dither.  Where the level is below `low`, it is dithered around discs in place of
        that, and kept pixels stay; see `low_level`.  Saturated ones always stay.

        Args:
            values: (ny, nx) uint16, those that `find` had, changed.
        """
        compiled = kernels.compiled()
        if compiled is None:
            before, after = background_numpy.apply(values, self._state, self.level(), self._limit, low)
            return Applied(before, after, np.flatnonzero((self._state & (KEPT | ABSENT)) == KEPT).astype(np.uint32))
        before, after, n = compiled.background_apply(self._words(values), self._rest, low)
        return Applied(before, after, self._indices[:n].copy())

    def chunk(self, values: Array, low: int, mark: int) -> Chunk:
        """What `apply` does, and the image with `mark` where it is ABSENT as a chunk of filter 32008.

        For where `fused.have_images()`; `values` stay.
        """
        compiled, (ny, nx) = kernels.compiled(), self._shape
        assert compiled is not None
        if not self._stage.size:
            self._stage = np.empty(BLOCKS_AT_ONCE * (BLOCK_BYTES // 2) + nx, np.uint16)
            self._chunk = kernels.bslz4_room(ny * nx, 2)
        before, after, n, size, crc32, seconds = compiled.background_chunk(
            self._words(values), self._rest, low, mark, self._stage, self._chunk
        )
        return Chunk(before, after, n, self._chunk.data[:size], crc32, seconds)
