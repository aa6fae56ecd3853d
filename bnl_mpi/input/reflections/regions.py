"""Reflections as regions of images: discs in whole numbers, the same on every rank, and small when packed."""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...plan import Plan
from .value import Reflections

Array = np.ndarray[Any, Any]

UNITS = 8
"""Positions and radii are in eighths of an image's pixel; reflections are known no better."""

_FILTERS: list[dict[str, Any]] = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 0, "lp": 0, "pb": 0}]

_LEAST_DICTIONARY, _LARGEST_DICTIONARY = 1 << 16, 1 << 26
"""The latter is the preset's: making it ready takes thirty times as long as packing what a block tells."""


@dataclass(frozen=True)
class Regions:
    """n discs, each on some images in a row; one element of each array a disc."""

    discs: Array
    """(n, 3) int32: x (fast), y (slow) and radius in eighths of an image's pixel, from the first one's corner."""
    first: Array
    """int32: the first image that a disc is on, counted from 0."""
    last: Array
    """int32: the last one, included."""

    def __len__(self) -> int:
        return len(self.first)

    def on(self, image: int) -> Array:
        """(k, 3) int32: the discs of an image."""
        found: Array = self.discs[(self.first <= image) & (image <= self.last)]
        return found

    def among(self, images: range) -> Regions:
        """Those on some of `images`, cut to them."""
        chosen = (self.last >= images.start) & (self.first < images.stop)
        first = np.maximum(self.first[chosen], images.start)
        last = np.minimum(self.last[chosen], images.stop - 1)
        return Regions(self.discs[chosen], first, last)

    def packed(self) -> bytes:
        """As few bytes, in the order given or in one of place: neighbours in a row of the lattice are alike."""
        columns = [self.discs[:, 0], self.discs[:, 1], self.first, self.last - self.first, self.discs[:, 2]]
        placed = np.lexsort((self.discs[:, 0], self.discs[:, 1], self.first))
        orders = (_planes(columns), _planes([c[placed] for c in columns]))
        # The quick code tells which is smaller; the thorough one takes ten times as long.
        return _packed(min(orders, key=lambda planes: len(zlib.compress(planes, 1))), len(self))


def unpacked(data: bytes) -> Regions:
    x, y, first, more, radius = unpack_columns(data, 5)
    return Regions(np.stack([x, y, radius], 1), first, (first + more).astype(np.int32))


NO_REGIONS = Regions(np.empty((0, 3), np.int32), np.empty(0, np.int32), np.empty(0, np.int32))


def pack_columns(columns: Sequence[Array]) -> bytes:
    """Columns of whole numbers of one length, made small: differences, their bytes by significance, LZMA."""
    return _packed(_planes(columns), len(columns[0]))


def _planes(columns: Sequence[Array]) -> bytes:
    planes = []
    for column in columns:
        steps = np.diff(column.astype(np.int64), prepend=0)
        unsigned = np.where(steps < 0, -2 * steps - 1, 2 * steps).astype("<u8")
        planes.append(unsigned.view(np.uint8).reshape(-1, 8)[:, :5].T.tobytes())
    return b"".join(planes)


def _packed(planes: bytes, n: int) -> bytes:
    size = max(_LEAST_DICTIONARY, 1 << len(planes).bit_length())
    filters = [{**_FILTERS[0], "dict_size": min(size, _LARGEST_DICTIONARY)}]
    return struct.pack("<Q", n) + lzma.compress(planes, lzma.FORMAT_RAW, filters=filters)


_MOST_BYTES = 1 << 30


def unpack_columns(data: bytes, n_columns: int) -> list[Array]:
    """int32 columns of what `pack_columns` made; ValueError where that isn't it."""
    try:
        (n,) = struct.unpack_from("<Q", data)
        size = 5 * n * n_columns
        # No more than is told, and no more than anybody stores: a few bytes may say that they are many gigabytes.
        if size > _MOST_BYTES:
            raise ValueError(f"packed regions are damaged: {n} of them")
        raw = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_FILTERS).decompress(data[8:], size + 1)
    except (struct.error, lzma.LZMAError) as error:
        raise ValueError(f"packed regions are damaged: {error}") from error
    if len(raw) != size:
        raise ValueError("packed regions are damaged: of another length than they say")
    found = []
    for planes in np.frombuffer(raw, np.uint8).reshape(n_columns, 5, n):
        wide = np.zeros((n, 8), np.uint8)
        wide[:, :5] = planes.T
        unsigned = wide.view("<u8")[:, 0].astype(np.int64)
        steps = np.where(unsigned & 1, -((unsigned + 1) // 2), unsigned // 2)
        found.append(np.cumsum(steps).astype(np.int32))
    return found


def regions_of(reflections: Reflections, plan: Plan) -> Regions:
    """The discs on the plan's images; reflections on none of these, or beside the detector, are left out.

    A disc's radius is the reflection's, in pixels of the image, and half a pixel more; and an eighth, so that no pixel
    is lost by the rounding of its place.
    """
    first = np.maximum(reflections.first - plan.first_frame, 0) // plan.sum
    last = np.minimum(reflections.last - plan.first_frame, plan.n_frames - 1) // plan.sum
    ny, nx = plan.shape_in
    x, y, r = reflections.x, reflections.y, reflections.radius
    near = (x > -r) & (y > -r) & (x < nx + r) & (y < ny + r)
    chosen = near & (reflections.last >= plan.first_frame) & (first <= last)
    scale = UNITS / plan.binning
    discs = np.stack([np.rint(x * scale), np.rint(y * scale), np.ceil(r * scale) + UNITS // 2 + 1], 1)
    return Regions(
        discs[chosen].astype(np.int32),
        first[chosen].astype(np.int32),
        last[chosen].astype(np.int32),
    )
