"""A look at the structure of a file before its items are read: nothing in it may hang, crash or fill the memory.

HDF5 follows links into any file, waits for pipes, crashes on virtual datasets of themselves, and makes room for what
a file says that it holds.  So all of that is looked at here first, by what can be had without reading values.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from re import compile as regex

import h5py
import numpy as np

from ..errors import InputError
from . import access, steady

MOST_ITEMS = 200_000
MOST_FILES = 100
"""Files that links of a master lead to, those of frames apart."""
MOST_LEVELS = 8
"""Virtual datasets over virtual datasets."""
FRAMES_NAME = regex(r"(data|squash)_\d+")
"""What links to files of frames and of codestreams are called."""
CHUNK_SLACK = 1 << 16
LARGE = 1 << 26
"""Bytes: smaller items are never too large."""
BYTES_A_PIXEL = 64
"""The largest item that a detector's metadata may hold, a stack of maps say."""
TOTAL = 8
"""All items together, in such largest ones."""


FAULTS = (ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError)


@contextmanager
def understood(path: str) -> Iterator[None]:
    """What goes wrong within, because a file isn't what it seems to be, is an InputError in one line."""
    try:
        yield
    except FAULTS as error:
        if type(error).__module__.startswith("mpi4py"):
            raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"{path}: can't be understood: {reason}; restore the file") from error


@contextmanager
def kept_open(file: h5py.File) -> Iterator[None]:
    """What goes wrong within closes the file, so that it isn't taken for open when it is asked for again."""
    try:
        yield
    except BaseException:
        file.close()
        raise


@contextmanager
def opened(path: str, shape: tuple[int, int] | None = None) -> Iterator[h5py.File]:
    """A file open for reading whose structure was looked at; what goes wrong within is an InputError in one line.

    With the images' `shape` (ny, nx), how large its items are is looked at too.
    """
    with access.open_read(path) as file, understood(path):
        found = survey(file, path)
        if shape is not None:
            check_sizes(found, shape)
        yield file


@dataclass
class Survey:
    """What is in a file and in those that its links lead to."""

    n_items: int = 0
    large: list[tuple[str, tuple[int, ...], int]] = field(default_factory=list)
    """(file and path, shape, bytes) of datasets above LARGE."""
    n_bytes: int = 0
    """Of all datasets but the large ones."""
    seen_files: set[str] = field(default_factory=set)
    allows_external: bool = False
    """Whether values may lie in other files, where these are regular ones."""
    _open: list[h5py.File] = field(default_factory=list)
    """Files stay open: one that is closed and opened again has another identity."""

    def close(self) -> None:
        for file in self._open:
            file.close()

    def visit(self, file: h5py.File, name: str) -> None:
        """Look at all that hard links lead to in an open file, and at the files that its other links name."""
        self.seen_files.add(os.path.realpath(name))
        seen = {access.identity(file)}
        waiting: list[tuple[h5py.Group, str, int]] = [(file["/"], "", 0)]
        while waiting:
            group, path, depth = waiting.pop()
            if depth > access.MAX_DEPTH:
                raise InputError(f"{name}: {path[:80]}...: groups are nested deeper than {access.MAX_DEPTH}")
            for child in group:
                self._count(name)
                link, here = access.link(group, child), f"{path}/{child}"
                # Files of frames are looked at by those who open them: there may be thousands.
                if isinstance(link, h5py.ExternalLink) and FRAMES_NAME.fullmatch(child) is None:
                    self._follow(name, here, link)
                if not isinstance(link, h5py.HardLink):
                    continue
                item = access.resolve(group, child)
                if item is None or access.identity(item) in seen:
                    continue
                seen.add(access.identity(item))
                if isinstance(item, h5py.Group):
                    waiting.append((item, here, depth + 1))
                else:
                    self._look_at(item, name, here)

    def _count(self, name: str) -> None:
        self.n_items += 1
        if self.n_items > MOST_ITEMS:
            raise InputError(f"{name}: more than {MOST_ITEMS} items; that is no master of a data set")

    def _follow(self, name: str, here: str, link: h5py.ExternalLink) -> None:
        for target in access.places(link.filename, name):
            if not os.path.exists(target):
                continue
            if not access.is_regular(target):
                raise InputError(f"{name}: {here} is a link to {target}, which is no regular file; take the link out")
            if os.path.realpath(target) in self.seen_files:
                return
            if len(self.seen_files) >= MOST_FILES:
                raise InputError(f"{name}: its links lead to more than {MOST_FILES} files")
            self._open.append(access.open_read(target))
            self.visit(self._open[-1], target)
            return

    @staticmethod
    def _is_harmless(dataset: h5py.Dataset, name: str) -> bool:
        there = [p for other, _, _ in dataset.external for p in access.places(other, name) if os.path.exists(p)]
        return all(map(access.is_regular, there))

    def _look_at(self, dataset: h5py.Dataset, name: str, here: str) -> None:
        if isinstance(dataset, steady.Dataset) and dataset.is_plain:
            n_bytes = (dataset.size or 0) * dataset.kind.get_size()
            if n_bytes <= LARGE:
                self.n_bytes += n_bytes
                return
        if dataset.external and (not self.allows_external or not self._is_harmless(dataset, name)):
            raise InputError(
                f"{name}: {here} keeps its values in other files (external storage), which isn't followed; take it out"
            )
        if dataset.is_virtual:
            _check_virtual(dataset, name, here)
        shape = dataset.shape or ()
        n_bytes = int(np.prod(shape, dtype=object)) * max(1, dataset.id.get_type().get_size())
        if n_bytes > LARGE:
            self.large.append((f"{name}: {here}", tuple(shape), n_bytes))
        else:
            self.n_bytes += n_bytes
        if dataset.chunks is not None and n_bytes <= LARGE:
            _check_chunks(dataset, name, here)


def survey(file: h5py.File, name: str, *, allows_external: bool = False) -> Survey:
    """Look at an open master; InputError, in one line, where something in it isn't to be followed or read."""
    found = Survey(allows_external=allows_external)
    try:
        found.visit(file, name)
    finally:
        found.close()
    return found


def check_sizes(found: Survey, shape: tuple[int, int]) -> None:
    """InputError where items are larger than frames of `shape` (ny, nx) explain; stacks of frames are no such items."""
    most = max(LARGE, BYTES_A_PIXEL * shape[0] * shape[1])
    total = found.n_bytes
    for where, dims, n_bytes in found.large:
        if (
            len(dims) >= 3
            and tuple(dims[-2:]) == tuple(shape)
            and posixpath.basename(where).startswith(("data", "images"))
        ):
            continue
        total += n_bytes
        if n_bytes > most:
            raise InputError(f"{where} is of {n_bytes} bytes, more than metadata of such frames can be; take it out")
    if total > TOTAL * most:
        raise InputError(f"the master's items are of {total} bytes, more than metadata of such frames can be")


def _check_chunks(dataset: h5py.Dataset, name: str, here: str) -> None:
    """No chunk takes more room than its values and some slack."""
    plain = int(np.prod(dataset.chunks, dtype=object)) * dataset.id.get_type().get_size()
    sizes: list[int] = []
    dataset.id.chunk_iter(lambda chunk: sizes.append(int(chunk.size)))
    if plain > 16 * LARGE or max(sizes, default=0) > 2 * plain + CHUNK_SLACK:
        raise InputError(f"{name}: {here} has chunks of {max([plain, *sizes])} bytes, which can't be; restore the file")


def _check_virtual(dataset: h5py.Dataset, name: str, here: str, above: Sequence[str] = ()) -> None:
    """Its sources lie in regular files, and none of them leads back to it."""
    place = f"{os.path.realpath(name)}:{dataset.name}"
    if place in above or len(above) >= MOST_LEVELS:
        raise InputError(f"{name}: {here} is a virtual dataset of itself; take it out")
    # HDF5 crashes where a source has another number of axes than the mapping says.
    sources = {(s.file_name, s.dset_name, s.src_space.get_simple_extent_ndims()) for s in dataset.virtual_sources()}
    for file_name, inner, n_axes in sorted(sources):
        if file_name == ".":
            _check_source(dataset.file, inner, n_axes, name, here, (*above, place))
        # Files of frames are looked at by those who open them.
        elif dataset.ndim < 3 or above:
            _check_other_file(file_name, inner, n_axes, name, here, (*above, place))


def _check_other_file(file_name: str, inner: str, n_axes: int, name: str, here: str, above: Sequence[str]) -> None:
    for target in access.places(file_name, name):
        if not os.path.exists(target):
            continue
        if not access.is_regular(target):
            raise InputError(f"{name}: {here} takes values from {target}, which is no regular file; take it out")
        with access.open_read(target) as file:
            _check_source(file, inner, n_axes, target, here, above)
        return


def _check_source(file: h5py.File, path: str, n_axes: int, name: str, here: str, above: Sequence[str]) -> None:
    """A source within an open file, where soft links lead to it; what links of files lead to is looked at elsewhere."""
    for _ in range(MOST_LEVELS):
        link = access.link(file, path)
        if isinstance(link, h5py.SoftLink):
            path = posixpath.join(posixpath.dirname(path), link.path)
            continue
        found = access.get_dataset(file, path) if isinstance(link, h5py.HardLink) else None
        if found is not None and found.is_virtual:
            _check_virtual(found, name, here, above)
        if found is not None and found.ndim != n_axes:
            raise InputError(
                f"{name}: {path} has {found.ndim} axes, and {here} takes values from it by {n_axes}; take {here} out"
            )
        return
