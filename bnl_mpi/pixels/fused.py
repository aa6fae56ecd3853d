"""From compressed frames to an image, and to its chunk, a few rows at a time: neither is ever whole in memory.

Compiled code alone; `kernels.HAVE_BSLZ4` tells whether it is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from . import kernels
from .kernels import Array, Ending

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


def _packed_frames(
    chunks: Sequence[Any],
    frame_shape: tuple[int, int],
    frame_dtype: np.dtype[Any],
    sums: tuple[Array | None, Array | None, int, Array, Array],
    satval: float | None,
    *,
    first: bool,
) -> tuple[Any, ...]:
    """Frames, and the (mask, runs, binning, total, flags) that they are added to, as the compiled code takes them."""
    dtype = np.dtype(frame_dtype)
    return (tuple(chunks), frame_shape, dtype.itemsize, *sums, *kernels.flag_bounds(dtype, satval), first)


def bslz4_reduce(
    chunks: Sequence[Any],
    frame_shape: tuple[int, int],
    frame_dtype: np.dtype[Any],
    mask: Array | None,
    binning: int,
    total: Array,
    flags: Array,
    satval: float | None = None,
    *,
    first: bool = False,
    runs: Array | None = None,
    ending: Ending | None = None,
) -> tuple[int, int]:
    """`bslz4_decode` and `accumulate` of each chunk, and `finish`, a few rows at a time: no frame is ever in memory.

    Args:
        chunks: frames as HDF5 filter 32008 with LZ4 stores them, one or more.
        frame_shape, frame_dtype: (ny, nx), and the stored type, an integer of 1, 2 or 4 bytes.
        mask, binning, total, flags, satval, first, runs: as for `accumulate`; with `first` and `ending` no `total`.
        ending: makes the image's pixels; None if more frames are to come.

    Returns:
        What `finish` does; zeros without an ending.

    Raises:
        ChunkError: a chunk is corrupt; `total`, `flags` and the pixels then hold part of it.
    """
    in_c = ending if ending is not None and kernels.fits(total, ending) else None
    words = _packed_frames(chunks, frame_shape, frame_dtype, (mask, runs, binning, total, flags), satval, first=first)
    with chunk_errors():
        counts: tuple[int, int] | None = _compiled().bslz4_reduce(words, in_c and kernels.packed(in_c))
    if ending is not None and in_c is None:
        return kernels.finish(total, flags, *ending)
    return counts or (0, 0)


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
        self._values = np.empty((self._rows, nx), dtype if tiling is None else np.int32)
        self._flags = np.zeros((self._rows, nx), np.uint8)
        self._stage = np.empty(BLOCKS_AT_ONCE * (BLOCK_BYTES // dtype.itemsize) + nx, dtype)
        self._room = kernels.bslz4_room(ny * nx, dtype.itemsize)

    def make(
        self,
        chunks: Sequence[Any],
        frame_shape: tuple[int, int],
        frame_dtype: np.dtype[Any],
        mask: Array | None,
        binning: int,
        total: Array,
        flags: Array,
        satval: float | None = None,
        *,
        first: bool = False,
        runs: Array | None = None,
        ending: Ending,
    ) -> Made:
        """The chunk of one image.

        Arguments as for `bslz4_reduce`, but that the ending's `values` aren't used, nor with `first` the `flags`, and
        its `invalid` is what invalid pixels get in the image.  Bounds have to be whole numbers.
        """
        tiling = self._tiling
        sums = (mask, runs, binning, total, self._flags if first else flags)
        words = _packed_frames(chunks, frame_shape, frame_dtype, sums, satval, first=first)
        coding = None if tiling is None else (tiling.scale, int(ending.limit), ending.invalid)
        ending = ending._replace(values=self._values, invalid=0 if tiling else ending.invalid)
        if not kernels.fits(total, ending):
            raise TypeError("compiled code makes chunks of integers alone, with whole bounds")
        with chunk_errors():
            clipped, invalid, size, crc32, *seconds = _compiled().bslz4_image(
                words, kernels.packed(ending), self._rows, coding, self._stage, self._room
            )
        return Made(self._room.data[:size], crc32, clipped, invalid, *seconds)
