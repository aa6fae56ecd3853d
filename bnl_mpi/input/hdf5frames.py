"""Frames in a dataset of an HDF5 file.

Chunks of one frame under bslz4, LZ4 or no filter are read as they are and decoded outside HDF5's lock; everything
else goes through h5py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ..errors import InputError
from ..hdf5 import access
from ..pixels import kernels
from .reading import Array, Extent, Fetched, Room
from .source import Segment, Source

BITSHUFFLE, LZ4 = 32008, 32004

BITSHUFFLE_LZ4 = 2
"""The value of bitshuffle's fifth parameter that means LZ4."""


def open_dataset(path: str, name: str) -> Any:
    """A dataset of frames, (ny, nx), (n, ny, nx) or (n, channel, ny, nx); InputError where there is none."""
    h5 = access.open_read(path)
    try:
        dataset = h5[name]
        shape = dataset.shape
    except (KeyError, OSError, AttributeError) as error:
        h5.close()
        raise InputError(f"{path}: no dataset {name} ({str(error).strip(chr(39))})") from error
    if len(shape) not in (2, 3, 4):
        h5.close()
        raise InputError(f"{path}:{name}: {len(shape)}-dimensional; frames are (n, ny, nx) or (n, channel, ny, nx)")
    return dataset


def frames_in(shape: Sequence[int]) -> int:
    """How many frames a dataset of that shape holds."""
    return shape[0] if len(shape) > 2 else 1


def _decode_raw(chunk: Any, out: Array) -> None:
    out[...] = np.frombuffer(chunk, out.dtype).reshape(out.shape)


DECODERS = {"bslz4": kernels.bslz4_decode, "lz4": kernels.lz4_decode, "raw": _decode_raw}


class Hdf5Frames:
    """Reads the frames of one dataset; see `reading.SegmentReader`."""

    def __init__(self, segment: Segment, source: Source) -> None:
        self._source = source
        self._dataset = open_dataset(segment.path, segment.dataset)
        self._how = self._direct_filter()

    def close(self) -> None:
        self._dataset.file.close()

    def extent(self) -> Extent:
        d = self._dataset
        shape = (int(d.shape[-2]), int(d.shape[-1]))
        return Extent(frames_in(d.shape), shape, d.dtype.newbyteorder("=").name)

    def _direct_filter(self) -> Literal["bslz4", "lz4", "raw"] | None:
        """How to decode a raw chunk without HDF5; None where that can't be."""
        d = self._dataset
        one_frame = d.chunks in ((1, *self._source.shape), (1, 1, *self._source.shape))
        if d.is_virtual or not one_frame or d.dtype != np.dtype(self._source.dtype):
            return None
        pipeline = d.id.get_create_plist()
        filters = [pipeline.get_filter(i) for i in range(pipeline.get_nfilters())]
        if not filters:
            return "raw"
        if len(filters) > 1 or not kernels.HAVE_BSLZ4:
            return None
        code, _, values, _ = filters[0]
        if code == BITSHUFFLE and len(values) > 4 and values[4] == BITSHUFFLE_LZ4:
            return "bslz4"
        return "lz4" if code == LZ4 else None

    def fetch(self, index: int, out: Array, room: Room) -> Fetched:
        if self._how is not None:
            mask, chunk = self._read_chunk(index, room)
            if mask == 0 or self._how == "raw":
                return Fetched(self._how, chunk, len(chunk), DECODERS[self._how])
        return self._read_through_hdf5(index, out)

    def _offset(self, index: int) -> tuple[int, ...]:
        """Where the frame's chunk begins in the dataset."""
        return (index, 0, 0) if self._dataset.ndim == 3 else (index, self._source.channel, 0, 0)

    def _read_chunk(self, index: int, room: Room) -> tuple[int, Any]:
        size = self._dataset.id.get_chunk_info_by_coord(self._offset(index)).size
        if not size:
            raise OSError("the frame was never written")
        mask, chunk = self._dataset.id.read_direct_chunk(self._offset(index), out=room(size))
        return int(mask), memoryview(chunk)

    def _read_through_hdf5(self, index: int, out: Array) -> Fetched:
        import hdf5plugin  # noqa: F401  (registers the filters)

        if self._dataset.ndim == 2:
            self._dataset.read_direct(out)
        else:
            self._dataset.read_direct(out, self._offset(index)[:-2])
        # A frame's part of what the dataset takes in its file; nothing is stored in a virtual one.
        stored = self._dataset.id.get_storage_size() // frames_in(self._dataset.shape) or out.nbytes
        return Fetched(None, None, stored)
