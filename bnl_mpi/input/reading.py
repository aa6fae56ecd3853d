"""What reading frames has in common, whatever file they lie in."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..errors import InputError

Array = np.ndarray[Any, Any]

Room = Callable[[int], bytearray]
"""Gives a buffer of at least so many bytes, for a stored frame."""


class Fetched(NamedTuple):
    """A stored frame, and how to decode it."""

    how: str | None
    """'bslz4': chunks that `fused.bslz4_reduce` takes as they are.  None: the frame is in the caller's buffer."""
    chunk: Any
    """The stored bytes; they hold until the buffer that `Room` gave is used again."""
    n_stored: int
    """Bytes that the frame takes in its file."""
    crc32: int
    """Of the stored bytes where these are of this one frame, else of its pixels."""
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
    numbers: tuple[int, int] | None = None
    """Numbers of the first and the last frame in the experiment, where the file tells them."""


@dataclass(frozen=True)
class Fingerprint:
    """By what a file of frames is known again, wherever it lies and whenever it was copied."""

    name: str
    """Without the folder."""
    dataset: str
    size: int
    """Bytes of the file."""
    n_frames: int
    content: str
    """A digest of what can be had without reading the frames: types, shapes, and the sizes of all stored chunks."""


class Stamp(NamedTuple):
    """By what a change of a file is noticed while a run goes on."""

    size: int
    mtime_ns: int


def stamp(path: str) -> Stamp:
    """A file's stamp now; InputError where it isn't there."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    return Stamp(found.st_size, found.st_mtime_ns)


class SegmentReader(Protocol):
    """The frames of one segment's file, open; made by `formats.open_segment`, which raises InputError."""

    stamps: dict[str, Stamp]
    """Of each file that was opened, as it was before that."""

    def extent(self) -> Extent:
        """What the file holds, without reading a frame."""

    def fingerprint(self) -> Fingerprint:
        """By what the file is known again."""

    def fetch(self, index: int, out: Array, room: Room) -> Fetched:
        """Read frame `index`, counted from 0 in the segment's dataset.

        Either its stored bytes, into a buffer from `room`, or the frame itself into `out`, (ny, nx) of the
        source's type.  OSError, RuntimeError, ValueError or InputError where that can't be, as for a frame that
        was never written.
        """

    def close(self) -> None:
        """Let go of the file."""
