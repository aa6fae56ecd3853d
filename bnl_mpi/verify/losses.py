"""What an image lost: its counts before and after, and its codec's errors, of valid pixels alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..codecs.contract import LossyCodec
from ..codecs.passed import Errors, Passed
from ..estimate.resolution import read_geometry
from ..hdf5 import guard
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


def together(errors: Sequence[Errors]) -> Errors:
    """Of several images as of one."""
    greatest = max((one.greatest for one in errors), default=0)
    return Errors(greatest, sum(one.squares for one in errors), sum(one.n_pixels for one in errors))


def added(some: Sequence[Errors], more: Sequence[Errors]) -> list[Errors]:
    """Shell by shell."""
    return [together(both) for both in zip(some, more, strict=True)] if some else list(more)


N_SHELLS = 10


@dataclass(frozen=True)
class Shells:
    """Pixels of an image by resolution, in shells of equal volume in reciprocal space, the innermost first."""

    limits: tuple[float, ...]
    """N_SHELLS + 1 of them: d in Angstrom, from infinity to the detector's farthest pixel."""
    of: Array
    """(ny, nx) uint8: the shell of each pixel, from 0."""


def read_shells(master: str, shape: tuple[int, int]) -> Shells | None:
    """Of images (ny, nx) of a master; None where it doesn't tell the geometry."""
    with guard.opened(master) as file:
        geometry, _ = read_geometry(file)
    if geometry is None:
        return None
    y, x = (np.arange(n) + 0.5 for n in shape)
    volumes = np.stack([geometry.resolution(x, np.full(shape[1], at)) for at in y]) ** -3
    farthest = float(volumes.max())
    of = np.minimum(volumes * (N_SHELLS / farthest), N_SHELLS - 1).astype(np.uint8)
    with np.errstate(divide="ignore"):
        limits = (np.arange(N_SHELLS + 1) / N_SHELLS * farthest) ** (-1 / 3)
    return Shells(tuple(map(float, limits)), of)


def errors(
    before: Array, stored: Array, invalid: Array | None, kept: Array | None, shells: Shells | None
) -> tuple[Errors, list[Errors]]:
    """Of all pixels, and of each shell; `invalid` as for `counts`.

    Of pixels that `--keep` kept, flat indices, where they are given.
    """
    chosen = np.flatnonzero(valid(stored, invalid)) if kept is None else kept
    error = np.abs(stored.reshape(-1)[chosen].astype(np.int64) - before.reshape(-1)[chosen])
    whole = Errors(int(error.max(initial=0)), int(error @ error), error.size)
    if shells is None:
        return whole, []
    at = shells.of.reshape(-1)[chosen]
    greatest = np.zeros(N_SHELLS, np.int64)
    np.maximum.at(greatest, at, error)
    # Doubles hold sums of whole numbers below 2**53 as they are.
    squared = np.bincount(at, error.astype(np.float64) ** 2, N_SHELLS)
    n_pixels = np.bincount(at, minlength=N_SHELLS)
    return whole, [Errors(int(a), int(b), int(n)) for a, b, n in zip(greatest, squared, n_pixels, strict=True)]


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
