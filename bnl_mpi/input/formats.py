"""Which reader takes which kind of segment: a new format of frames is a module and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .reading import SegmentReader
from .source import Segment, Source
from .virtual import open_frames


def _open_cbf(segment: Segment, source: Source) -> SegmentReader:
    from .cbf.frames import CbfFrames

    return CbfFrames(segment, source)


def _damaged_cbf(segment: Segment, source: Source) -> SegmentReader:
    from .cbf.frames import DamagedFrame

    return DamagedFrame(segment, source)


FORMATS: Mapping[str, Callable[[Segment, Source], SegmentReader]] = {
    "hdf5": open_frames,
    "cbf": _open_cbf,
    "damaged cbf": _damaged_cbf,
}
"""By `Segment.kind`: opens a segment; InputError where that can't be."""


def open_segment(segment: Segment, source: Source) -> SegmentReader:
    """The reader of a segment's frames; the caller closes it."""
    return FORMATS[segment.kind](segment, source)
