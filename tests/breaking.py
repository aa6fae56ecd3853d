"""Ways to make a data set of forms that HDF5's library reads and others don't, by h5py's low-level interface."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Break = Callable[[Path], None]


def typed(place: str, kind: str, *, write: bool = True, file: str | None = None) -> Break:
    """Make a dataset anew as an enumeration, a bitfield or of a committed type; chunks and filters stay."""

    def break_it(master: Path) -> None:
        with h5py.File(master if file is None else master.with_name(file), "r+") as h5:
            old = h5[place]
            values, tid, plist = old[()], old.id.get_type(), old.id.get_create_plist()
            attributes, space = dict(old.attrs), old.id.get_space().copy()
            del h5[place]
            made = _dataset(h5, place, _of_kind(h5, tid, kind), space, plist)
            if write:
                made.id.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(values), mtype=made.id.get_type())
            made.attrs.update(attributes)

    return break_it


def _of_kind(h5: h5py.File, tid: h5py.h5t.TypeID, kind: str) -> h5py.h5t.TypeID:
    if kind == "enumeration":
        made = h5py.h5t.enum_create(tid)
        made.enum_insert(b"A", 1)
        return made
    if kind == "bitfield":
        bits = {1: h5py.h5t.STD_B8LE, 2: h5py.h5t.STD_B16LE, 4: h5py.h5t.STD_B32LE}
        return bits[tid.get_size()].copy()
    if kind == "committed":
        made = tid.copy()
        made.commit(h5.id, b"/named_type")
        return made
    return tid.copy()


def _dataset(h5: h5py.File, place: str, tid: Any, space: Any, plist: Any) -> h5py.Dataset:
    folder, name = place.rsplit("/", 1)
    return h5py.Dataset(h5py.h5d.create(h5[folder or "/"].id, name.encode(), tid, space, plist))


def never_written(place: str, fill: Any) -> Break:
    """A dataset without storage, which HDF5 reads as its fill value."""

    def break_it(master: Path) -> None:
        with h5py.File(master, "r+") as h5:
            dtype, shape, attributes = h5[place].dtype, h5[place].shape, dict(h5[place].attrs)
            del h5[place]
            h5.create_dataset(place, shape=shape, dtype=dtype, fillvalue=fill).attrs.update(attributes)

    return break_it


def external(place: str) -> Break:
    """The values in a file of their own."""

    def break_it(master: Path) -> None:
        outside = master.with_name("outside.raw")
        with h5py.File(master, "r+") as h5:
            values = h5[place][()]
            outside.write_bytes(values.tobytes())
            del h5[place]
            h5.create_dataset(
                place, shape=values.shape, dtype=values.dtype, external=[(outside.name, 0, values.nbytes)]
            )

    return break_it


def linked_as(name: str, filename: str) -> Break:
    """A link to a data file by another path; `{folder}` in it stands for the master's folder."""

    def break_it(master: Path) -> None:
        with h5py.File(master, "r+") as h5:
            link = h5["/entry/data"].get(name, getlink=True)
            del h5[f"/entry/data/{name}"]
            h5[f"/entry/data/{name}"] = h5py.ExternalLink(filename.format(folder=master.parent), link.path)

    return break_it


def through_a_soft_link(name: str) -> Break:
    """The link to a data file elsewhere, and a soft link in its place."""

    def break_it(master: Path) -> None:
        with h5py.File(master, "r+") as h5:
            h5.create_group("/entry/kept")
            h5.move(f"/entry/data/{name}", f"/entry/kept/{name}")
            h5[f"/entry/data/{name}"] = h5py.SoftLink(f"/entry/kept/{name}")

    return break_it


def cut(name: str, part: float) -> Break:
    """A file cut short."""

    def break_it(master: Path) -> None:
        path = master.with_name(name)
        os.truncate(path, int(path.stat().st_size * part))

    return break_it


def overwritten(name: str, first: int, n: int) -> Break:
    """Bytes of a file that are something else."""

    def break_it(master: Path) -> None:
        with open(master.with_name(name), "r+b") as file:
            file.seek(first)
            file.write(b"\xa5" * n)

    return break_it
