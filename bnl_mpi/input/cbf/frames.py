"""Frames of a CBF series: a segment a file."""

from __future__ import annotations

import hashlib
import os

from ...pixels import kernels
from ..reading import Array, Extent, Fetched, Fingerprint, Room, stamp
from ..source import Segment, Source
from .header import SECTION, binary_of, open_to_pixels
from .pixels import decode


class CbfFrames:
    """The one frame of a file, which is read once from begin to end."""

    def __init__(self, segment: Segment, source: Source) -> None:
        self._path = segment.path
        self.stamps = {segment.path: stamp(segment.path)}
        self._opened = open_to_pixels(segment.path)
        before = self._opened.before
        try:
            self._binary = binary_of(segment.path, before.partition(SECTION)[2], len(before))
        except BaseException:
            self.close()
            raise

    def extent(self) -> Extent:
        return Extent(1, self._binary.shape, self._binary.dtype)

    def fingerprint(self) -> Fingerprint:
        header = hashlib.sha256(self._opened.before).hexdigest()
        return Fingerprint(os.path.basename(self._path), "", self.stamps[self._path].size, 1, header)

    def fetch(self, index: int, out: Array, room: Room) -> Fetched:
        data = self._opened.pixels(self._binary.size)
        return Fetched("cbf", data, len(data), kernels.crc32(data), self._decode)

    def _decode(self, data: bytearray, out: Array) -> None:
        decode(data, self._binary, out)

    def close(self) -> None:
        self._opened.file.close()


class DamagedFrame:
    """The frame of a file whose header is damaged: of the form that the source supposes, and not to be read."""

    def __init__(self, segment: Segment, source: Source) -> None:
        self._path, self._form = segment.path, (source.shape, source.dtype)
        self.stamps = {segment.path: stamp(segment.path)}

    def extent(self) -> Extent:
        return Extent(1, *self._form)

    def fingerprint(self) -> Fingerprint:
        return Fingerprint(os.path.basename(self._path), "", self.stamps[self._path].size, 1, "")

    def fetch(self, index: int, out: Array, room: Room) -> Fetched:
        raise ValueError("its header is damaged")

    def close(self) -> None:
        """Nothing is open."""
