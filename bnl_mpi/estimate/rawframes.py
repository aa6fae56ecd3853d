"""A group's frames as they are, decoded, and the spots in them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..input.frames import FrameReader
from ..job import Job
from ..pixels import maps
from ..pixels.kernels import top_value
from ..spots import sizes as spot_sizes
from ..spots.finder import SpotFinder, Spots, unsigned
from ..spots.shoebox import Layer
from ..spots.whole import hot_pixels

Array = NDArray[Any]


class RawFrames:
    """A group's frames, decoded, and what can be seen in them."""

    def __init__(self, job: Job, frames: range, reader: FrameReader, flagged: Array | None) -> None:
        """`job`: of the frames as they are, -b 1 -s 1; `flagged`: (ny, nx), not 0 where the mask flags a pixel."""
        self.frames, self.shape = frames, job.plan.shape_in
        self.images: dict[int, Array] = {}
        dtype = np.dtype(job.plan.dtype_in)
        finder = SpotFinder(self.shape, flagged)
        bad = np.zeros(self.shape, np.uint8) if flagged is None else flagged.copy()
        self._strong: dict[int, Array] = {}
        for frame in frames:
            image = np.empty(self.shape, dtype)
            reader.decode(reader.fetch(frame, image), frame, image)
            if dtype.kind != "u" or dtype.itemsize > 4:
                image = unsigned(image)
            bad |= image > min(top_value(image.dtype), job.plan.satval)
            self.images[frame] = image
            strong = finder.strong(image)
            self._strong[frame] = np.flatnonzero(strong)
            finder.take(frame, image, self._strong[frame])
        self.hot = hot_pixels(list(self._strong.values()), self.shape)
        # A bin would spread them into the spots beside them.
        bad.reshape(-1)[self.hot] = 1
        self.bad = bad
        self.spots: Spots = _extended(finder.spots())
        self.half_duration = 0.5
        """Frames that found spots last on either side of their centres."""
        self.sigma = spot_sizes.spot_sigma(self.images, self.spots)
        self._bad_binned: dict[int, Array] = {1: bad}

    def bad_binned(self, binning: int) -> Array:
        """(oy, ox), not 0 where a pixel of a bin is flagged, invalid or saturated in some frame."""
        if binning not in self._bad_binned:
            self._bad_binned[binning] = maps.bin_mask(self.bad, binning).astype(np.uint8)
        return self._bad_binned[binning]

    def strong_binned(self, frames: range, binning: int, halo: int = 0) -> Array:
        """(oy, ox) uint8: 1 where a bin holds a strong pixel of one of the frames, or is within `halo` raw pixels."""
        oy, ox = maps.binned_shape(self.shape, binning)
        strong = np.zeros((oy, ox), np.uint8)
        found = [self._strong[frame] for frame in frames if frame in self._strong]
        y, x = np.divmod(np.concatenate([np.empty(0, np.int64), *found]), self.shape[1])
        for dy in range(-halo, halo + 1, max(1, binning)) if halo else (0,):
            for dx in range(-halo, halo + 1, max(1, binning)) if halo else (0,):
                rows = np.clip(y + dy, 0, self.shape[0] - 1) // binning
                strong[rows, np.clip(x + dx, 0, self.shape[1] - 1) // binning] = 1
        return strong

    def strong_at(self, x: Array, y: Array) -> Array:
        """(frames, n) bool: whether a frame has a strong pixel at a position, or beside it."""
        ny, nx = self.shape
        steps = np.arange(-1, 2)
        rows = np.clip(y.astype(np.int64)[:, None, None] + steps[:, None], 0, ny - 1)
        pixels = rows * nx + np.clip(x.astype(np.int64)[:, None, None] + steps, 0, nx - 1)
        found = [np.isin(pixels, self._strong[frame]).any(axis=(1, 2)) for frame in self.frames]
        return np.array(found).reshape(len(self.frames), len(x))

    def layers(self) -> list[Layer]:
        """The frames themselves."""
        return [
            Layer(range(f, f + 1), image, self.bad, self.strong_binned(range(f, f + 1), 1))
            for f, image in self.images.items()
        ]


def _extended(spots: Spots) -> Spots:
    """Those of more than one pixel: a hot pixel is one in every frame."""
    box = spots.box
    return spots[(box[:, 1] - box[:, 0] > 1) | (box[:, 3] - box[:, 2] > 1)]
