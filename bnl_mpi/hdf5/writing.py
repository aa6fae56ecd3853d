"""New files, of which nothing may be lost without a word: HDF5's own writing hides or dies of a full disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

import h5py

from .access import LIBVER, first_line
from .draft import Draft

EARLY = 8 << 20
"""Bytes after which the system is told to begin writing them to the disk: the flush at the end waits for less."""

PAGE = 4096
ZEROS = bytes(PAGE)


class WriteError(Exception):
    """A new file can't be written; the message is the system's reason, and who knows the file's name adds it."""


@contextmanager
def writing() -> Iterator[None]:
    """What the system refuses within is a WriteError."""
    try:
        yield
    except OSError as error:
        raise WriteError(error.strerror or first_line(error)) from error


class Stamp(NamedTuple):
    """By what a new file is known again, without a look into it; its name may be another."""

    size: int
    inode: int
    mtime_ns: int


def stamp_of(path: str) -> Stamp:
    """Of a new file, under the name that it has; WriteError where it is gone."""
    with writing():
        found = os.stat(path)
    return Stamp(found.st_size, found.st_ino, found.st_mtime_ns)


class TolerantFile:
    """A new file for HDF5 to write into that never fails: the first error is kept, and what follows is dropped.

    HDF5 can neither go on nor close its file where the disk is full, and takes the process down at its end.  So
    HDF5 is told that all is well, and who uses it calls `raise_error` after each thing that matters.
    """

    def __init__(self, path: str | Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        self._at = self._handed = 0
        self._error: OSError | None = None

    def raise_error(self) -> None:
        """Raise what the first write met that went wrong, if one did, as a WriteError."""
        if self._error is not None:
            raise WriteError(self._error.strerror) from self._error

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at}.get(whence)
        self._at = offset + (os.fstat(self._descriptor).st_size if start is None else start)
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int) -> bytes:
        """By this h5py knows a file; it takes `readinto` then."""
        buffer = bytearray(size)
        self.readinto(memoryview(buffer))
        return bytes(buffer)

    def readinto(self, buffer: memoryview) -> int:
        found = os.preadv(self._descriptor, [buffer], self._at)
        # Behind a write that failed there is nothing to read back.
        buffer[found:] = bytes(len(buffer) - found)
        self._at += len(buffer)
        return len(buffer)

    def write(self, data: memoryview) -> int:
        size, written = len(data), 0
        try:
            while self._error is None and written < size:
                written += os.pwrite(self._descriptor, data[written:], self._at + written)
        except OSError as error:
            self._error = error
        self._at += size
        self._hand_over()
        return size

    def _hand_over(self) -> None:
        """Let the system begin with what was written since it last did: it drops none of that, as it isn't clean."""
        if self._at - self._handed >= EARLY:
            with suppress(AttributeError, OSError):
                os.posix_fadvise(self._descriptor, self._handed, self._at - self._handed, os.POSIX_FADV_DONTNEED)
            self._handed = self._at

    def truncate(self, size: int) -> int:
        try:
            os.ftruncate(self._descriptor, size)
        except OSError as error:
            self._error = self._error or error
        return size

    def flush(self) -> None:
        """Nothing is held back here."""

    def close(self) -> None:
        try:
            os.close(self._descriptor)
        except OSError as error:
            # Some file systems tell only here that there was no room.
            self._error = self._error or error


@contextmanager
def write_at_once(path: str | Path, draft: Draft | None = None) -> Iterator[h5py.File]:
    """A file like that of `open_write`, made in memory and written in one piece when the block ends well.

    A master is hundreds of small writes otherwise, and where one finds the disk full, HDF5 can neither go on nor
    close its file.  Raises WriteError where the file can't be written.  `draft` takes notes.
    """
    # The name is for messages alone: nothing is on the disk so far.
    with h5py.File(str(path), "w", libver=LIBVER, locking=False, driver="core", backing_store=False) as made:
        with nullcontext(made) if draft is None else draft.watching(made) as file:
            yield file
        made.flush()
        image = made.id.get_file_image()
    if draft is not None:
        draft.image = image
    write_bytes(path, image)


def write_bytes(path: str | Path, image: bytes | bytearray) -> None:
    """A file of these bytes; WriteError where it can't be written.

    Most of a master is a mask, and most of that is 0: pages of nothing else become holes, which read as zeros and take
    neither memory nor disk.
    """
    view = memoryview(image)
    with writing(), open(path, "wb", buffering=0) as file:
        for begin, end in _written_parts(image):
            file.seek(begin)
            while begin < end:
                begin += file.write(view[begin:end])
        file.truncate(len(view))


def _written_parts(image: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """Where there is something but pages of zeros."""
    begin = None
    for at in range(0, len(image), PAGE):
        if image.startswith(ZEROS, at):
            if begin is not None:
                yield begin, at
            begin = None
        elif begin is None:
            begin = at
    if begin is not None:
        yield begin, len(image)
