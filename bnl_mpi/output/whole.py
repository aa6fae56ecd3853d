"""New files that appear whole or not at all.

A file is written under a temporary name beside its final one, flushed to the disk, and renamed when it is
whole; so a name without that ending always belongs to a complete file.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence

from ..errors import OutputError
from ..hdf5 import writing
from ..hdf5.writing import WriteError

PARTIAL = ".partial"

_in_hand: set[str] = set()
"""Temporary files that this process is writing."""


@contextlib.contextmanager
def whole_file(path: str, *, optional: bool = False) -> Iterator[str]:
    """Give a temporary name to write; on success flush the file to the disk and rename it, else remove it.

    Nothing happens where the file is `optional` and was not written.  What goes wrong with the new file is an
    OutputError that names it: a WriteError of those who write it too.  All other errors are somebody else's, and pass.
    """
    with whole_files(path, optional=[path] if optional else []) as new:
        yield new.partial[0]


@contextlib.contextmanager
def whole_files(*paths: str, optional: Sequence[str] = ()) -> Iterator[NewFiles]:
    """The same of files that belong together: they get their names in this order when all of them are whole."""
    new = NewFiles(*paths, optional=optional)
    with new.gone_on_error():
        yield new
    new.name()


class NewFiles:
    """Files that belong together, to be written under the names in `partial`, and named in this order.

    What goes wrong before all have their names is put down to the first, and none of the temporary ones is left.
    """

    def __init__(self, *paths: str, optional: Sequence[str] = ()) -> None:
        # Unique, so that a run that was thought dead can't write into the file of the one that took over.
        self.partial = [f"{path}.{os.uname().nodename[:32]}-{os.getpid()}{PARTIAL}" for path in paths]
        self._paths, self._optional = paths, optional
        self._is_flushed = False
        _in_hand.update(self.partial)

    @contextlib.contextmanager
    def gone_on_error(self) -> Iterator[None]:
        """While they are written: an error removes them."""
        try:
            yield
        except BaseException as error:
            self._remove()
            if isinstance(error, WriteError):
                raise OutputError(f"{self._paths[0]}: can't be written: {error}; make room and start again") from error
            raise

    def flush(self) -> None:
        """Wait until the disk has what is in them; nobody may write them any more."""
        with self.gone_on_error(), writing.writing():
            _flush([partial for partial, _ in self._named()])
        self._is_flushed = True

    def name(self, before: Callable[[], None] = lambda: None) -> None:
        """Give them their names, so that neither they nor these are lost with the power.

        No name is given before the content of all is on the disk, or it might be found with half of that.  Then
        `before` is called, which may raise.  The names are waited for when all of a folder are given: whoever finds
        the last may count on the others, for a file system that keeps a journal keeps what became of a folder in order,
        and one that doesn't is waited for before anybody hears that the files are there.
        """
        if not self._is_flushed:
            self.flush()
        with self.gone_on_error():
            before()
            with writing.writing():
                for folder, those in itertools.groupby(self._named(), lambda one: os.path.dirname(one[1])):
                    for partial, path in those:
                        os.replace(partial, path)
                    _sync_folder(folder or ".")
        _in_hand.difference_update(self.partial)

    def _named(self) -> list[tuple[str, str]]:
        """(temporary name, final one) of each; the optional ones where they are there."""
        named = zip(self.partial, self._paths, strict=True)
        return [(partial, path) for partial, path in named if path not in self._optional or os.path.exists(partial)]

    def _remove(self) -> None:
        for partial in self.partial:
            with contextlib.suppress(OSError):
                os.unlink(partial)
        _in_hand.difference_update(self.partial)


def _flush(paths: Sequence[str]) -> None:
    """Wait until the disk has what is in these files, all at once.  Raises one of the errors where there are some."""
    errors: list[OSError] = []

    def flush(path: str) -> None:
        try:
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
        except OSError as error:
            errors.append(error)

    others = [in_background(functools.partial(flush, path)) for path in paths[1:]]
    for path in paths[:1]:
        flush(path)
    for wait in others:
        wait()
    if errors:
        raise errors[0]


def in_background(work: Callable[[], None]) -> Callable[[], object]:
    """Begin to do it in a thread; what is returned waits for its end.  Where no thread is to be had it is done at once.

    A thread's own `join`, once it was interrupted, takes one for ended that goes on.  Where the start is interrupted,
    nothing goes on when the error comes.
    """
    claim, ended = threading.Lock(), threading.Event()

    def run() -> None:
        if claim.acquire(blocking=False):
            try:
                work()
            finally:
                ended.set()

    try:
        threading.Thread(target=run, daemon=True).start()
    except RuntimeError:
        run()
    except BaseException:
        # Of a thread that hasn't begun by now nothing comes.
        if not claim.acquire(blocking=False):
            ended.wait()
        raise
    return ended.wait


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems can't, and need it not.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EROFS):
            raise
    finally:
        os.close(descriptor)


def drop_files_in_hand() -> None:
    """Remove what this process is writing, on its way to an abrupt end: none of it can be named any more."""
    for partial in list(_in_hand):
        with contextlib.suppress(OSError):
            os.unlink(partial)
