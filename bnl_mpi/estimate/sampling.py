"""Which frames are looked at, and what the others tell without being decoded: their stored sizes."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..input.hdf5frames import open_dataset
from ..input.source import Segment, Source

FEWEST_FRAMES = 8
"""Of a group on a rotation: a spot lasts some frames."""
LONGEST_GROUP = 24
WANTED_FRAMES = 40
FEWEST_GROUPS = 5


def group_length(sums: Sequence[int], *, rotation: bool) -> int:
    """Frames of a group: whole images of every setting, and on a rotation enough for a spot."""
    common = math.lcm(*sums)
    if common > LONGEST_GROUP:
        common = max(sums)
    return common * -(-FEWEST_FRAMES // common) if rotation else common


def default_groups(length: int) -> int:
    """How many groups make about 20 images of two frames."""
    return max(FEWEST_GROUPS, -(-WANTED_FRAMES // length))


def choose_groups(
    first: int, n_frames: int, length: int, wanted: int, sizes: NDArray[np.int64] | None = None
) -> list[range]:
    """Groups of `length` frames (counted from 0) among `n_frames` from `first` on, in order.

    Spread evenly over the frames; with `sizes`, the groups' stored bytes, evenly over these instead, so that a grid
    scan's few frames with a crystal are met.  Groups begin where images of every setting begin.
    """
    available = max(1, n_frames // length)
    n = min(wanted, available)
    # In the middle of n equal parts.
    places = [(2 * k + 1) * available // (2 * n) for k in range(n)]
    if sizes is not None:
        order = np.argsort(sizes[:available], kind="stable")
        places = sorted({int(order[place]) for place in places})
    groups = [range(first + place * length, first + min((place + 1) * length, n_frames)) for place in places]
    return groups


def stored_sizes(source: Source) -> NDArray[np.int64]:
    """(n_frames,) bytes of each frame as stored; their mean where a file doesn't tell them apart."""
    return np.concatenate([_sizes_of(segment, source) for segment in source.segments])


def _sizes_of(segment: Segment, source: Source) -> NDArray[np.int64]:
    if segment.kind != "hdf5":
        return np.full(segment.count, os.path.getsize(segment.path) // max(1, segment.count), np.int64)
    dataset = open_dataset(segment.path, segment.dataset)
    with dataset.file:
        whole = dataset.shape[-2:]
        if dataset.is_virtual or dataset.chunks is None or dataset.chunks[-2:] != whole or dataset.chunks[0] != 1:
            mean = dataset.id.get_storage_size() // max(1, dataset.shape[0] if dataset.ndim > 2 else 1)
            return np.full(segment.count, mean or 2 * source.shape[0] * source.shape[1], np.int64)
        sizes = np.zeros(dataset.shape[0], np.int64)

        def note(chunk: Any) -> None:
            if dataset.ndim == 3 or chunk.chunk_offset[1] == source.channel:
                sizes[chunk.chunk_offset[0]] = chunk.size

        dataset.id.chunk_iter(note)
        return sizes[segment.start : segment.start + segment.count]


def group_sizes(sizes: NDArray[np.int64], first: int, n_frames: int, length: int) -> NDArray[np.int64]:
    """Stored bytes of each whole group of `length` frames."""
    n = n_frames // length
    grouped: NDArray[np.int64] = sizes[first : first + n * length].reshape(n, length).sum(axis=1)
    return grouped if n else np.array([sizes[first : first + n_frames].sum()])
