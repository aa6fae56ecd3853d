"""What rules look at: an open master (or OUT.nxs), and the facts of each data file, read once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import h5py
import numpy as np

from ..errors import BnlError
from ..hdf5 import access, guard
from ..hdf5.layout import Container, H5Bytes, LayoutError
from ..hdf5.memory import Memory
from ..hdf5.names import DETECTOR, SPECIFIC
from ..input.experiment import flavour
from .facts import DATA, Block, Stored, read_block, stored


@dataclass(frozen=True)
class Observation:
    """What a rule saw at one object of one file."""

    ok: bool
    file: str
    object: str
    found: str


class Subject:
    """A master or NXmx file, open for reading; a context manager.  Raises InputError where it isn't HDF5.

    `memory` remembers files that were looked at before.
    """

    def __init__(self, path: str, memory: Memory | None = None) -> None:
        self.path = path
        self.h5 = access.open_read(path)
        self._block: tuple[str, h5py.File] | None = None
        self._surveyed: set[str] = set()
        with guard.understood(path), guard.kept_open(self.h5):
            surveyed = memory.know(self.h5, large=False).surveyed if memory is not None else None
            surveyed = surveyed or guard.survey(self.h5, path, allows_external=True)
            guard.check_sizes(surveyed, self.image_shape or (1, 1))

    def opened(self, name: str) -> h5py.File:
        """A data file, whose structure was looked at; it stays open until another is asked for."""
        file = self._open(name)
        if name not in self._surveyed:
            guard.survey(file, name, allows_external=True)
            self._surveyed.add(name)
        return file

    def _open(self, name: str) -> h5py.File:
        if self._block is None or self._block[0] != name:
            if self._block is not None:
                self._block[1].close()
                self._block = None
            self._block = name, access.open_read(name)
        return self._block[1]

    def __enter__(self) -> Subject:
        return self

    def __exit__(self, *what: object) -> None:
        for file in (self.h5, *(self._block or ())[1:]):
            file.close()

    # What is where

    def saw(self, place: str, ok: bool, found: object) -> Observation:
        return Observation(ok, self.path, "/" + place.lstrip("/"), str(found))

    def dataset(self, place: str) -> h5py.Dataset | None:
        return access.get_dataset(self.h5, place)

    def number(self, place: str) -> float | None:
        return access.number(self.h5, place)

    def stored(self, place: str) -> Stored | None:
        found = self.dataset(place)
        return None if found is None else stored(found)

    @cached_property
    def is_nxmx(self) -> bool:
        return flavour(self.h5) == "nxmx"

    @cached_property
    def bytes_fault(self) -> str | None:
        return self._container[1]

    @cached_property
    def container(self) -> Container | None:
        return self._container[0]

    @cached_property
    def _container(self) -> tuple[Container | None, str | None]:
        try:
            with H5Bytes(self.path) as raw:
                return raw.container, None
        except LayoutError as error:
            return None, str(error)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """All links to data files, in order of their names."""
        group = access.get_group(self.h5, DATA)
        names = [] if group is None else sorted(n for n in group if access.DATA_NAME.fullmatch(n))
        return tuple(read_block(group, name, self._open) for name in names)

    @property
    def present(self) -> tuple[tuple[Block, Stored], ...]:
        """The links that lead to images, with these."""
        return tuple((block, block.images) for block in self.blocks if block.images is not None)

    def linked_files(self) -> Iterator[Observation]:
        """What is to be said of the data files behind links and virtual dataset: those that can't be read, or all."""
        seen = [
            Observation(block.images is not None, block.target, f"/{DATA}/{block.name}", block.problem or "found")
            for block in self.blocks
        ]
        place, found = self.signal
        for path in virtual_files(found) if found is not None else ():
            problem = file_problem(path)
            seen.append(Observation(problem is None, path, f"/{place}", problem or "found"))
        failed = {(one.file, one.found): one for one in reversed(seen) if not one.ok}
        yield from list(failed.values())[::-1] or seen[:1]

    @cached_property
    def signal(self) -> tuple[str, h5py.Dataset | None]:
        """The dataset of all images that @signal names, or the first in the group."""
        group = access.get_group(self.h5, DATA)
        if group is None:
            return DATA, None
        name = access.attribute_text(group, "signal") or next(iter(group), "")
        return f"{DATA}/{name}", access.get_dataset(group, name) if name else None

    @cached_property
    def image_shape(self) -> tuple[int, int] | None:
        """(slow, fast) of the images."""
        of_files = next((images.shape for _, images in self.present if len(images.shape) == 3), None)
        found = of_files or (None if self.signal[1] is None else self.signal[1].shape)
        return (int(found[1]), int(found[2])) if found and len(found) == 3 else None

    @cached_property
    def image_dtype(self) -> np.dtype[Any] | None:
        for _, images in self.present:
            return images.dtype
        return None if self.signal[1] is None else self.signal[1].dtype

    @cached_property
    def n_images(self) -> int | None:
        """Images that the data files hold; None where one is missing, for then nobody knows."""
        if self.blocks:
            counts = [block.n_images for block, _ in self.present]
            return sum(counts) if len(counts) == len(self.blocks) else None
        found = self.signal[1]
        return None if found is None or found.ndim != 3 else int(found.shape[0])

    @cached_property
    def has_mask(self) -> bool:
        return any(self.dataset(f"{group}/pixel_mask") is not None for group in (SPECIFIC, DETECTOR))


def integers(dataset: h5py.Dataset) -> tuple[int, ...]:
    """A dataset's values where they are whole numbers, else nothing."""
    if dataset.dtype.kind not in "iu" or dataset.shape is None:
        return ()
    return tuple(int(n) for n in np.ravel(access.read(dataset)))


def file_problem(path: str) -> str | None:
    """Why a file can't be opened as HDF5; None where it can."""
    if not os.path.exists(path):
        return "missing"
    try:
        access.open_read(path).close()
    except BnlError as error:
        return str(error).removeprefix(f"{path}: ")
    return None


def virtual_files(dataset: h5py.Dataset) -> Iterator[str]:
    """Paths of the files that a virtual dataset draws on, each once."""
    if not dataset.is_virtual:
        return
    folder = os.path.dirname(dataset.file.filename)
    names = dict.fromkeys(source.file_name for source in dataset.virtual_sources())
    for name in names:
        yield dataset.file.filename if name == "." else os.path.join(folder, name)
