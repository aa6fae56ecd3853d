"""Facts of a dataset as it lies in its file, and of a data file behind a link."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from ..errors import BnlError
from ..hdf5 import access
from ..hdf5.layout import MOST_LINKS, Container, H5Bytes, Layout, LayoutError
from ..output.record import GROUP

DATA = "entry/data"


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


def read_block(group: h5py.Group, name: str, open_file: Callable[[str], h5py.File]) -> Block:
    """Facts of one link and of the data file that it leads to, as `open_file` opens it."""
    link = _followed(group, name)
    folder = os.path.dirname(group.file.filename)
    target, place, is_where_told = group.file.filename, f"/{DATA}/{name}", True
    if isinstance(link, h5py.ExternalLink):
        target, place = os.path.join(folder, link.filename), link.path
        is_where_told = os.path.exists(target)
    if target != group.file.filename and is_where_told:
        found = _dataset_of(os.path.join(os.getcwd(), target), place, open_file)
    else:
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


def _dataset_of(path: str, place: str, open_file: Callable[[str], h5py.File]) -> h5py.Dataset | None:
    """What HDF5 finds by an external link to a file that is there."""
    try:
        return access.get_dataset(open_file(path), place)
    except BnlError:
        return None


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
