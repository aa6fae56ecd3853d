"""What rules look at: an open master (or OUT.nxs), and the facts of each data file, read once."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import h5py
import numpy as np

from ..errors import BnlError
from ..hdf5 import access, guard
from ..hdf5.layout import MOST_LINKS, Container, H5Bytes, Layout, LayoutError
from ..hdf5.memory import Memory
from ..hdf5.names import DETECTOR, SPECIFIC
from ..input.experiment import flavour
from ..output.record import GROUP

DATA = "entry/data"


@dataclass(frozen=True)
class Observation:
    """What a rule saw at one object of one file."""

    ok: bool
    file: str
    object: str
    found: str


@dataclass(frozen=True)
class Stored:
    """How a dataset lies in its file."""

    file: str
    path: str
    """Name in that file."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...] | None
    filters: tuple[tuple[int, tuple[int, ...]], ...]
    """(number, parameters) of each."""
    container: Container | None
    layout: Layout | None
    fault: str | None
    """Why container or layout could not be read, or the path not be followed."""
    is_virtual: bool
    has_storage: bool
    """Whether data were ever written (contiguous ones)."""
    kind: str
    """Class of the stored type: integer, float, enumeration, bitfield or other; "committed" before a named one."""
    is_external: bool
    """Whether the values lie in files of their own."""
    is_paged: bool
    """Whether the file's space is managed in pages."""

    @property
    def filter_numbers(self) -> tuple[int, ...]:
        return tuple(number for number, _ in self.filters)


@dataclass(frozen=True)
class Block:
    """A link to images in /entry/data, and what it leads to."""

    name: str
    """data_000001, ..."""
    target: str
    """The file's name as the link gives it, with the folder in which it is looked for."""
    place: str
    """Path in that file."""
    images: Stored | None
    problem: str | None
    """Why there are no images."""
    missing_chunks: int
    skipping_chunks: int
    """Chunks whose filter mask says that a filter was left out."""
    plan_sha256: str | None
    """Set for files that this program wrote."""
    is_where_told: bool = True
    """Whether the link itself leads there: HDF5 looks in further places, by the file's base name for one."""

    @property
    def n_images(self) -> int:
        return self.images.shape[0] if self.images is not None and self.images.shape else 0


class Subject:
    """A master or NXmx file, open for reading; a context manager.  Raises InputError where it isn't HDF5.

    `memory` remembers files that were looked at before.
    """

    def __init__(self, path: str, memory: Memory | None = None) -> None:
        self.path = path
        self.h5 = access.open_read(path)
        self._block: tuple[str, h5py.File] | None = None
        with guard.understood(path), guard.kept_open(self.h5):
            surveyed = memory.know(self.h5).surveyed if memory is not None else None
            surveyed = surveyed or guard.survey(self.h5, path, allows_external=True)
            guard.check_sizes(surveyed, self.image_shape or (1, 1))

    def opened(self, name: str) -> h5py.File:
        """A data file, whose structure was looked at; it stays open until another is asked for."""
        if self._block is None or self._block[0] != name:
            if self._block is not None:
                self._block[1].close()
            self._block = name, access.open_read(name)
            guard.survey(self._block[1], name, allows_external=True)
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
        return tuple(read_block(group, name) for name in names)

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


def stored(dataset: h5py.Dataset) -> Stored:
    """Facts of a dataset, by h5py's low-level interface and the file's bytes."""
    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(k) for k in range(plist.get_nfilters())]
    container = layout = fault = None
    try:
        with H5Bytes(dataset.file.filename) as raw:
            container = raw.container
            layout = raw.layout(h5py.h5o.get_info(dataset.id).addr)
    except (LayoutError, OSError) as error:
        fault = str(error)
    return Stored(
        file=dataset.file.filename,
        path=str(dataset.name),
        shape=tuple(dataset.shape or ()),
        dtype=dataset.dtype,
        chunks=dataset.chunks,
        filters=tuple((int(f[0]), tuple(int(v) for v in f[2])) for f in filters),
        container=container,
        layout=layout,
        fault=fault,
        is_virtual=bool(dataset.is_virtual),
        has_storage=bool(dataset.id.get_storage_size()),
        kind=type_kind(dataset.id.get_type()),
        is_external=plist.get_external_count() > 0,
        is_paged=is_paged(dataset.file),
    )


def is_paged(file: h5py.File) -> bool:
    """Whether the file's space is managed in pages."""
    return bool(file.id.get_create_plist().get_file_space_strategy()[0] == h5py.h5f.FSPACE_STRATEGY_PAGE)


def type_kind(tid: h5py.h5t.TypeID) -> str:
    """What an HDF5 type is; NumPy takes an enumeration and a bitfield for integers."""
    kinds = {
        h5py.h5t.INTEGER: "integer",
        h5py.h5t.FLOAT: "float",
        h5py.h5t.ENUM: "enumeration",
        h5py.h5t.BITFIELD: "bitfield",
    }
    kind = kinds.get(tid.get_class(), "other")
    return f"committed {kind}" if tid.committed() else kind


def read_block(group: h5py.Group, name: str) -> Block:
    """Facts of one link and of the data file that it leads to."""
    link = _followed(group, name)
    folder = os.path.dirname(group.file.filename)
    target, place, is_where_told = group.file.filename, f"/{DATA}/{name}", True
    if isinstance(link, h5py.ExternalLink):
        target, place = os.path.join(folder, link.filename), link.path
        is_where_told = os.path.exists(target)
    found = access.get_dataset(group, name)
    if found is None:
        problem = _problem(target, place)
        return Block(name, target, place, None, problem, 0, 0, None)
    try:
        missing, skipping = _chunk_faults(found)
    except (OSError, RuntimeError, ValueError) as error:
        problem = f"its chunks can't be found ({' '.join(str(error).split())})"
        return Block(name, target, place, None, problem, 0, 0, None)
    sha = None
    ours = access.get_group(found.file, GROUP)
    if ours is not None:
        sha = access.attribute_text(ours, "plan_sha256") or None
    return Block(name, target, place, stored(found), None, missing, skipping, sha, is_where_told)


def _followed(group: h5py.Group, name: str) -> h5py.HardLink | h5py.SoftLink | h5py.ExternalLink | None:
    """The link itself, or what soft links in its place lead to in the same file."""
    link = access.link(group, name)
    for _ in range(MOST_LINKS):
        if not isinstance(link, h5py.SoftLink):
            break
        folder, name = posixpath.split(posixpath.join(str(group.name), link.path))
        found = access.get_group(group.file, folder)
        if found is None:
            return None
        group, link = found, access.link(found, name)
    return link


def _problem(path: str, place: str) -> str:
    if not os.path.exists(path):
        return "missing"
    try:
        with access.open_read(path) as file:
            return "unreadable" if access.get_dataset(file, place) is not None else f"no images at {place}"
    except BnlError as error:
        return str(error).removeprefix(f"{path}: ")


def _chunk_faults(dataset: h5py.Dataset) -> tuple[int, int]:
    """(chunks that were never written, chunks past which a filter was left out)."""
    if dataset.chunks is None:
        return 0, 0
    masks: list[int] = []
    dataset.id.chunk_iter(lambda chunk: masks.append(chunk.filter_mask))
    expected = int(np.prod([-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True)]))
    return expected - len(masks), sum(mask != 0 for mask in masks)


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
