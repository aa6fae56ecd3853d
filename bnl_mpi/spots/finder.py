"""Finding spots: strong pixels of each frame, joined over frames, and each component's size and centre."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..pixels.strong import components, strong_pixels

Array = NDArray[Any]


@dataclass(frozen=True)
class Threshold:
    """What makes a pixel strong, with DIALS's defaults; see `pixels.strong.strong_pixels`."""

    kernel: int = 3
    nsigma_b: float = 6.0
    nsigma_s: float = 3.0
    min_count: int = 2
    threshold: float = 0.0


SMALLEST, LARGEST = 3, 1000
"""Strong pixels of a spot, as DIALS takes them for counting detectors: fewer are noise or a hot pixel, more are ice."""

MAX_SEPARATION = 2.0
"""Pixels or frames: a component whose strongest pixel lies further from its centre isn't one spot."""


@dataclass(frozen=True)
class Spots:
    """n spots.  Positions: `x` fast, `y` slow (pixels, 0 the first pixel's outer corner), `z` (0 the first frame's
    start), all float64: centres of mass of the strong pixels' counts."""

    x: Array
    y: Array
    z: Array
    counts: Array
    """(n,) int64: sum over the strong pixels, background included."""
    pixels: Array
    """(n,) int64: number of strong pixels."""
    box: Array
    """(n, 6) int64: x0, x1, y0, y1, z0, z1 of the strong pixels, ends excluded."""

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, chosen: Any) -> Spots:
        return Spots(
            self.x[chosen], self.y[chosen], self.z[chosen], self.counts[chosen], self.pixels[chosen], self.box[chosen]
        )


class SpotFinder:
    """Takes frames in rising order, and gives the spots in all of them."""

    def __init__(self, shape: tuple[int, int], flagged: Array | None, threshold: Threshold | None = None) -> None:
        """`shape` (ny, nx); `flagged` (ny, nx) uint8, not 0 where the mask flags a pixel, or None."""
        self._shape, self._flagged = shape, flagged
        self._threshold = threshold or Threshold()
        self._keys: list[Array] = []
        self._counts: list[Array] = []

    def strong(self, frame: Array) -> Array:
        """(ny, nx) uint8: 1 where `frame` is strong; of an unsigned type, other integers are clipped to one."""
        t = self._threshold
        if frame.dtype.kind != "u" or frame.itemsize > 4 or not frame.dtype.isnative:
            frame = unsigned(frame)
        return strong_pixels(
            frame,
            self._flagged,
            kernel=t.kernel,
            min_count=t.min_count,
            nsigma_b=t.nsigma_b,
            nsigma_s=t.nsigma_s,
            threshold=t.threshold,
        )

    def add(self, number: int, frame: Array) -> int:
        """Look at frame `number`, counted from 0; returns how many of its pixels are strong."""
        strong = np.flatnonzero(self.strong(frame))
        self.take(number, frame, strong)
        return len(strong)

    def take(self, number: int, frame: Array, strong: Array) -> None:
        """The same where the flat indices of the strong pixels are known."""
        self._keys.append(strong + number * frame.size)
        self._counts.append(frame.reshape(-1)[strong].astype(np.int64))

    def spots(self) -> Spots:
        """The spots of all frames so far."""
        keys = np.concatenate([np.empty(0, np.int64), *self._keys])
        counts = np.concatenate([np.empty(0, np.int64), *self._counts])
        labels, number = components(keys, self._shape)
        return _sensible(*_measured(keys, counts, labels, number, self._shape))


def unsigned(frame: Array) -> Array:
    """A frame of any type as uint32; what is no count (negative, NaN) becomes uint32's top value."""
    with np.errstate(invalid="ignore"):
        values = np.nan_to_num(frame.astype(np.float64), nan=-1.0, posinf=-1.0)
    return np.where(values < 0, 2.0**32 - 1, np.minimum(values, 2.0**32 - 1)).astype(np.uint32)


def _measured(
    keys: Array, counts: Array, labels: Array, number: int, shape: tuple[int, int]
) -> tuple[Spots, NDArray[np.float64]]:
    """The components' sums and centres, and how far each one's strongest pixel is from its centre."""
    z, inside = np.divmod(keys, shape[0] * shape[1])
    y, x = np.divmod(inside, shape[1])
    size = np.bincount(labels, minlength=number)
    total = np.bincount(labels, counts, number)
    centre = [np.bincount(labels, counts * (axis + 0.5), number) / np.maximum(total, 1) for axis in (x, y, z)]
    # Sorted by component and count, the last of each component is its strongest pixel.
    order = np.lexsort((counts, labels))
    peak = order[np.cumsum(size) - 1] if number else order
    distance = np.sqrt(sum((a[peak] + 0.5 - c) ** 2 for a, c in zip((x, y, z), centre, strict=True)))
    box = np.empty((number, 6), np.int64)
    starts = np.cumsum(size) - size
    grouped = np.argsort(labels, kind="stable")
    for k, axis in enumerate((x, y, z)):
        if number:
            box[:, 2 * k] = np.minimum.reduceat(axis[grouped], starts)
            box[:, 2 * k + 1] = np.maximum.reduceat(axis[grouped], starts) + 1
    x_mean, y_mean, z_mean = centre
    return Spots(x_mean, y_mean, z_mean, total.astype(np.int64), size.astype(np.int64), box), distance


def _sensible(spots: Spots, distance: NDArray[np.float64]) -> Spots:
    return spots[(spots.pixels >= SMALLEST) & (spots.pixels <= LARGEST) & (distance <= MAX_SEPARATION)]
