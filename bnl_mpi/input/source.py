"""Where the frames are: a list of segments, runs of frames in one dataset of one file.

Rank 0 makes a `Source` (`discovery`) while opening the master and, where the master's counts allow it, one data
file only.  The other ranks open the data files that they read, check them (`checks`), and take frames out of them
(`frames`); how a segment's frames are read is its `kind`'s business (`formats`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Segment:
    """`count` frames of `dataset` in `path`, from index `start` of its first axis."""

    path: str
    dataset: str
    start: int
    count: int
    kind: str = "hdf5"
    """How its frames are read: a name in `formats.FORMATS`."""

    def __str__(self) -> str:
        return f"{self.path}:{self.dataset}" if self.dataset else self.path


@dataclass(frozen=True)
class Source:
    """All frames of a data set in order.  `shape` is (ny, nx); `dtype` is that of the data files."""

    master: str
    segments: tuple[Segment, ...]
    shape: tuple[int, int]
    dtype: str
    channel: int
    """The channel (energy threshold) to take of datasets (n, channel, ny, nx), counted from 0."""
    counts_known: bool
    """False if the counts were inferred from the master and one data file, and await the owners' check."""
    warnings: tuple[str, ...] = ()
    """What the user should know of the input, a line each."""
    first_number: int | None = None
    """What the first file calls its first frame, where it tells."""
    missing: tuple[str, ...] = ()
    """Files that the master names and of which nothing, or not all, is taken (`--salvage`)."""
    stamp: tuple[int, int] | None = None
    """Size and modification time (ns) of the master when it was read."""

    @property
    def n_frames(self) -> int:
        return sum(s.count for s in self.segments)

    def cut(self, n_frames: int) -> Source:
        """The same of the first `n_frames` frames alone."""
        segments: list[Segment] = []
        for segment in self.segments:
            left = n_frames - sum(s.count for s in segments)
            if left > 0:
                segments.append(replace(segment, count=min(segment.count, left)))
        return replace(self, segments=tuple(segments))

    def spans(self, frames: range) -> list[tuple[int, int]]:
        """(segment, index) of the first frame of each segment that `frames` touches; for `check_segments`."""
        spans, begin = [], 0
        for k, segment in enumerate(self.segments):
            end = begin + segment.count
            if begin < frames.stop and frames.start < end:
                spans.append((k, max(frames.start, begin) - begin))
            begin = end
        return spans

    def file_sizes(self) -> dict[str, int]:
        """Name (without folder) and bytes of the master and of each data file."""
        paths = [self.master, *dict.fromkeys(s.path for s in self.segments)]
        return {os.path.basename(p): os.stat(p).st_size for p in paths}
