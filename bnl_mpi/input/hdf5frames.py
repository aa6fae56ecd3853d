"""Frames in a dataset of an HDF5 file.

Chunks of one frame under bslz4, LZ4 or no filter are read as they are and decoded outside HDF5's lock; everything
else goes through h5py.  HDF5 gives zeros for what was never written; here that is an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from ..errors import InputError
from ..hdf5 import access
from ..hdf5.names import BITSHUFFLE, BITSHUFFLE_LZ4, LZ4
from ..pixels import kernels
from .reading import Array, Extent, Fetched, Fingerprint, Room, Stamp
from .source import Segment, Source

NEVER_WRITTEN = "the frame was never written"

CHUNK_SLACK = 1 << 16
AHEAD = 2
"""Frames that the system is told to read while the ones before them are worked on."""

LARGEST_CHUNK = 1 << 30
"""Bytes: a chunk, decoded, is no larger than this or than a frame."""


def open_dataset(path: str, name: str) -> Any:
    """A dataset of frames, (ny, nx), (n, ny, nx) or (n, channel, ny, nx); InputError where there is none."""
    h5 = access.open_read(path)
    try:
        dataset = h5.find(name)
        if dataset is None:
            if access.leads_to_no_file(h5, name):
                raise KeyError("a link leads to what is no regular file")
            dataset = h5[name]
        shape = dataset.shape
    except (KeyError, OSError, AttributeError, RuntimeError, ValueError) as error:
        h5.close()
        raise InputError(f"{path}: no dataset {name} ({str(error).strip(chr(39))})") from error
    if shape is None or len(shape) not in (2, 3, 4):
        h5.close()
        dimensions = 0 if shape is None else len(shape)
        raise InputError(f"{path}:{name}: {dimensions}-dimensional; frames are (n, ny, nx) or (n, channel, ny, nx)")
    return dataset


def frames_in(shape: Sequence[int]) -> int:
    """How many frames a dataset of that shape holds."""
    return shape[0] if len(shape) > 2 else 1


def extent_of(dataset: Any) -> Extent:
    """What an open dataset of frames holds."""
    shape = (int(dataset.shape[-2]), int(dataset.shape[-1]))
    numbers = [access.attribute_integer(dataset, f"image_nr_{which}") for which in ("low", "high")]
    told = (numbers[0], numbers[1]) if numbers[0] is not None and numbers[1] is not None else None
    return Extent(frames_in(dataset.shape), shape, dataset.dtype.newbyteorder("=").name, told)


def read_through_hdf5(dataset: Any, at: tuple[int, ...], out: Array) -> None:
    """The frame at `at`, its indices before the last two, into `out`."""
    # Of all filters, for a virtual dataset tells of none.
    import hdf5plugin  # noqa: F401

    if at:
        dataset.read_direct(out, at)
    else:
        dataset.read_direct(out)


def direct_filter(dataset: Any, dtype: str | np.dtype[Any]) -> Literal["bslz4", "lz4", "raw"] | None:
    """How to decode chunks of one frame each without HDF5, a key of `DECODERS`; None where that can't be.

    `dtype`: what the frames are to be.
    """
    if dataset.dtype != np.dtype(dtype):
        return None
    pipeline = dataset.id.get_create_plist()
    filters = [pipeline.get_filter(i) for i in range(pipeline.get_nfilters())]
    if not filters:
        return "raw"
    if len(filters) > 1 or not kernels.HAVE_BSLZ4:
        return None
    code, _, values, _ = filters[0]
    if code == BITSHUFFLE and len(values) > 4 and values[4] == BITSHUFFLE_LZ4:
        return "bslz4"
    return "lz4" if code == LZ4 else None


def _decode_raw(chunk: Any, out: Array) -> None:
    out[...] = np.frombuffer(chunk, out.dtype).reshape(out.shape)


DECODERS = {"bslz4": kernels.bslz4_decode, "lz4": kernels.lz4_decode, "raw": _decode_raw}


class Hdf5Frames:
    """Reads the frames of one dataset that isn't virtual; see `reading.SegmentReader`."""

    def __init__(self, dataset: Any, segment: Segment, source: Source, stamps: dict[str, Stamp]) -> None:
        self.stamps = stamps
        self._segment, self._source, self._dataset = segment, source, dataset
        frame = (1,) * (dataset.ndim - 2) + source.shape
        self._one_frame = dataset.chunks == frame
        self._how = direct_filter(dataset, source.dtype) if self._one_frame else None
        self._skipped = (1 << dataset.id.get_create_plist().get_nfilters()) - 1
        """Bits of the filters that were left out of a chunk, where all were."""
        self._chunks: dict[tuple[int, ...], tuple[int, int]] | None = None
        self._places: dict[tuple[int, ...], int] = {}
        """Bytes of the file before each chunk."""
        self._announced = -1
        """Up to this frame the system was told."""

    def close(self) -> None:
        self._dataset.file.close()

    def extent(self) -> Extent:
        return extent_of(self._dataset)

    def written(self, frames: range) -> int:
        """How many of `frames`, indices in the dataset, are there, counted from the first on to one that isn't."""
        for k, index in enumerate(frames):
            try:
                self._stored_bytes(index, math.prod(self._source.shape) * np.dtype(self._source.dtype).itemsize)
            except (OSError, RuntimeError, ValueError):
                return k
        return len(frames)

    def fingerprint(self) -> Fingerprint:
        d, path = self._dataset, self._segment.path
        digest = hashlib.sha256(f"{d.shape} {d.dtype.str} {d.chunks}".encode())
        if d.chunks is not None:
            rows = [(*offset, *stored) for offset, stored in sorted(self._index().items())]
            digest.update(np.array(rows, "<u8").tobytes())
        name = os.path.basename(path)
        return Fingerprint(name, self._segment.dataset, self.stamps[path].size, frames_in(d.shape), digest.hexdigest())

    def fetch(self, index: int, out: Array, room: Room) -> Fetched:
        n_stored = self._stored_bytes(index, out.nbytes)
        if not self._one_frame:
            read_through_hdf5(self._dataset, self._offset(index)[:-2], out)
            return Fetched(None, None, n_stored, kernels.crc32(out))
        mask, chunk = self._dataset.id.read_direct_chunk(self._offset(index), out=room(n_stored))
        self._announce(index)
        chunk = memoryview(chunk)
        crc32 = kernels.crc32(chunk)
        if self._how is not None and (mask == 0 or self._how == "raw"):
            return Fetched(self._how, chunk, n_stored, crc32, DECODERS[self._how])
        read_through_hdf5(self._dataset, self._offset(index)[:-2], out)
        return Fetched(None, None, n_stored, crc32)

    def _announce(self, index: int) -> None:
        """Tell the system which frames come after this one, each once.  What goes wrong shows when they are read."""
        first, last = index + 1, index + AHEAD
        if first <= self._announced <= last:
            first = self._announced + 1
        self._announced = last
        with contextlib.suppress(AttributeError, OSError, OverflowError, RuntimeError, ValueError):
            descriptor = self._dataset.file.id.get_vfd_handle()
            for offset in map(self._offset, range(first, last + 1)):
                if offset in self._places:
                    size, _ = self._index()[offset]
                    os.posix_fadvise(descriptor, self._places[offset], size, os.POSIX_FADV_WILLNEED)

    def _offset(self, index: int) -> tuple[int, ...]:
        """Where the frame begins in the dataset."""
        return {2: (0, 0), 3: (index, 0, 0)}.get(self._dataset.ndim, (index, self._source.channel, 0, 0))

    def _stored_bytes(self, index: int, frame_bytes: int) -> int:
        """What the frame takes in the file, its part of chunks of several; OSError where any of it is absent."""
        d = self._dataset
        if index >= frames_in(d.shape):
            raise OSError(f"{NEVER_WRITTEN}: the dataset has {frames_in(d.shape)}")
        if d.chunks is None:
            if not d.id.get_storage_size():
                raise OSError(NEVER_WRITTEN)
            return frame_bytes
        plain = math.prod(d.chunks) * d.dtype.itemsize
        if plain > max(LARGEST_CHUNK, frame_bytes):
            raise OSError(f"chunks of {plain} bytes are too large to be read")
        stored = [self._index().get(offset) for offset in self._chunks_of(index)]
        sizes = [one[0] for one in stored if one is not None and one[0]]
        if len(sizes) < len(stored):
            raise OSError(NEVER_WRITTEN)
        if max(sizes) > 2 * plain + CHUNK_SLACK:
            raise OSError(f"its chunk is said to take {max(sizes)} bytes, of which only {plain} can come")
        skipped = self._skipped
        short = [one[0] for one in stored if one is not None and one[1] & skipped == skipped and one[0] < plain]
        if short:
            # HDF5 gives what lies in memory beside such a chunk.
            raise OSError(f"its chunk is stored as it is, and takes {short[0]} bytes of {plain}")
        shared = math.prod(d.chunks[:-2])
        return sum(sizes) // shared or 1

    def _chunks_of(self, index: int) -> Iterator[tuple[int, ...]]:
        """Offsets of the chunks that hold the frame."""
        chunks, offset = self._dataset.chunks, self._offset(index)
        first = [at // size * size for at, size in zip(offset[:-2], chunks[:-2], strict=True)]
        rows, columns = (range(0, n, size) for n, size in zip(self._source.shape, chunks[-2:], strict=True))
        return ((*first, y, x) for y, x in itertools.product(rows, columns))

    def _index(self) -> dict[tuple[int, ...], tuple[int, int]]:
        """(stored bytes, filter mask) of every chunk that was written, by its offset."""
        if self._chunks is None:
            found: dict[tuple[int, ...], tuple[int, int]] = {}

            def note(chunk: Any) -> None:
                offset = tuple(chunk.chunk_offset)
                found[offset] = (int(chunk.size), int(chunk.filter_mask))
                if chunk.byte_offset is not None:
                    self._places[offset] = int(chunk.byte_offset)

            self._dataset.id.chunk_iter(note)
            self._chunks = found
        return self._chunks
