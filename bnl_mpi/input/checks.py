"""Whether the files of a source hold what it supposes; each worker looks at those that it reads."""

from __future__ import annotations

import os
from collections.abc import Iterable

from ..errors import InputError
from .formats import open_segment
from .reading import Extent
from .source import Source


def check_segments(
    source: Source, wanted: Iterable[int], *, ignore_numbers: bool = False
) -> tuple[list[str], dict[int, int]]:
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
        odd = None if ignore_numbers else _odd_numbers(source, k, extent)
        if not source.counts_known and (available != segment.count or odd):
            counts[k] = available
        elif available < segment.count:
            problems.append(f"{segment}: {available} frames, but {segment.count} are expected from the master")
        elif odd:
            problems.append(f"{segment}: {odd}; put the files right, or go on with --ignore_frame_numbers")
    return problems, counts


def _odd_numbers(source: Source, k: int, extent: Extent) -> str | None:
    """How the frame numbers that the file of segment `k` tells disagree with the order and the counts."""
    if extent.numbers is None or source.first_number is None or source.segments[k].start:
        return None
    low, high = extent.numbers
    before = sum(s.count for s in source.segments[:k])
    if high - low + 1 != extent.n_frames:
        return f"image_nr_low and image_nr_high tell of frames {low} to {high}, but there are {extent.n_frames}"
    if low != source.first_number + before:
        return (
            f"begins with frame {low} by its image_nr_low, but {before} frames lie before it, which begin with "
            f"{source.first_number} ({os.path.basename(source.segments[0].path)} is the first file)"
        )
    return None


def _is_virtual(source: Source) -> bool:
    """Whether the frames lie in the master itself (then its type may differ from the stored one)."""
    return source.segments[0].path == source.master
