"""What reading frames has in common, whatever file they lie in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

Array = np.ndarray[Any, Any]

Room = Callable[[int], bytearray]
"""Gives a buffer of at least so many bytes, for a stored frame."""


class Fetched(NamedTuple):
    """A stored frame, and how to decode it."""

    how: str | None
    """'bslz4': chunks that `kernels.bslz4_reduce` takes as they are.  None: the frame is in the caller's buffer."""
    chunk: Any
    """The stored bytes; they hold until the buffer that `Room` gave is used again."""
    n_stored: int
    """Bytes that the frame takes in its file."""
    decode: Callable[[Any, Array], None] | None = None
    """Puts `chunk` into an array (ny, nx) of the source's type; ValueError where it is corrupt."""


@dataclass(frozen=True)
class Extent:
    """What a segment's dataset (or file) really holds."""

    n_frames: int
    shape: tuple[int, int]
    """(ny, nx)."""
    dtype: str
    """NumPy's name of the stored type."""


class SegmentReader(Protocol):
    """The frames of one segment's file, open; made by `formats.open_segment`, which raises InputError."""

    def extent(self) -> Extent:
        """What the file holds, without reading a frame."""

    def fetch(self, index: int, out: Array, room: Room) -> Fetched:
        """Read frame `index`, counted from 0 in the segment's dataset.

        Either its stored bytes, into a buffer from `room`, or the frame itself into `out`, (ny, nx) of the
        source's type.  OSError, RuntimeError or ValueError where that can't be.
        """

    def close(self) -> None:
        """Let go of the file."""
