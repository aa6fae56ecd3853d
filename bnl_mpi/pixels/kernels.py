"""The inner loops over pixels, compiled where a compiler was at hand, else in NumPy.

Arrays are C-contiguous with index order (slow, fast). A *frame* is (ny, nx) pixels of an input picture; an
*image* is (oy, ox) = (ceil(ny/b), ceil(nx/b)) pixels for binning b x b, where edge pixels cover what there is
of the frame. Nothing is copied but into the arrays given. The compiled functions release the GIL.

`BNL_MPI_KERNELS=numpy` in the environment forces the NumPy versions.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import kernels_numpy, masks
from .kernels_numpy import FLAG_INVALID, FLAG_SATURATED, check_bounds, check_satval, mark_value, top_value
from .masks import RUN, Mask, PackedMask

try:
    if os.environ.get("BNL_MPI_KERNELS", "").lower() == "numpy":
        raise ImportError("NumPy is asked for")
    from . import _kernels  # type: ignore[attr-defined]
except ImportError:
    _kernels = None

COMPILED: bool = _kernels is not None
"""Whether the compiled versions are in use."""

HAVE_BSLZ4: bool = COMPILED
"""Whether the functions on compressed chunks can be called; where not, HDF5 has to run its filters."""

__all__ = [
    "COMPILED",
    "FLAG_INVALID",
    "FLAG_SATURATED",
    "HAVE_BSLZ4",
    "RUN",
    "Ending",
    "Mask",
    "PackedMask",
    "accumulate",
    "bslz4_decode",
    "bslz4_encode",
    "bslz4_room",
    "byte_offset_decode",
    "byte_offset_encode",
    "compare",
    "compiled",
    "crc32",
    "finish",
    "fits",
    "flag_bounds",
    "hcompress_roundtrip",
    "lz4_decode",
    "mark",
    "mark_value",
    "mask_runs",
    "pack_mask",
    "packed",
    "release",
    "top_value",
]

Array = NDArray[Any]


@contextmanager
def by_numpy() -> Iterator[None]:
    """Within, the NumPy versions are used: a second way to the same pixels, which shares no code with the first.

    What asks HAVE_BSLZ4 once has to be made within.  For one thread.
    """
    global _kernels, HAVE_BSLZ4
    kept = _kernels, HAVE_BSLZ4
    _kernels, HAVE_BSLZ4 = None, False
    try:
        yield
    finally:
        _kernels, HAVE_BSLZ4 = kept


def compiled() -> ModuleType | None:
    """The compiled functions, for modules beside this one; None where NumPy does their work."""
    module: ModuleType | None = _kernels
    return module


_NO_SATVAL = 2**64 - 1


def flag_bounds(dtype: np.dtype[Any], satval: float | None) -> tuple[int, int]:
    """Greatest valid value, and the smallest value for which a flag is set."""
    top = top_value(dtype)
    check_satval(satval)
    if satval is None or satval > top:
        return top, top + 1
    return top, int(np.ceil(satval))


def accumulate(
    frame: Array,
    mask: Mask,
    binning: int,
    total: Array,
    flags: Array,
    satval: float | None = None,
    *,
    first: bool = False,
) -> None:
    """Add a frame to a binned sum.

    A contribution is valid if `mask` doesn't flag it and its value is 0 to `top_value` of the frame's type
    (for floats: finite and not negative). All others count as 0.

    Args:
        frame: (ny, nx) counts, of an integer or float type.
        mask: (ny, nx) uint8 or bool, not 0 where a pixel is flagged, or what `pack_mask` makes of it for this binning,
            which is faster for frames of integers; None if no pixel is.
        binning: b, 1 to 64.
        total: (oy, ox) uint32 or uint64, added to; float64 for float frames. Sums are exact as long as they
            fit: uint32 does if b*b * number of frames * top value < 2**32.
        flags: (oy, ox) uint8, OR-ed: FLAG_INVALID if a contribution that `mask` doesn't flag is invalid by
            its value, FLAG_SATURATED if a valid one is >= satval.
        satval: saturation value in counts, or None: FLAG_SATURATED is never set.
        first: set `total` and `flags` instead of adding to them.

    Raises:
        ValueError: shapes don't agree, or binning is out of range.
        TypeError: a type isn't one of those above.
    """
    if _kernels is None or _in_numpy(frame.dtype):
        if isinstance(mask, PackedMask):
            raise TypeError("NumPy, which adds floats, takes no packed mask")
        kernels_numpy.accumulate(frame, mask, binning, total, flags, satval, first=first)
    else:
        mask = pack_mask(mask, binning, frame.shape, frame.dtype)
        _kernels.accumulate(frame, mask, binning, total, flags, *flag_bounds(frame.dtype, satval), first)


def _in_numpy(dtype: np.dtype[Any]) -> bool:
    """Whether frames of that type are added in NumPy alone."""
    return dtype.kind == "f" or dtype.itemsize > 4


def mask_runs(mask: Array | None, binning: int) -> Array | None:
    """`PackedMask.runs` of a mask, (ny, nx) uint8; None without one, or where NumPy does the work."""
    return None if _kernels is None or mask is None else masks.runs_of(_kernels, mask, binning)[0]


def pack_mask(mask: Mask, binning: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Mask:
    """A mask, (ny, nx) uint8 or bool, as `accumulate` takes it soonest for frames of that shape and type."""
    if mask is None or isinstance(mask, PackedMask) or _kernels is None or _in_numpy(dtype):
        return mask
    return masks.packed(_kernels, mask, binning, shape)


class Ending(NamedTuple):
    """How an image is made of its sums: the arguments of `finish` beside them, described there."""

    blank: Array | None
    satval: float | None
    scale: float
    limit: int
    mark_saturated: bool
    values: Array
    invalid: int = 0
    runs: Array | None = None
    """What `mask_runs` tells of `blank`, for a binning of 1; or None."""


def finish(
    total: Array,
    flags: Array,
    blank: Array | None,
    satval: float | None,
    scale: float,
    limit: int,
    mark_saturated: bool,
    values: Array,
    invalid: int = 0,
    runs: Array | None = None,
) -> tuple[int, int]:
    """Turn a sum into the pixels of an image, before any lossy codec.

    In this order: min(total, satval); times `scale`, cut to an integer; at most `limit`; `limit` where
    `flags` says FLAG_SATURATED if `mark_saturated`; `invalid` at invalid pixels.

    Args:
        total: (oy, ox) sums, as from `accumulate`.
        flags: (oy, ox) uint8, as from `accumulate`.
        blank: (oy, ox) uint8 or bool, not 0 where every contribution is flagged by the mask; or None.
        satval: saturation value in counts, or None: sums aren't cut.
        scale: factor >= 0; 1 costs nothing.
        limit: saturation value of the image, in its units; fits the type of `values`.
        mark_saturated: whether pixels flagged FLAG_SATURATED get the value `limit` (`--saturation scaled`).
        values: (oy, ox) array to fill: int16, int32, uint16, uint32 or float (where a float sum isn't cut to
            integers).
        runs: what `mask_runs` tells of `blank`, for a binning of 1; or None.

    Returns:
        Number of valid pixels that were cut by satval or limit or marked saturated; number of invalid pixels.
    """
    ending = Ending(blank, satval, scale, limit, mark_saturated, values, invalid, runs)
    if not fits(total, ending):
        return kernels_numpy.finish(total, flags, *ending[:-1])
    counts: tuple[int, int] = _kernels.finish(total, flags, packed(ending))
    return counts


def fits(total: Array, ending: Ending) -> bool:
    """Whether the compiled code can take it: it knows integers only.  ValueError where nothing can."""
    check_satval(ending.satval)
    check_bounds(ending.values.dtype, ending.limit, ending.invalid, ending.scale)
    floats = "f" in (total.dtype.kind, ending.values.dtype.kind)
    return _kernels is not None and not floats and all(_is_whole(bound) for bound in (ending.satval, ending.limit))


def _is_whole(bound: float | None) -> bool:
    return bound is None or bound >= _NO_SATVAL or bound == np.floor(bound)


def packed(ending: Ending) -> tuple[Any, ...]:
    """An ending as the compiled code takes it, where it `fits`."""
    # No sum is greater than the largest number that C takes.
    none = ending.satval is None or ending.satval >= _NO_SATVAL
    satval = _NO_SATVAL if none else int(ending.satval or 0)
    return tuple(ending._replace(satval=satval, limit=int(ending.limit)))


def mark(values: Array, flags: Array, blank: Array | None, limit: float, mark: float, out: Array) -> None:
    """Make the stored image: clip to 0..limit, cast, and mark invalid pixels.

    Args:
        values: (oy, ox) int16, int32, uint16, uint32 or float, as a codec gave them back.
        flags: (oy, ox) uint8, as from `accumulate`; FLAG_INVALID is looked at.
        blank: (oy, ox) uint8 or bool, not 0 where every contribution is flagged by the mask; or None.
        limit: greatest value written; fits the type of `out`.
        mark: what invalid pixels get; fits the type of `out`.
        out: (oy, ox) array to fill, of any integer type of 2 or 4 bytes or a float type; may be `values`.
    """
    if _kernels is None or values.dtype.kind == "f" or out.dtype.kind == "f" or not _is_whole(limit):
        kernels_numpy.mark(values, flags, blank, limit, mark, out)
    else:
        check_bounds(out.dtype, limit, mark)
        _kernels.mark(values, flags, blank, int(limit), int(mark), out)


def compare(image: Array, decoded: Array) -> tuple[int, int]:
    """How far decoded pixels are from those that were coded.

    Args:
        image, decoded: (ny, nx) uint16.

    Returns:
        Largest absolute difference in counts; sum of the squares of the differences, exact.
    """
    greatest, squares = (kernels_numpy if _kernels is None else _kernels).compare(image, decoded)
    return int(greatest), int(squares)


def hcompress_roundtrip(image: Array, scale: int, tile_rows: int) -> None:
    """Replace an image by what HCompress and its inverse make of it.

    Equal to the bit to what the FITS library decodes from its own compressed tiles (64-bit arithmetic, no
    smoothing; results beyond int32 wrap around, as they do there).

    Args:
        image: (ny, nx) int32, changed in place.
        scale: quantiser step; 0 and 1 lose nothing.
        tile_rows: rows a tile, over the full width; the last tile has what is left.
    """
    (kernels_numpy if _kernels is None else _kernels).hcompress_roundtrip(image, scale, tile_rows)


def bslz4_decode(chunk: Any, out: Array) -> None:
    """Decode a chunk of HDF5 filter 32008 (bitshuffle) with LZ4.

    Args:
        chunk: bytes-like; what follows its last block is ignored, as the filter does.
        out: array to fill, of the chunk's size and type; little-endian as stored.

    Raises:
        ValueError: the chunk is corrupt or not of this size; says what and in which block (from 0).
    """
    _kernels.bslz4_decode(chunk, out)


def lz4_decode(chunk: Any, out: Array) -> None:
    """Decode a chunk of HDF5 filter 32004 (LZ4); arguments and errors as for `bslz4_decode`."""
    _kernels.lz4_decode(chunk, out)


def bslz4_room(n: int, itemsize: int) -> Array:
    """Room for the chunk of any n elements; what a chunk doesn't need of it is never touched."""
    return np.empty(_kernels.bslz4_bound(n, itemsize), np.uint8)


def bslz4_encode(array: Array, room: Array | None = None) -> memoryview:
    """Encode an array, C-contiguous, as a chunk of HDF5 filter 32008 with LZ4, in blocks of 8 KiB.

    The chunk lies in `room`, of `bslz4_room`, if given, until that is used again.
    """
    room = bslz4_room(array.size, array.itemsize) if room is None else room
    return room.data[: _kernels.bslz4_encode(array, room)]


def byte_offset_decode(data: Any, out: Array) -> int:
    """Decode CBF's byte-offset compression.

    Args:
        data: bytes-like.
        out: array to fill, of a 4-byte integer type; values are taken modulo 2**32.

    Returns:
        How many bytes of the data were needed.

    Raises:
        ValueError: the data end before all pixels are there.
    """
    made, taken = (kernels_numpy if _kernels is None else _kernels).byte_offset_decode(data, out)
    if made < out.size:
        raise ValueError(f"its data end after {made} of {out.size} pixels")
    return int(taken)


def byte_offset_encode(array: Array) -> bytes:
    """Encode an int32 array, C-contiguous, with CBF's byte-offset compression."""
    stream: bytes = (kernels_numpy if _kernels is None else _kernels).byte_offset_encode(array)
    return stream


def crc32(data: Any) -> int:
    """What `zlib.crc32` gives for bytes or a C-contiguous array, where the processor can, several times faster."""
    return int(getattr(_kernels, "crc32", zlib.crc32)(data))


def release() -> None:
    """Give memory that is free back to the system, where that can be asked for: libraries leave a lot of it."""
    if _kernels is not None:
        _kernels.release()
