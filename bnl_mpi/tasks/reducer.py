"""The pixels: frames in, one image out.

The hot path is in `bnl_mpi.pixels.kernels`; `-L`, `-X`, `-R`, `-C` and float output, which nobody uses on a whole
archive, take NumPy.  All arrays are (slow, fast) and C-contiguous, and all buffers are made once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ..job import Job, transform_counts
from ..pixels import fused, kernels, maps
from ..pixels.gaps import GapFiller
from ..pixels.patterns import ZeroPattern

Array = np.ndarray[Any, Any]


def zeroed(shape: tuple[int, int], patterns: tuple[ZeroPattern, ...]) -> Array:
    """(ny, nx) bool: the pixels that `-R` and `-C` set to 0."""
    chosen = np.zeros(shape, bool)
    for pattern in patterns:
        if pattern.group is not None:
            k, n = pattern.group
            along = np.arange(shape[pattern.axis]) % n < k
            chosen |= along[:, None] if pattern.axis == 0 else along[None, :]
        else:
            chosen[slice(*pattern.rows), slice(*pattern.columns)] = True
    return chosen


class _Masks(NamedTuple):
    """What a pixel mask comes to, for one binning; not to be changed."""

    mask: kernels.Mask
    """Of frames, as `kernels.accumulate` takes it soonest."""
    blank: Array | None
    """(oy, ox) uint8: 1 where every contribution to an image pixel is flagged."""
    blank_runs: Array | None
    n_blank: int


@functools.lru_cache(maxsize=1)
def _masks_of(
    packed: bytes | None, shape: tuple[int, int], binning: int, dtype: str, compiled: ModuleType | None
) -> _Masks:
    """Of `Job.packed_mask`.  Kept for the next set, which as a rule has the same one.

    `compiled` is `kernels.compiled()`, on which the mask's form depends.
    """
    if packed is None:
        return _Masks(None, None, None, 0)
    flagged = maps.unpacked(packed, shape)
    blank = maps.mask_blank(flagged, binning)
    mask = kernels.pack_mask(flagged, binning, shape, np.dtype(dtype))
    for array in (blank, flagged):
        array.flags.writeable = False
    return _Masks(mask, blank, kernels.mask_runs(blank, 1), int(np.count_nonzero(blank)))


class Reducer:
    """Adds up frames and finishes images.

    Use: `add` or `add_chunks` for the frames, then `image`; with a codec `values`, and `mark` for what it gave back.
    """

    def __init__(self, job: Job, values_dtype: str) -> None:
        """`values_dtype` is what comes next wants: the codec's image type, or the output's."""
        plan, self._options = job.plan, job.options
        self._plan = plan
        made = _masks_of(job.packed_mask, plan.shape_in, plan.binning, plan.dtype_in, kernels.compiled())
        mask, self._blank, self._blank_runs, self._n_blank = made
        ny, nx = maps.binned_shape(plan.shape_in, plan.binning)
        source = np.dtype(plan.dtype_in)
        self.frame = np.empty(plan.shape_in, source)
        """The buffer that the caller reads frames into."""
        self._total: Array = np.zeros((ny, nx), self._sum_type(source))
        self._flags = np.zeros((ny, nx), np.uint8)
        self._scaled = plan.saturation == "scaled"
        cut = plan.satval if self._scaled else None
        self._sums = fused.Sums(mask, plan.binning, self._total, self._flags, cut)
        self._dtype = np.dtype(plan.dtype_out)
        plain = not (self._options.logarithm or self._options.exponential or self._options.zero)
        self._plain = plain and source.kind != "f" and self._dtype.kind != "f"
        self._values = np.zeros((ny, nx), values_dtype if self._plain else np.float64)
        self._coded_type = np.dtype(values_dtype)
        self._out = np.zeros((ny, nx), self._dtype)
        self._cut = None if self._scaled else plan.satval
        self._zeroed = zeroed((ny, nx), self._options.zero) if self._options.zero else None
        self._gaps = GapFiller(self._blank) if self._options.fill_gaps and not self._options.keep else None
        self._chunks: fused.ImageChunks | None = None
        self.n_clipped = self.n_invalid = 0
        self._first = True

    def _sum_type(self, source: np.dtype[Any]) -> type:
        """The narrowest type in which no sum of contributions can wrap."""
        if source.kind == "f":
            return np.float64
        top = kernels.top_value(source)
        greatest = int(top) * self._plan.binning**2 * self._plan.sum
        return np.uint32 if greatest < 2**32 else np.uint64

    def add(self) -> None:
        """Add the frame in `self.frame`."""
        now = self._now()
        kernels.accumulate(self.frame, now.mask, now.binning, now.total, now.flags, now.satval, first=now.first)

    def blot(self) -> None:
        """Make the image in hand invalid in all its pixels, whatever frames were added."""
        self._total[...] = 0
        self._flags[...] = kernels.FLAG_INVALID
        self._first = False

    def add_chunks(self, chunks: Sequence[Any]) -> None:
        """Decode bslz4 chunks and add their frames in one pass, a few rows at a time in the cache."""
        self._reduce(chunks, None)

    def values(
        self, frames: range, chunks: Sequence[Any] = (), pooled: Callable[[Array], fused.Pooling | None] | None = None
    ) -> Array:
        """The image that the frames added so far make, and those of `chunks`, which `add_chunks` takes.

        As it is before the codec: invalid pixels are 0, or filled.  ChunkError as from `fused.bslz4_reduce`.
        `pooled` gives what is pooled of the array that will be returned, if this can be.
        """
        if self._plain:
            self._finish(chunks, self._values, 0, pooled and pooled(self._values))
            values = self._values
        else:
            if chunks:
                self.add_chunks(chunks)
            values, self.n_clipped, self.n_invalid = self._finish_in_double(frames)
        self._first = True
        if self._gaps is not None:
            self._gaps.fill(values, self.invalid() if self._has_own_invalid() else None)
        return values

    def image(self, frames: range, chunks: Sequence[Any] = ()) -> Array:
        """The output image without a codec, as `mark` of `values` would give it, and of the same array."""
        if not self._plain:
            return self.mark(self.values(frames, chunks))
        self._finish(chunks, self._out, int(kernels.mark_value(self._dtype)))
        self._first = True
        return self._out

    def streams(self, tiling: fused.Tiling | None) -> bool:
        """Whether `chunk` can be called from now on, with that tiling."""
        plain = self._plain and self._gaps is None and fused.have_images()
        if plain and kernels.fits(self._total, self._ending(self._out, 0)):
            self._chunks = fused.ImageChunks(self._plan.shape_out, self._dtype, tiling)
        return self._chunks is not None

    def chunk(self, chunks: Sequence[Any]) -> fused.Made:
        """The bslz4 chunk of the image that the frames added so far make, and those of `chunks`, at least one.

        No pixels are left; `invalid` and what else looks at flags must not be asked.
        """
        assert self._chunks is not None
        ending = self._ending(self._out, int(kernels.mark_value(self._dtype)))
        shape, dtype = self._plan.shape_in, self.frame.dtype
        made = self._chunks.make(chunks, shape, dtype, self._now(), ending)
        self._first = True
        self.n_clipped, self.n_invalid = made.n_clipped, made.n_invalid
        return made

    def _now(self) -> fused.Sums:
        first, self._first = self._first, False
        return self._sums._replace(first=first)

    def _reduce(
        self, chunks: Sequence[Any], ending: kernels.Ending | None, pooling: fused.Pooling | None = None
    ) -> tuple[int, int]:
        shape, dtype = self._plan.shape_in, self.frame.dtype
        return fused.bslz4_reduce(chunks, shape, dtype, self._now(), ending, pooling)

    def _ending(self, out: Array, invalid: int) -> kernels.Ending:
        limit = int(self._plan.limit)
        return kernels.Ending(
            self._blank, self._cut, self._plan.scale, limit, self._scaled, out, invalid, self._blank_runs
        )

    def _finish(self, chunks: Sequence[Any], out: Array, invalid: int, pooling: fused.Pooling | None = None) -> None:
        ending = self._ending(out, invalid)
        if chunks:
            finished = self._reduce(chunks, ending, pooling)
        else:
            finished = kernels.finish(self._total, self._flags, *ending)
        self.n_clipped, self.n_invalid = finished

    def _finish_in_double(self, frames: range) -> tuple[Array, int, int]:
        invalid = self.invalid() != 0
        total = self._total.astype(np.float64)
        cut = np.zeros(total.shape, bool) if self._cut is None else total > self._cut
        values = total if self._cut is None else np.minimum(total, self._cut)
        if self._plan.scale != 1:
            values = np.trunc(values * self._plan.scale)
        values = transform_counts(values, self._options)
        if self._dtype.kind != "f":
            # An inverse gives counts back: a hair below an integer is that integer.
            values = np.rint(values) if self._options.exponential else np.trunc(values)
        if self._scaled:
            values[(self._flags & kernels.FLAG_SATURATED) != 0] = self._plan.limit
        cut |= values > self._plan.limit
        values = np.minimum(values, self._plan.limit)
        if not self._options.unclipped:
            values = np.maximum(values, 0)
        if self._zeroed is not None and self._omits(frames):
            values[self._zeroed] = 0
        values[invalid] = 0
        return values.astype(self._coded_type), int((cut & ~invalid).sum()), int(invalid.sum())

    def _omits(self, frames: range) -> bool:
        ranges = self._options.omit
        return not ranges or any(first - 1 < frames.stop and frames.start < last for first, last in ranges)

    def _has_own_invalid(self) -> bool:
        """Whether this image has pixels that are invalid, but not in all images."""
        return self.n_invalid != self._n_blank

    def invalid(self) -> Array:
        """(oy, ox) uint8: not 0 where the image is invalid."""
        bad = self._flags & kernels.FLAG_INVALID
        return bad if self._blank is None else bad | self._blank

    @property
    def flags(self) -> Array:
        """(oy, ox) uint8, as `kernels.accumulate` left them."""
        return self._flags

    @property
    def blank(self) -> Array | None:
        """(oy, ox) uint8: not 0 where every image is invalid; None without a mask."""
        return self._blank

    def invalid_beyond_blank(self) -> Array:
        """Flat indices (slow * nx + fast), uint32, of the pixels that are invalid in this image but not in all."""
        if not self._has_own_invalid():
            return np.empty(0, "<u4")
        bad = self._flags & kernels.FLAG_INVALID
        if self._blank is not None:
            bad = bad & (self._blank == 0)
        return np.flatnonzero(bad).astype("<u4")

    def mark(self, values: Array) -> Array:
        """The output image of `values`, clipped to 0..satval' and marked where invalid.

        The array is this object's own and holds until the next image is made; `values` may be it.
        """
        if self._dtype.kind == "f":
            np.copyto(self._out, values, casting="unsafe")
            self._out[self.invalid() != 0] = np.nan
            return self._out
        mark = int(kernels.mark_value(self._dtype))
        # In place where that can be: what isn't written needn't be in memory.
        out = values if values is self._values and values.dtype == self._dtype else self._out
        kernels.mark(values, self._flags, self._blank, int(self._plan.limit), mark, out)
        return out
