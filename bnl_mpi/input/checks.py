"""Whether the files of a source hold what it supposes; each worker looks at those that it reads."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import InputError
from .formats import open_segment
from .source import Source


def check_segments(source: Source, wanted: Iterable[int]) -> tuple[list[str], dict[int, int]]:
    """Open the segments numbered `wanted` and hold them against the source.

    Returns the problems found, a line each, and the number of frames of each segment that differs from what
    the source supposes (empty if all is as expected).
    """
    problems, counts = [], {}
    first = source.segments[0].path
    for k in wanted:
        segment = source.segments[k]
        try:
            reader = open_segment(segment, source)
        except InputError as error:
            problems.append(str(error))
            continue
        extent = reader.extent()
        reader.close()
        (ny, nx), (wanted_ny, wanted_nx) = extent.shape, source.shape
        if extent.shape != source.shape:
            problems.append(
                f"{segment}: frames of {ny} x {nx} pixels, but {wanted_ny} x {wanted_nx} in {first}; all frames must "
                "be of one shape"
            )
        elif extent.dtype != source.dtype and not _is_virtual(source):
            problems.append(f"{segment}: pixels of type {extent.dtype}, but {source.dtype} in {first}")
        available = extent.n_frames - segment.start
        last = k == len(source.segments) - 1
        if not source.counts_known and (available != segment.count and not (last and available > segment.count)):
            counts[k] = available
        elif available < segment.count:
            problems.append(f"{segment}: {available} frames, but {segment.count} are expected from the master")
    return problems, counts


def _is_virtual(source: Source) -> bool:
    """Whether the frames lie in the master itself (then its type may differ from the stored one)."""
    return source.segments[0].path == source.master
