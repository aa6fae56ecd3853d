"""What an image lost: its counts before and after, and its codec's errors, of valid pixels alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..codecs.contract import LossyCodec
from ..codecs.passed import Passed
from ..pixels.kernels_numpy import mark_value
from ..tasks.reduction import Pipeline

Array = np.ndarray[Any, Any]


class Remembering(Pipeline):
    """Keeps each image as it was before its codec."""

    before: Array | None = None
    """(ny, nx), any values at invalid pixels; None without a codec."""
    kept: Array | None = None
    """Flat indices of the valid pixels that `--keep` kept; None without it."""

    def _code(self, codec: LossyCodec, values: Any, frames: range, kept: Any, *, keep: bool, pixels: bool) -> Passed:
        self.before, self.kept = values.copy(), kept
        return super()._code(codec, values, frames, kept, keep=keep, pixels=pixels)


class Errors(NamedTuple):
    """Of a codec, in an image."""

    greatest: int
    squared: int
    n_pixels: int


def errors(before: Array, stored: Array, invalid: Array | None, kept: Array | None) -> Errors:
    """`invalid` as for `counts`; of pixels that `--keep` kept, flat indices, where they are given."""
    difference = stored.astype(np.int64) - before
    chosen = difference[valid(stored, invalid)] if kept is None else difference.reshape(-1)[kept]
    return Errors(int(np.abs(chosen).max(initial=0)), int(chosen @ chosen), chosen.size)


def valid(stored: Array, invalid: Array | None) -> Array:
    """(ny, nx) bool: without `invalid`, of the same shape, all pixels but marked ones."""
    if invalid is not None:
        return ~invalid
    return ~np.isnan(stored) if stored.dtype.kind == "f" else stored != mark_value(stored.dtype)


def counts(pixels: Array, invalid: Array | None) -> int:
    """The sum over valid pixels; of floats rounded."""
    if pixels.dtype.kind == "f":
        return round(float(pixels.sum(where=valid(pixels, invalid), dtype=np.float64)))
    if invalid is not None:
        return int(pixels.sum(where=~invalid, dtype=np.int64))
    # Several times as quick as a sum over chosen pixels.
    mark = int(mark_value(pixels.dtype))
    return int(pixels.sum(dtype=np.int64)) - mark * int(np.count_nonzero(pixels == mark))
