"""The inner loops in NumPy: what runs where nothing was compiled, and the oracle of the compiled ones.

The functions are those of `bnl_mpi.pixels.kernels`, where arguments and results are described.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .limits import MAX_BINNING

Array = NDArray[Any]

FLAG_INVALID = 1
"""Flag: a contribution that the mask doesn't flag is invalid by its value."""

FLAG_SATURATED = 2
"""Flag: a valid contribution is at or above the saturation value."""

_RESERVED = 5
"""How many of an integer type's top values mark pixels instead of counting photons; for uint8 one does."""


def top_value(dtype: DTypeLike) -> int:
    """Greatest valid count of a stored integer type: 254 of uint8, 65530 of uint16, 4294967290 of uint32."""
    dtype = np.dtype(dtype)
    reserved = 1 if dtype == np.uint8 else _RESERVED
    return int(np.iinfo(dtype).max) - reserved


def mark_value(dtype: DTypeLike) -> float:
    """What an invalid pixel is stored as: the top value of an unsigned type, -1 of a signed one, NaN."""
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return float("nan")
    return -1 if dtype.kind == "i" else int(np.iinfo(dtype).max)


LONGEST_SIDE = 2**31 - 1


def _check_sides(name: str, shape: tuple[int, ...]) -> None:
    """A side of 0 or beyond 31 bits is nobody's picture."""
    if len(shape) != 2 or not all(1 <= side <= LONGEST_SIDE for side in shape):
        raise ValueError(f"{name} has shape {shape}: two sides of 1 to {LONGEST_SIDE} are wanted")


def check_satval(satval: float | None) -> None:
    """ValueError unless `satval` is a number of 0 or more, infinity too, or None."""
    if satval is not None and not satval >= 0:
        raise ValueError(f"the saturation value is {satval}, not 0 or more")


def check_bounds(dtype: np.dtype[Any], limit: float, mark: float, scale: float = 1.0) -> None:
    """ValueError where the greatest value or the mark doesn't fit pixels of `dtype`, or `scale` is no factor."""
    if not 0 <= scale < float("inf"):
        raise ValueError(f"the scale is {scale}, not a number of 0 or more")
    if dtype.kind == "f":
        return
    info = np.iinfo(dtype)
    if not (0 <= limit <= info.max and info.min <= mark <= info.max):
        raise ValueError(f"limit {limit} or mark {mark} doesn't fit {dtype.name}")


def _fold(values: Array, binning: int, how: np.ufunc, dtype: DTypeLike) -> Array:
    """Reduce (ny, nx) over binning x binning blocks to (ceil(ny/b), ceil(nx/b)); edge blocks are smaller."""
    rows = values[::binning].astype(dtype)
    for k in range(1, binning):
        more = values[k::binning]
        how(rows[: len(more)], more, out=rows[: len(more)], dtype=dtype, casting="unsafe")
    folded: Array = rows[:, ::binning].copy()
    for k in range(1, binning):
        more = rows[:, k::binning]
        how(folded[:, : more.shape[1]], more, out=folded[:, : more.shape[1]])
    return folded


def _check(frame: Array, mask: Array | None, binning: int, total: Array, flags: Array) -> None:
    if not 1 <= binning <= MAX_BINNING:
        raise ValueError(f"binning is {binning}, not 1 to {MAX_BINNING}")
    _check_sides("frame", frame.shape)
    ny, nx = frame.shape
    binned = (-(-ny // binning), -(-nx // binning))
    wanted = (("mask", mask, frame.shape), ("total", total, binned), ("flags", flags, binned))
    for name, array, shape in wanted:
        if array is not None and array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}, not {shape}")


def accumulate(
    frame: Array,
    mask: Array | None,
    binning: int,
    total: Array,
    flags: Array,
    satval: float | None = None,
    *,
    first: bool = False,
) -> None:
    """Add a frame to a binned sum; see `bnl_mpi.pixels.kernels.accumulate`."""
    _check(frame, mask, binning, total, flags)
    check_satval(satval)
    keep = np.ones(frame.shape, bool) if mask is None else np.asarray(mask) == 0
    if frame.dtype.kind == "f":
        valid = np.isfinite(frame) & (frame >= 0)
    else:
        valid = frame <= top_value(frame.dtype)
        if frame.dtype.kind == "i":
            valid &= frame >= 0
    flag = (keep & ~valid) * np.uint8(FLAG_INVALID)
    if satval is not None:
        hot = keep & valid
        hot[hot] = frame[hot] >= satval
        flag |= np.where(hot, FLAG_SATURATED, 0).astype(np.uint8)
    clean = np.where(keep & valid, frame, frame.dtype.type(0))
    if first:
        total[...] = 0
        flags[...] = 0
    total += _fold(clean, binning, np.add, total.dtype)
    flags |= _fold(flag, binning, np.bitwise_or, np.uint8)


def _at_most(values: Array, bound: float) -> tuple[Array, Array]:
    """The values cut at `bound`, and which were above it; the bound needn't fit the values' type."""
    if math.isfinite(bound) and bound == math.floor(bound):
        bound = int(bound)
    if values.dtype.kind == "u" and bound >= np.iinfo(values.dtype).max:
        return values, np.zeros(values.shape, bool)
    high = values > bound
    if not high.any():
        return values, high
    return np.minimum(values, np.asarray(bound).astype(values.dtype)), high


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
) -> tuple[int, int]:
    """Turn a sum into an image; see `bnl_mpi.pixels.kernels.finish`."""
    _check_sides("total", total.shape)
    check_satval(satval)
    check_bounds(values.dtype, limit, invalid, scale)
    bad = (flags & FLAG_INVALID) != 0
    if blank is not None:
        bad |= np.asarray(blank) != 0
    saturated = ((flags & FLAG_SATURATED) != 0) & mark_saturated
    image, cut = (total, saturated) if satval is None else _at_most(total, satval)
    if scale != 1:
        with np.errstate(over="ignore"):
            image = image.astype(np.float64) * scale
        if values.dtype.kind != "f" or total.dtype.kind != "f":
            image = np.trunc(image)
    image, high = _at_most(image, limit)
    cut = cut | high | saturated
    values[...] = image.astype(values.dtype)
    values[saturated] = limit
    values[bad] = invalid
    return int(np.count_nonzero(cut & ~bad)), int(np.count_nonzero(bad))


def mark(values: Array, flags: Array, blank: Array | None, limit: float, mark: float, out: Array) -> None:
    """Clip, cast and mark an image; see `bnl_mpi.pixels.kernels.mark`."""
    _check_sides("values", values.shape)
    check_bounds(out.dtype, limit, mark)
    bad = (flags & FLAG_INVALID) != 0
    if blank is not None:
        bad |= np.asarray(blank) != 0
    if values.dtype.kind in "ui":
        limit = min(int(limit), int(np.iinfo(values.dtype).max))
    out[...] = np.clip(values, 0, limit).astype(out.dtype)
    out[bad] = mark


def compare(image: Array, decoded: Array) -> tuple[int, int]:
    """Greatest difference and sum of squares; see `bnl_mpi.pixels.kernels.compare`."""
    _check_sides("image", image.shape)
    if image.shape != decoded.shape:
        raise ValueError(f"decoded has shape {decoded.shape}, not {image.shape}")
    rows = max(1, 65536 // image.shape[1])
    greatest = squares = 0
    # A band of rows at a time stays in the processor's cache; sums in integers don't depend on the bands.
    for top in range(0, image.shape[0], rows):
        band = slice(top, top + rows)
        difference = np.subtract(decoded[band], image[band], dtype=np.int32).ravel()
        greatest = max(greatest, int(difference.max()), -int(difference.min()))
        # Exact: some 65536 squares of 32 bits stay below 2**53.  The integers' own dot product is slower.
        wide = difference.astype(np.float64)
        squares += int(np.dot(wide, wide))
    return greatest, squares


def hcompress_roundtrip(image: Array, scale: int, tile_rows: int) -> None:
    """HCompress and back by way of astropy; see `bnl_mpi.pixels.kernels.hcompress_roundtrip`."""
    from astropy.io.fits.hdu.compressed._codecs import HCompress1

    _check_sides("image", image.shape)
    ny, nx = image.shape
    if tile_rows < 1 or not 0 <= scale <= np.iinfo(np.int32).max:
        raise ValueError("scale is 0 to 2147483647, a tile has at least one row")
    for y in range(0, ny, tile_rows):
        tile = image[y : y + tile_rows]
        codec = HCompress1(scale=scale, smooth=False, bytepix=8, nx=tile.shape[0], ny=nx)
        coded = np.frombuffer(codec.encode(tile), np.uint8)
        image[y : y + tile_rows] = codec.decode(coded).reshape(tile.shape)


ESCAPE = 0x80
"""The byte -128 of a byte-offset stream: a longer difference follows."""


def byte_offset_decode(data: Any, out: Array) -> tuple[int, int]:
    """Decode a byte-offset stream; see `bnl_mpi.pixels.kernels.byte_offset_decode`, which checks the result."""
    stream = np.frombuffer(data, np.uint8)
    pixels = out.reshape(-1)
    steps = np.zeros(pixels.size, np.int64)
    escapes = np.flatnonzero(stream == ESCAPE)
    at = made = next_escape = 0
    while made < pixels.size and at < stream.size:
        next_escape += int(np.searchsorted(escapes[next_escape:], at))
        end = int(escapes[next_escape]) if next_escape < escapes.size else stream.size
        run = min(end - at, pixels.size - made)
        steps[made : made + run] = stream[at : at + run].view(np.int8)
        made, at = made + run, at + run
        if made == pixels.size or at == stream.size:
            break
        step, size = _long_step(bytes(stream[at : at + 15]))
        if not size:
            break
        steps[made] = step
        made, at = made + 1, at + size
    pixels[:made] = np.cumsum(steps[:made]).astype(np.uint32).view(pixels.dtype)
    return made, at


def _long_step(piece: bytes) -> tuple[int, int]:
    """(difference, bytes) at an escape; 0 bytes where the stream ends in it."""
    begin = 1
    for size in (2, 4, 8):
        if len(piece) < begin + size:
            return 0, 0
        step = int.from_bytes(piece[begin : begin + size], "little", signed=True)
        begin += size
        if step != -(1 << (8 * size - 1)) or size == 8:
            break
    return step, begin


def byte_offset_encode(array: Array) -> bytes:
    """Encode int32 as a byte-offset stream; see `bnl_mpi.pixels.kernels.byte_offset_encode`."""
    values = array.reshape(-1).astype(np.int64)
    steps = np.diff(values, prepend=0)
    long = np.flatnonzero(np.abs(steps) > 127)
    single = steps.astype(np.int8).tobytes()
    pieces, at = [], 0
    for k in long.tolist():
        pieces += [single[at:k], _escaped(int(steps[k]))]
        at = k + 1
    return b"".join([*pieces, single[at:]])


def _escaped(step: int) -> bytes:
    piece = b"\x80"
    for size in (2, 4):
        least = -(1 << (8 * size - 1))
        if -least > abs(step):
            return piece + step.to_bytes(size, "little", signed=True)
        piece += least.to_bytes(size, "little", signed=True)
    return piece + step.to_bytes(8, "little", signed=True)
