"""Spots integrated by summation over their shoeboxes, with the background around each, on frames of any binning."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

FOREGROUND_SIGMAS = 3.0
RING = 4.0
"""Pixels from the foreground's edge to the background's, at least; two binned pixels where these are larger."""
SMALLEST_RING = 8
"""Valid background pixels that a spot needs, over all its images."""


@dataclass(frozen=True)
class Boxes:
    """n spots to integrate.  Positions in raw pixels, 0 the first pixel's outer corner; frames counted from 0."""

    x: Array
    y: Array
    z0: Array
    """(n,) int: first frame."""
    z1: Array
    """(n,) int: end of the frames, excluded."""
    radius: float
    """Half the foreground's width, raw pixels."""

    def __len__(self) -> int:
        return len(self.x)


class Layer(NamedTuple):
    """One image of a stack: the frames that it sums, its pixels, and which can't be used."""

    frames: range
    image: Array
    """(oy, ox) counts."""
    bad: Array
    """(oy, ox), not 0 where a pixel isn't wholly valid."""
    strong: Array
    """(oy, ox), not 0 where a pixel holds one that is strong in the raw frames: no background there."""


class Sums(NamedTuple):
    """Of n spots."""

    counts: Array
    """(n,) float64: foreground less background."""
    sigma: Array
    """(n,) float64: Poisson's, of foreground and background."""
    good: Array
    """(n,) bool: whole, and with background enough."""


def integrate(layers: Iterable[Layer], binning: int, boxes: Boxes, scale: float = 1.0) -> Sums:
    """Sum every spot over the frames' pixels that its box touches, in every image that has one of its frames.

    A binned pixel counts by the share of it that the box touches, so that the area is the same at any binning: to a
    program that fits profiles, what lies beyond a spot weighs next to nothing.

    `binning`: of the images.  `scale`: the factor on their counts; sums are in the frames' counts.
    """
    n = len(boxes)
    inside, spread, n_inside, around, n_around = (np.zeros(n) for _ in range(5))
    touched, broken = np.zeros(n, bool), np.zeros(n, bool)
    for layer in layers:
        chosen = np.flatnonzero((boxes.z0 < layer.frames.stop) & (boxes.z1 > layer.frames.start))
        if not len(chosen):
            continue
        window = _Window(boxes.x[chosen], boxes.y[chosen], boxes.radius, binning, layer.image.shape)
        values, bad = window.of(layer.image).astype(np.float64), window.of(layer.bad) != 0
        free = window.ring & ~bad & (window.of(layer.strong) == 0)
        touched[chosen] = True
        weight = window.foreground
        broken[chosen] |= window.cut | (bad & (weight > 0)).any(axis=1)
        inside[chosen] += (weight * values).sum(axis=1)
        spread[chosen] += (weight**2 * values).sum(axis=1)
        n_inside[chosen] += weight.sum(axis=1)
        around[chosen] += np.where(free, values, 0).sum(axis=1)
        n_around[chosen] += free.sum(axis=1)
    good = touched & ~broken & (n_around >= SMALLEST_RING)
    mean = around / np.maximum(n_around, 1) / scale
    share = n_inside / np.maximum(n_around, 1)
    counts = inside / scale - n_inside * mean
    variance = spread / scale + share**2 * around / scale
    return Sums(counts, np.sqrt(np.maximum(variance, 1.0)), good)


class _Window:
    """The pixels around n spots: shares of them that the foreground touches, and a ring around these."""

    def __init__(self, x: Array, y: Array, radius: float, binning: int, shape: tuple[int, ...]) -> None:
        ring = radius + max(RING, 2.0 * binning)
        size = int(np.ceil(2 * ring / binning)) + 1
        near, far, first = [], [], []
        cut = np.zeros(len(x), bool)
        self._index: list[Array] = []
        for centre, length in ((y, shape[0]), (x, shape[1])):
            start = np.floor((centre - ring) / binning).astype(np.int64)
            index = start[:, None] + np.arange(size)
            distance = np.abs((index + 0.5) * binning - centre[:, None])
            pixels = binning * start[:, None] + np.arange(binning * size)
            inside = np.abs(pixels + 0.5 - centre[:, None]) < radius + 0.5
            near.append(inside.reshape(-1, size, binning).mean(axis=2))
            # Pixels beyond the frame's edge are no background, and no foreground that could be whole.
            within = (index >= 0) & (index < length)
            cut |= ((near[-1] > 0) & ~within).any(axis=1)
            far.append((distance < ring + binning / 2) & within)
            first.append(start)
            self._index.append(np.clip(index, 0, length - 1))
        n = len(x)
        self.cut = cut
        self.foreground: Array = (near[0][:, :, None] * near[1][:, None, :]).reshape(n, -1)
        self.ring = (far[0][:, :, None] & far[1][:, None, :]).reshape(n, -1) & (self.foreground == 0)

    def of(self, image: Array) -> Array:
        """(n, pixels of a window) of an image."""
        rows, columns = self._index
        taken: Array = image[rows[:, :, None], columns[:, None, :]].reshape(len(rows), -1)
        return taken
