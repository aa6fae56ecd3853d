"""Frames behind virtual datasets.

A virtual dataset gives its fill value where no source covers a frame, or where a source's file isn't there.  So
sources of whole frames are opened here one by one, and what HDF5 puts together is looked at first.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

import h5py

from ..errors import InputError
from ..hdf5 import access
from ..pixels import kernels
from .hdf5frames import NEVER_WRITTEN, Hdf5Frames, extent_of, frames_in, open_dataset, read_through_hdf5
from .links import resolve_link
from .reading import Array, Extent, Fetched, Fingerprint, Room, SegmentReader, Stamp, stamp
from .source import Segment, Source

MOST_LEVELS = 8
"""Virtual datasets over virtual datasets: more levels are taken for a circle."""

Piece = tuple[int, Segment]
"""The number of the first frame in the virtual dataset, and where this and the following are."""


def pieces_of(dataset: Any, path: str, channel: int = 0) -> list[Piece] | None:
    """What the virtual dataset (n, ny, nx) or (n, channel, ny, nx) of the file `path` is made of, in order.

    Frames that no source covers are in none of them.  None if the sources aren't of whole frames.
    """
    pieces: list[Piece] = []
    for source in dataset.virtual_sources():
        try:
            start, stride, count, block = source.vspace.get_regular_hyperslab()
        except (RuntimeError, ValueError, TypeError):
            return None
        # An unlimited selection goes as far as the dataset does.
        extent = [min(c * b, n) for c, b, n in zip(count, block, dataset.shape, strict=True)]
        if dataset.ndim == 4 and not start[1] <= channel < start[1] + extent[1]:
            continue
        whole = extent[-2:] == list(dataset.shape[-2:]) and not any(start[-2:])
        if dataset.ndim < 3 or not whole or (count[0] > 1 and stride[0] != block[0]):
            return None
        first = 0
        if source.src_space.get_select_type() == h5py.h5s.SEL_HYPERSLABS:
            first = source.src_space.get_regular_hyperslab()[0][0]
        there, name = _behind(dataset, source, path)
        n_frames = min(extent[0], dataset.shape[0] - start[0])
        pieces.append((int(start[0]), Segment(there, name, int(first), int(n_frames))))
    return sorted(pieces, key=lambda piece: piece[0])


def segments_of(dataset: Any, path: str, channel: int = 0) -> list[Segment] | None:
    """The segments behind a virtual dataset that is made of whole frames in order, without a hole; else None."""
    pieces = pieces_of(dataset, path, channel) or []
    here = 0
    for begin, segment in pieces:
        if begin != here:
            return None
        here += segment.count
    return [segment for _, segment in pieces] if pieces and here == dataset.shape[0] else None


def _behind(dataset: Any, source: Any, path: str) -> tuple[str, str]:
    """(path, dataset) of one source of a virtual dataset; one in the same file may be a link to another."""
    if source.file_name != ".":
        return resolve_link(source.file_name, path), source.dset_name
    link = access.link(dataset.file, source.dset_name)
    if isinstance(link, h5py.ExternalLink):
        return resolve_link(link.filename, path), link.path
    return os.path.abspath(path), source.dset_name


def open_frames(
    segment: Segment, source: Source, stamps: dict[str, Stamp] | None = None, above: tuple[str, ...] = ()
) -> SegmentReader:
    """The reader of a segment in an HDF5 file; `above` names the virtual datasets that led here."""
    stamps = {} if stamps is None else stamps
    stamps.setdefault(segment.path, stamp(segment.path))
    dataset = open_dataset(segment.path, segment.dataset)
    try:
        if dataset.external:
            raise InputError(f"{segment}: keeps its values in other files (external storage); that isn't followed")
        if not dataset.is_virtual:
            return Hdf5Frames(dataset, segment, source, stamps)
        place = f"{os.path.realpath(segment.path)}:{dataset.name}"
        if place in above or len(above) >= MOST_LEVELS:
            raise InputError(f"{segment}: virtual datasets lead in a circle")
        return VirtualFrames(dataset, segment, source, stamps, (*above, place))
    except BaseException:
        dataset.file.close()
        raise


class VirtualFrames:
    """Reads the frames of a virtual dataset; see `reading.SegmentReader`."""

    def __init__(
        self, dataset: Any, segment: Segment, source: Source, stamps: dict[str, Stamp], above: tuple[str, ...]
    ) -> None:
        self.stamps = stamps
        self._dataset, self._segment, self._source, self._above = dataset, segment, source, above
        self._pieces = pieces_of(dataset, segment.path, source.channel)
        self._inner: SegmentReader | None = None
        self._inner_at: tuple[str, str] | None = None
        self._sound: set[Segment] = set()

    def close(self) -> None:
        self._close_inner()
        self._dataset.file.close()

    def _close_inner(self) -> None:
        if self._inner is not None:
            self._inner.close()
        self._inner = None

    def extent(self) -> Extent:
        return extent_of(self._dataset)

    def fingerprint(self) -> Fingerprint:
        d, path = self._dataset, self._segment.path
        digest = hashlib.sha256(f"{d.shape} {d.dtype.str}".encode())
        for one in d.virtual_sources():
            digest.update(
                f"{os.path.basename(one.file_name)} {one.dset_name} {one.vspace.get_select_bounds()}".encode()
            )
        name = os.path.basename(path)
        return Fingerprint(name, self._segment.dataset, self.stamps[path].size, frames_in(d.shape), digest.hexdigest())

    def fetch(self, index: int, out: Array, room: Room) -> Fetched:
        if self._pieces is None:
            return self._fetch_tiles(index, out)
        for begin, segment in self._pieces:
            if begin <= index < begin + segment.count:
                return self._open(segment).fetch(segment.start + index - begin, out, room)
        raise OSError(f"{NEVER_WRITTEN}: no source of the virtual dataset holds it")

    def _open(self, segment: Segment) -> SegmentReader:
        if self._inner is None or self._inner_at != (segment.path, segment.dataset):
            self._close_inner()
            self._inner = open_frames(segment, self._source, self.stamps, self._above)
            self._inner_at = (segment.path, segment.dataset)
            if self._inner.extent().shape != self._source.shape:
                raise InputError(f"{segment}: frames of another shape than those of {self._segment}")
        return self._inner

    def _fetch_tiles(self, index: int, out: Array) -> Fetched:
        """A frame that HDF5 puts together, of the parts of a detector say; gaps between them are no fault."""
        at = {2: (), 3: (index,)}.get(self._dataset.ndim, (index, self._source.channel))
        covered = [one for one in self._dataset.virtual_sources() if self._touches(one, at)]
        if not covered:
            raise OSError(f"{NEVER_WRITTEN}: no source of the virtual dataset holds it")
        for one in covered:
            self._check_tile(Segment(*_behind(self._dataset, one, self._segment.path), 0, 1))
        read_through_hdf5(self._dataset, at, out)
        return Fetched(None, None, out.nbytes, kernels.crc32(out))

    def _touches(self, one: Any, at: tuple[int, ...]) -> bool:
        space = one.vspace.copy()
        shape = (1,) * len(at) + self._source.shape
        space.select_hyperslab((*at, 0, 0), shape, op=h5py.h5s.SELECT_AND)
        return bool(space.get_select_npoints())

    def _check_tile(self, segment: Segment) -> None:
        if segment in self._sound:
            return
        self.stamps.setdefault(segment.path, stamp(segment.path))
        with open_dataset(segment.path, segment.dataset).file as file:
            tile = file[segment.dataset]
            if tile.is_virtual or tile.external:
                raise OSError(f"{segment} is virtual itself, or kept in other files; that isn't followed")
            if not tile.id.get_storage_size():
                raise OSError(f"{NEVER_WRITTEN}: {segment} is empty")
        self._sound.add(segment)
