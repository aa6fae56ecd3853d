"""What isn't one spot by itself: pixels that are always strong, and the parts of a spot that rotation cut in two."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .finder import Spots

Array = NDArray[Any]

ALWAYS, SELDOM = 0.75, 0.125
"""Shares of the frames that a hot pixel is strong in at least, and each of its neighbours at most."""
FEWEST_FRAMES = 4
"""Fewer frames tell no hot pixel from a spot."""
NEAR = 2.0
"""Pixels between the centres of a spot's parts, at most."""


def hot_pixels(strong: Sequence[Array], shape: tuple[int, int]) -> Array:
    """Flat indices of pixels that are strong in nearly all frames, when their neighbours hardly ever are.

    `strong`: flat indices of each frame's strong pixels; `shape` (ny, nx).
    """
    n = len(strong)
    if n < FEWEST_FRAMES:
        return np.empty(0, np.int64)
    ny, nx = shape
    # A border of one pixel, so that every pixel has eight neighbours.
    times = np.zeros((ny + 2, nx + 2), np.int32)
    for pixels in strong:
        y, x = np.divmod(pixels, nx)
        times[y + 1, x + 1] += 1
    rows, columns = np.nonzero(times >= ALWAYS * n)
    around = [times[rows + dy, columns + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
    alone = np.max(around, axis=0) <= SELDOM * n
    return np.asarray((rows[alone] - 1) * nx + columns[alone] - 1)


def hot_note(found: Iterable[Array]) -> list[str]:
    """What is said of `hot_pixels` of several groups; nothing where there are none."""
    number = len(set().union(*(pixels.tolist() for pixels in found)))
    if not number:
        return []
    return [
        f"pixels that are always strong, though no mask flags them: {number}; spots beside them aren't judged, and a "
        "bin with one is as bad: flag them in the master's pixel mask"
    ]


def grown(first: Array, end: Array, strong: Array, frames: range) -> tuple[Array, Array]:
    """First frames and ends of spots, made longer as long as the frames before and after are strong at their places.

    Of a spot that lasts many frames, as near the rotation axis, the finder may know a part alone.  `strong`: (frames,
    n) bool, whether each of the group's `frames` is strong at each spot.
    """
    first, end = first.copy(), end.copy()
    every = np.arange(len(first))
    for _ in frames:
        earlier = (first > frames.start) & strong[np.maximum(first - 1 - frames.start, 0), every]
        later = (end < frames.stop) & strong[np.minimum(end - frames.start, len(frames) - 1), every]
        if not (earlier | later).any():
            break
        first -= earlier
        end += later
    return first, end


def with_parts_joined(spots: Spots, first: Array, end: Array) -> tuple[Spots, Array, Array]:
    """The spots, those at one place whose frames overlap or touch as one, and the frames of each.

    A weak spot falls below the threshold for a frame, and is found as two.  `first`, `end`: (n,) frames that each
    lasts, end excluded.
    """
    n = len(spots)
    if n < 2:
        return spots, first, end
    order = np.argsort(spots.x, kind="stable")
    x, y, begin, stop = spots.x[order], spots.y[order], first[order], end[order]
    name = np.arange(n)
    for step in range(1, n):
        # Sorted by x, those further along are further away.
        near = np.flatnonzero(x[step:] - x[:-step] <= NEAR)
        if not len(near):
            break
        other = near + step
        same = (np.abs(y[near] - y[other]) <= NEAR) & (begin[near] <= stop[other]) & (begin[other] <= stop[near])
        for a, b in zip(near[same], other[same], strict=True):
            name[name == name[b]] = name[a]
    _, group = np.unique(name, return_inverse=True)
    return _united(spots[order], begin, stop, group)


def _united(spots: Spots, first: Array, end: Array, group: Array) -> tuple[Spots, Array, Array]:
    """One spot of each group, in the order of the groups' numbers."""
    n = int(group.max()) + 1
    weight = np.bincount(group, spots.counts, n)
    x, y, z = (np.bincount(group, spots.counts * axis, n) / weight for axis in (spots.x, spots.y, spots.z))
    least, most = (np.full((n, 4), k, np.int64) for k in (np.iinfo(np.int64).max, np.iinfo(np.int64).min))
    np.minimum.at(least, group, np.column_stack([spots.box[:, ::2], first]))
    np.maximum.at(most, group, np.column_stack([spots.box[:, 1::2], end]))
    box = np.stack([least[:, :3], most[:, :3]], axis=2).reshape(n, 6)
    pixels = np.bincount(group, spots.pixels, n).astype(np.int64)
    return Spots(x, y, z, weight.astype(np.int64), pixels, box), least[:, 3], most[:, 3]
