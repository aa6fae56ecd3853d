"""`--keep`, image by image: regions exact, all else its smooth local mean.

A block's record tells what makes its regions again, beside those that the master tells: `kept_pixels`, packed columns
(image in the block, flat index) of pixels that are kept with their eight neighbours; `kept_discs`, under `auto`,
packed regions by image in the block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..input.reflections.regions import Regions, pack_columns, unpack_columns, unpacked
from ..input.reflections.selection import AUTO
from ..job import Job
from ..pixels import background, kernels
from ..pixels.background import ABSENT, KEPT, POSITION_UNITS, Chunk
from ..pixels.fused import Pooling, have_images
from ..plan import Plan
from ..spots.finder import SpotFinder

Array = np.ndarray[Any, Any]

PIXELS, DISCS = "kept_pixels", "kept_discs"
"""Names in a block's record."""

BLURRING = 0.4
"""A codec's rms error of kept pixels, in the background's own sigmas, beyond which it hurts weak spots."""

AUTO_RADIUS = 5.0
"""Pixels of a frame, about strong spots."""


@dataclass(frozen=True)
class Kept:
    """What became of an image."""

    where: Array | None
    """Flat indices (slow * nx + fast) of the valid pixels that are kept; None where nobody needed them."""
    n_kept: int
    """Their number."""
    centres: Array
    """Flat indices of pixels that are kept with their neighbours, though no region names them."""
    sum_before: int
    sum_after: int
    """Counts of all valid pixels."""


def also_kept(rectangles: Sequence[tuple[int, int, int, int]], plan: Plan) -> Array:
    """(ny, nx) uint8: KEPT on all of an image's pixels that `--keep_also` touches."""
    b, state = plan.binning, np.zeros(plan.shape_out, np.uint8)
    for x0, x1, y0, y1 in rectangles:
        state[y0 // b : y1 // b + 1, x0 // b : x1 // b + 1] = KEPT
    return state


class Keeper:
    """Makes images of regions and a smooth level: `take`, then `apply` or `chunk`, of each."""

    def __init__(self, job: Job, blank: Array | None) -> None:
        """`blank`, (ny, nx) uint8: not 0 where every image is invalid."""
        assert job.keeping is not None
        options, plan = job.options, job.plan
        self._regions = unpacked(job.keeping.regions)
        self._background = background.Background(plan.shape_out, plan.binning, int(plan.limit))
        self._low = background.low_level(exact=options.keep_exact, is_coded=options.codec is not None)
        self._always = also_kept(options.keep_also, plan)
        if blank is not None:
            self._always[blank != 0] |= ABSENT
        radius = AUTO_RADIUS if options.keep_radius is None else options.keep_radius
        self._auto_radius = radius / plan.binning + 0.5 if AUTO in options.keep else None
        self._image = Image(np.empty((0, 3), np.int32), None)
        self._found = Found()
        alone = options.codec is None and not options.out_squash and options.compression == "bslz4"
        self.makes_chunks = alone and have_images()
        """Whether nobody needs the images, so that `chunk` is to be called."""
        self._mark = int(kernels.mark_value(plan.dtype_out))

    def begin(self) -> None:
        """A block starts."""
        self._found = Found()

    def take(self, image: int) -> Callable[[Array], Pooling | None]:
        """Image `image`, counted from 0, is the one in hand; returns what `Reducer.values` may call for it."""
        self._image = Image(self._regions.on(image), None)
        return self._pooling

    def _pooling(self, values: Array) -> Pooling | None:
        """What the image's making, which will set `values`, is to do besides; None where it can't be told yet."""
        if self._auto_radius is None and values.dtype == np.uint16:
            self._background.begin(values, self._always, self._image.discs)
            self._image.pooling = self._background.pooling(values)
        return self._image.pooling

    def apply(self, values: Array, flags: Array) -> Kept:
        """Change `values`, (ny, nx) counts, of the image in hand; `flags` as from `kernels.accumulate`."""
        # Some codecs want wider pixels; counts fit these.
        counts = values.astype(np.uint16, copy=False)
        centres = self._find(counts, flags)
        if centres is None:
            return self._nothing()
        applied = self._background.apply(counts, self._low)
        if counts is not values:
            values[...] = counts
        return Kept(applied.kept, len(applied.kept), centres, applied.sum_before, applied.sum_after)

    def chunk(self, values: Array, flags: Array) -> tuple[Kept, Chunk] | None:
        """What `apply` does, and the bslz4 chunk of the image, with marks where it is invalid; `values` stay.

        None, and nothing is changed, where all of it is.
        """
        centres = self._find(values, flags)
        if centres is None:
            return None
        made = self._background.chunk(values, self._low, self._mark)
        return Kept(None, made.n_kept, centres, made.sum_before, made.sum_after), made

    def _find(self, values: Array, flags: Array) -> Array | None:
        """Find what is to be kept: the pixels whose neighbours are, too; None where there is nothing in the image."""
        if flags.flat[0] & kernels.FLAG_INVALID and np.all(flags & kernels.FLAG_INVALID):
            # A frame of it couldn't be read: nothing is there to be kept.
            return None
        discs, pooling = self._image.discs, self._image.pooling
        if self._auto_radius is not None:
            strong = self._strong(values, flags, self._auto_radius)
            self._found.discs.append(strong)
            discs = np.concatenate([discs, strong])
        if pooling is None:
            self._background.begin(values, self._always, discs)
        centres = self._background.find(values, flags, pooling)
        self._found.centres.append(centres)
        return centres

    def _nothing(self) -> Kept:
        none = np.empty(0, np.int64)
        self._found.centres.append(none)
        if self._auto_radius is not None:
            self._found.discs.append(np.empty((0, 3), np.int32))
        return Kept(none, 0, none, 0, 0)

    def _strong(self, values: Array, flags: Array, radius: float) -> Array:
        """(n, 3) int32: discs about the strong spots of an image."""
        absent = ((self._always & ABSENT) != 0) | ((flags & 1) != 0)
        finder = SpotFinder((values.shape[0], values.shape[1]), absent.astype(np.uint8))
        finder.add(0, values)
        spots = finder.spots()
        columns = [np.rint(spots.x * POSITION_UNITS), np.rint(spots.y * POSITION_UNITS)]
        return np.stack([*columns, np.full(len(spots), np.ceil(radius * POSITION_UNITS))], 1).astype(np.int32)

    def record(self) -> dict[str, Array]:
        """What the block's record is to tell of the images since `begin`."""
        told = {PIXELS: packed_pixels(self._found.centres)}
        if self._auto_radius is not None:
            told[DISCS] = np.frombuffer(_stacked(self._found.discs).packed(), np.uint8)
        return told


@dataclass
class Image:
    """The one in hand."""

    discs: Array
    pooling: Pooling | None


@dataclass
class Found:
    """Of each image of a block: pixels, and discs, that no file names."""

    centres: list[Array] = field(default_factory=list)
    discs: list[Array] = field(default_factory=list)


def packed_pixels(centres: list[Array]) -> Array:
    images = np.repeat(np.arange(len(centres)), [len(c) for c in centres])
    return np.frombuffer(pack_columns([images, np.concatenate([*centres, np.empty(0, np.uint32)])]), np.uint8)


def _stacked(discs: list[Array]) -> Regions:
    images = np.repeat(np.arange(len(discs), dtype=np.int32), [len(d) for d in discs])
    return Regions(np.concatenate([*discs, np.empty((0, 3), np.int32)]), images, images)


class KeptRegions:
    """The regions of a block's images, out of its record and of what the master tells."""

    def __init__(self, group: Any, regions: Regions, always: Array) -> None:
        """`group`: the block's record; `regions`: of all images; `always`: (ny, nx) uint8, KEPT in all images.

        ValueError or KeyError where the record doesn't tell.
        """
        self._regions, self._always = regions, always
        self._images, self._pixels = unpack_columns(group[PIXELS][()].tobytes(), 2)
        self._own = unpacked(group[DISCS][()].tobytes()) if DISCS in group else None

    def of(self, image: int, index: int) -> Array:
        """(ny, nx) uint8: KEPT where image `image` of the set, `index` of the block, both from 0, is kept."""
        state: Array = self._always.copy()
        ny, nx = state.shape
        background.keep_discs(state, self._regions.on(image))
        if self._own is not None:
            background.keep_discs(state, self._own.on(index))
        y, x = np.divmod(self._pixels[self._images == index], nx)
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                near = (y + dy >= 0) & (y + dy < ny) & (x + dx >= 0) & (x + dx < nx)
                state[y[near] + dy, x[near] + dx] |= KEPT
        return state


def kept_figures(job: Job, reports: Sequence[Any]) -> dict[str, Any]:
    """What the blocks' reports tell of `--keep`, which the job must have."""
    assert job.keeping is not None

    def total(name: str) -> int:
        return sum(getattr(r, name) for r in reports)

    ny, nx = job.plan.shape_out
    n_measured = total("n_measured")
    n_pixels = total("n_images") * ny * nx
    n_kept_measured = total("n_kept_measured")
    n_rest = n_measured * ny * nx - n_kept_measured
    noise = math.sqrt(total("sum_after") / max(1, n_pixels))
    rms = math.sqrt(total("squared_error") / max(1, n_kept_measured))
    return {
        "files": [(file.name, file.n_reflections) for file in job.keeping.files],
        "share": total("n_kept") / max(1, n_pixels),
        "pixels_beside": total("n_kept_beside"),
        "sum_change": total("sum_after") / max(1, total("sum_before")) - 1,
        "greatest_background": max((r.greatest_background for r in reports), default=0) if n_measured else None,
        "rms_background": math.sqrt(total("squared_background") / max(1, n_rest)) if n_measured else None,
        "rms_in_sigmas": rms / noise if n_measured and noise else None,
    }


def kept_lines(kept: Mapping[str, Any]) -> list[str]:
    """`kept_figures` as text."""
    files = ", ".join(f"{n} reflections of {name}" for name, n in kept["files"]) or "strong spots alone"
    out = [
        f"kept {100 * kept['share']:.2f} % of the pixels: {files}, and {kept['pixels_beside']} pixels that stand out",
        f"the rest is its smooth level; counts in all changed by {100 * kept['sum_change']:+.3f} %",
    ]
    if kept["rms_background"] is not None:
        out.append(
            f"codec's greatest error of the level {kept['greatest_background']} counts, rms error "
            f"{kept['rms_background']:.3f} counts"
        )
    if (blur := kept["rms_in_sigmas"]) is not None and blur > BLURRING:
        out.append(
            f"the codec's rms error of kept pixels is {blur:.2f} of the background's own noise, and blurs weak spots: "
            "more frames summed, with -c zstd -l 9 and no codec, keep more in as few bytes"
        )
    return out
