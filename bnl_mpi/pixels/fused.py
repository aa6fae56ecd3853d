"""From compressed frames to an image, and to its chunk, a few rows at a time: neither is ever whole in memory.

Compiled code alone; `kernels.HAVE_BSLZ4` tells whether it is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from . import kernels
from .kernels import Array, Ending
from .masks import Mask

BLOCK_BYTES = 8192
"""Of a bslz4 block."""

BLOCKS_AT_ONCE = 4
"""Of an image, gathered before they are encoded."""


def have_images() -> bool:
    """Whether `ImageChunks` can be used: its checksum needs a processor's instruction."""
    return hasattr(kernels.compiled(), "bslz4_image")


def _compiled() -> ModuleType:
    module = kernels.compiled()
    assert module is not None
    return module


class ChunkError(ValueError):
    """A compressed chunk is corrupt; `index` counts the chunks that were given, from 0."""

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index


@contextmanager
def chunk_errors() -> Iterator[None]:
    """What the compiled code finds wrong with one of several chunks becomes a ChunkError."""
    try:
        yield
    except ValueError as error:
        if len(error.args) == 2:
            raise ChunkError(*error.args) from None
        raise


@dataclass
class Pooling:
    """What `background.Background` needs of an image, taken of its rows while they lie in the cache."""

    words: tuple[Any, ...]
    """Arguments of compiled code."""
    noted: int | None = None
    """Set where it was done: the saturated pixels found."""


class Sums(NamedTuple):
    """What frames are added to, and how: the arguments of `kernels.accumulate` beside them, described there."""

    mask: Mask
    binning: int
    total: Array
    flags: Array
    satval: float | None = None
    first: bool = False

    def of_frames(self, chunks: Sequence[Any], shape: tuple[int, int], dtype: np.dtype[Any]) -> tuple[Any, ...]:
        """The frames and these, as the compiled code takes them."""
        bounds = kernels.flag_bounds(dtype, self.satval)
        mask = kernels.pack_mask(self.mask, self.binning, shape, dtype)
        sums = (mask, self.binning, self.total, self.flags, *bounds, self.first)
        return (tuple(chunks), shape, dtype.itemsize, *sums)


def bslz4_reduce(
    chunks: Sequence[Any],
    frame_shape: tuple[int, int],
    frame_dtype: np.dtype[Any],
    sums: Sums,
    ending: Ending | None = None,
    pooling: Pooling | None = None,
) -> tuple[int, int]:
    """`bslz4_decode` and `accumulate` of each chunk, and `finish`, a few rows at a time: no frame is ever in memory.

    Args:
        chunks: frames as HDF5 filter 32008 with LZ4 stores them, one or more.
        frame_shape, frame_dtype: (ny, nx), and the stored type, an integer of 1, 2 or 4 bytes.
        sums: where they are added up; `total` isn't where these are the first frames and there is an ending.
        ending: makes the image's pixels; None if more frames are to come.
        pooling: of these pixels; it is done, or not where they aren't made here.

    Returns:
        What `finish` does; zeros without an ending.

    Raises:
        ChunkError: a chunk is corrupt; sums and pixels then hold part of it.
    """
    in_c = ending if ending is not None and kernels.fits(sums.total, ending) else None
    words = sums.of_frames(chunks, frame_shape, np.dtype(frame_dtype))
    pooling = None if in_c is None else pooling
    with chunk_errors():
        *counts, noted = _compiled().bslz4_reduce(words, in_c and kernels.packed(in_c), pooling and pooling.words)
    if ending is not None and in_c is None:
        return kernels.finish(sums.total, sums.flags, *ending)
    if pooling is not None:
        pooling.noted = noted
    return counts[0], counts[1]


class Tiling(NamedTuple):
    """HCompress there and back, in tiles, before the image is stored."""

    scale: int
    rows: int
    """Of a tile, of the image's full width."""


class Made(NamedTuple):
    """An image's chunk, and what is told of it."""

    chunk: memoryview
    """Holds until the next one is made."""
    crc32: int
    """Of the image's pixels as a reader decodes them."""
    n_clipped: int
    n_invalid: int
    code_seconds: float
    encode_seconds: float


class ImageChunks:
    """Makes chunks of filter 32008 of images that are made of such chunks.

    What comes out is that of `bslz4_reduce`, `kernels.hcompress_roundtrip` and `kernels.mark` if there is a tiling, and
    `kernels.bslz4_encode`.
    """

    def __init__(self, shape: tuple[int, int], dtype: np.dtype[Any], tiling: Tiling | None = None) -> None:
        """`shape`, (oy, ox), and `dtype`, an integer of 2 or 4 bytes, of the images."""
        ny, nx = shape
        self._tiling, self._dtype = tiling, dtype
        self._rows = 1 if tiling is None else min(tiling.rows, ny)
        coded = np.uint16 if dtype.itemsize == 2 else np.int32
        self._values = np.empty((self._rows, nx), dtype if tiling is None else coded)
        self._flags = np.zeros((self._rows, nx), np.uint8)
        self._stage = np.empty(BLOCKS_AT_ONCE * (BLOCK_BYTES // dtype.itemsize) + nx, dtype)
        self._room = kernels.bslz4_room(ny * nx, dtype.itemsize)

    def make(
        self,
        chunks: Sequence[Any],
        frame_shape: tuple[int, int],
        frame_dtype: np.dtype[Any],
        sums: Sums,
        ending: Ending,
    ) -> Made:
        """The chunk of one image.

        Arguments as for `bslz4_reduce`, but that the ending's `values` aren't used, nor the `flags` where these are the
        first frames, and its `invalid` is what invalid pixels get in the image.  Bounds have to be whole numbers.
        """
        tiling = self._tiling
        sums = sums._replace(flags=self._flags) if sums.first else sums
        words = sums.of_frames(chunks, frame_shape, np.dtype(frame_dtype))
        coding = None if tiling is None else (tiling.scale, int(ending.limit), ending.invalid)
        ending = ending._replace(values=self._values, invalid=0 if tiling else ending.invalid)
        if not kernels.fits(sums.total, ending):
            raise TypeError("compiled code makes chunks of integers alone, with whole bounds")
        with chunk_errors():
            clipped, invalid, size, crc32, *seconds = _compiled().bslz4_image(
                words, kernels.packed(ending), self._rows, coding, self._stage, self._room
            )
        return Made(self._room.data[:size], crc32, clipped, invalid, *seconds)
