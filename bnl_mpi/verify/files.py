"""SHA-256 of files, in threads beside the reading of them: both stream from the same cache."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

PIECE = 1 << 20


@dataclass(frozen=True)
class Hashed:
    """A file as it was when it was read."""

    path: str
    bytes: int
    mtime_ns: int
    sha256: str
    ctime_ns: int = 0
    """When the file system noted a change last, which nobody can set back; 0 where an older program didn't look."""


def hash_file(path: str) -> Hashed:
    """Read a whole file.  Raises OSError where it can't be read, or changes meanwhile."""
    sha256, buffer = hashlib.sha256(), bytearray(PIECE)
    view = memoryview(buffer)
    with open(path, "rb", buffering=0) as file:
        before = os.fstat(file.fileno())
        while n := file.readinto(buffer):
            sha256.update(view[:n])
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise OSError(errno.ESTALE, "changed while it was read", path)
    return Hashed(os.path.abspath(path), after.st_size, after.st_mtime_ns, sha256.hexdigest(), after.st_ctime_ns)


class Hasher:
    """Hashes files in a thread of its own."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sha256")
        self._waiting: list[Future[Hashed]] = []

    def add(self, paths: Iterable[str]) -> None:
        self._waiting += [self._pool.submit(hash_file, path) for path in paths]

    def results(self) -> list[Hashed]:
        """Of all that were added since the last call; raises the first error."""
        waiting, self._waiting = self._waiting, []
        return [one.result() for one in waiting]

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
