"""`expand --background`: the background that `--keep` made smooth, with noise again, for programs that want it.

XDS scales frames by their background, and takes its noise for granted.  This noise is made, and everything that is
made of it says so; kept pixels have their own, and are put back on the level itself from its rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from ..hdf5 import access
from ..input.reflections.regions import unpacked
from ..options import Options
from ..output.master import read_regions
from ..pixels import background
from ..pixels.background import ABSENT, KEPT, LEVEL_ONE, Background
from ..pixels.gaps import Filler
from ..pixels.kernels_numpy import mark_value
from ..plan import Plan
from .keeping import KeptRegions, also_kept

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Redrawing:
    """What is drawn, and from what."""

    regions: bytes
    """Packed, as the set's master tells them."""
    also: tuple[tuple[int, int, int, int], ...]
    """`--keep_also` of the run that made the set."""
    low: int
    """Below this level its kept pixels weren't moved."""
    seed: int


class Redrawer:
    """Draws images anew; the same from the same seed, whoever makes which block."""

    def __init__(self, what: Redrawing, plan: Plan) -> None:
        self._what, self._limit = what, int(plan.limit)
        self._background = Background(plan.shape_out, plan.binning, self._limit)
        self._regions = unpacked(what.regions)
        self._always = also_kept(what.also, plan)
        self._mark = int(mark_value(plan.dtype_out))
        self._kept: KeptRegions | None = None

    def begin(self, group: Any) -> None:
        """A block starts, whose record is `group`."""
        self._kept = KeptRegions(group, self._regions, self._always)

    def redraw(self, stored: Array, image: int, index: int) -> Array:
        """The image `image` of the set, `index` of the block, both from 0, of its stored pixels (ny, nx) uint16."""
        assert self._kept is not None
        state, invalid = self._kept.of(image, index), stored == self._mark
        state[invalid] |= ABSENT
        smooth = np.where(invalid, 0, stored).astype(np.uint16)
        self._background.begin(smooth, state, np.empty((0, 3), np.int32))
        self._background.find(smooth, np.zeros(stored.shape, np.uint8))
        level, state = self._background.level(), self._background.state(smooth)
        rng = np.random.default_rng([self._what.seed, image])
        drawn = np.minimum(rng.poisson(level / LEVEL_ONE), self._limit)
        kept = (state & KEPT) != 0
        pixels = np.where(kept, self._put_back(smooth, kept | invalid, level), drawn)
        pixels[invalid] = self._mark
        return np.ascontiguousarray(pixels.astype(stored.dtype))

    def _put_back(self, stored: Array, hidden: Array, level: Array) -> Array:
        """What is kept, on the level again: where it was moved to the rounded one, which its surroundings show.

        The move is taken back by the dither that made it, so that most pixels are the counts that they were: another
        one would be noise of its own.
        """
        counts: Array = stored.astype(np.int64)
        rounded = counts.copy()
        Filler(hidden).fill(rounded)
        low = level < self._what.low
        change = background.dithered(rounded * LEVEL_ONE - level.astype(np.int64))
        moved = ~low & (counts < self._limit)
        return np.where(moved, np.clip(counts - change, 0, self._limit), counts)


def redrawing_of(options: Options, told: Mapping[str, Any], master: str) -> Redrawing | None:
    """What `--background` asks for, of a set made with the options `told`; InputError where that had no regions."""
    if options.background is None:
        return None
    with access.open_read(master) as h5:
        regions = read_regions(h5)
    if regions is None:
        raise InputError(f"{master}: not made with --keep, so that its background is its own: leave --background out")
    also = tuple((int(x0), int(x1), int(y0), int(y1)) for x0, x1, y0, y1 in told.get("keep_also", []))
    low = background.low_level(exact=bool(told.get("keep_exact")), is_coded=told.get("codec") is not None)
    return Redrawing(regions, also, low, options.seed)


def redrawing_notes(options: Options) -> list[str]:
    """What is to be said of it before the work."""
    if options.background is None:
        return []
    drawn = f"{options.background}, seed {options.seed}"
    return [f"the background is drawn anew ({drawn}): its noise is made, not measured"]
