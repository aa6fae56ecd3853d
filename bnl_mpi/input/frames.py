"""Frames by number, out of whatever files a source names, and an account of what was read."""

from __future__ import annotations

import bisect
import itertools

from ..errors import InputError
from .formats import open_segment
from .reading import Array, Fetched, Fingerprint, SegmentReader, Stamp
from .source import Segment, Source


class FrameError(InputError):
    """A frame can't be read."""


class FrameReader:
    """Reads frames into a caller's buffer; keeps the file it is in open, and that one alone.

    Since `begin` was called: `checksums` by frame, `fingerprints` of files by segment, and `stamps` by path.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        counts = [segment.count for segment in source.segments]
        self._ends = list(itertools.accumulate(counts))
        self._open: tuple[str, str] | None = None
        self._segment: SegmentReader | None = None
        self._chunks: list[bytearray] = []
        self.bytes_read = 0
        self.checksums: dict[int, int] = {}
        self.fingerprints: dict[tuple[str, str], Fingerprint] = {}
        self.stamps: dict[str, Stamp] = {}

    def begin(self) -> None:
        """Forget what was read so far."""
        self.checksums, self.fingerprints = {}, {}
        self.stamps = dict(self._segment.stamps) if self._segment is not None else {}

    def _locate(self, frame: int) -> tuple[Segment, int]:
        """The segment and the index in its dataset of frame `frame`, counted from 0."""
        k = bisect.bisect_right(self._ends, frame)
        segment = self.source.segments[k]
        return segment, segment.start + segment.count - (self._ends[k] - frame)

    def close(self) -> None:
        if self._segment is not None:
            self._note_stamps()
            self._segment.close()
        self._segment, self._open = None, None

    def _select(self, segment: Segment) -> SegmentReader:
        if self._segment is None or self._open != (segment.path, segment.dataset):
            self.close()
            self._segment = open_segment(segment, self.source)
            self._open = (segment.path, segment.dataset)
        return self._segment

    def _note_stamps(self) -> None:
        if self._segment is not None:
            for path, one in self._segment.stamps.items():
                self.stamps.setdefault(path, one)

    def fingerprint_of(self, frame: int) -> Fingerprint:
        """Of the file that holds frame `frame`, from 0."""
        segment, _ = self._locate(frame)
        reader, key = self._select(segment), (segment.path, segment.dataset)
        if key not in self.fingerprints:
            try:
                self.fingerprints[key] = reader.fingerprint()
            except (OSError, RuntimeError, ValueError) as error:
                raise self.fault(frame, error) from error
        return self.fingerprints[key]

    def fetch(self, frame: int, out: Array, slot: int = 0) -> Fetched:
        """Read frame `frame` (from 0) as far as its file is needed for it.

        Returns what `decode` takes: the stored bytes, which hold until the next call for the same `slot`, or none
        where `out`, (ny, nx) of the source's type, holds the frame already.
        """
        segment, index = self._locate(frame)
        reader = self._select(segment)
        self.fingerprint_of(frame)
        try:
            fetched = reader.fetch(index, out, lambda size: self._room(size, slot))
        except (OSError, RuntimeError, ValueError, InputError) as error:
            raise self.fault(frame, error) from error
        self.bytes_read += fetched.n_stored
        self.checksums[frame] = fetched.crc32
        self._note_stamps()
        return fetched

    def rest(self) -> None:
        """Let go of stored bytes: no frame is asked for in the next while."""
        self._chunks.clear()

    def _room(self, size: int, slot: int) -> bytearray:
        while len(self._chunks) <= slot:
            self._chunks.append(bytearray())
        if len(self._chunks[slot]) < size:
            # With some to spare, for no two frames take the same.
            self._chunks[slot] = bytearray(size + size // 8)
        return self._chunks[slot]

    def decode(self, fetched: Fetched, frame: int, out: Array) -> None:
        """Put the frame that `fetch` read into `out`."""
        if fetched.decode is None:
            return
        try:
            fetched.decode(fetched.chunk, out)
        except ValueError as error:
            raise self.fault(frame, error) from error

    def fault(self, frame: int, error: Exception) -> FrameError:
        """The error that says where frame `frame` lies and why it can't be read."""
        segment, index = self._locate(frame)
        reason = " ".join(str(error).split())
        return FrameError(
            f"{segment}: frame {frame + 1} (index {index} of the dataset) can't be read: {reason}; restore the file"
        )
