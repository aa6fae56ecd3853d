"""Copies an HDF5 tree object by object, in kind, while a caller decides what becomes of each dataset.

Groups are created one by one: HDF5's own copy of a whole group leaves forms that XDS's reader can't parse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import InputError
from . import access, steady, stored

KEPT = "/"
"""No name in HDF5: stands for all names of an object that is copied as it is."""

COMPRESS_ABOVE = 1 << 16
"""Bytes: what is smaller is stored contiguous even if it was chunked, as every reader can take that."""


@dataclass(frozen=True)
class Item:
    """A dataset of the input, under its path in the output's tree."""

    path: str
    name: str
    dataset: h5py.Dataset
    parent: h5py.Group
    """The group that names it; that of a link's name, not of its target."""


@dataclass(frozen=True)
class Keep:
    """Copied as it is."""


@dataclass(frozen=True)
class Drop:
    """Left out."""


@dataclass(frozen=True)
class Replace:
    """Copied with other values; their type is the input's wherever that can hold them."""

    values: Any
    dtype: np.dtype[Any] | None = None
    """Exactly this type, where given."""


@dataclass(frozen=True)
class LinkTo:
    """Replaced by a soft link."""

    path: str


Decision = Keep | Drop | Replace | LinkTo


@dataclass
class TreeCopy:
    """One copy of one input's tree."""

    decide: Callable[[Item], Decision]
    keeps_name: Callable[[str, h5py.Group, str], bool] = lambda path, group, name: True
    """(path, group, name) -> whether that name below that group is copied at all."""
    warnings: list[str] = field(default_factory=list)
    packs: bool = False
    """Whether large maps that are replaced get gzip; XDS's reader takes none, all others do."""
    fixed_strings: bool = False
    """Whether strings of variable length get a fixed one, which programs in C take more of."""
    _made: dict[tuple[tuple[int, int], str], Any] = field(default_factory=dict)
    """What is new, as HDF5's own calls know it, by the identity of what it is a copy of, and a name."""
    _open: list[h5py.HLObject] = field(default_factory=list)
    """Of other files: a file that is closed and opened again has another identity."""

    def copy(self, source: h5py.Group, target: h5py.Group, path: str = "", outside: bool = False) -> None:
        """Copy what is below `source` to `target`, whose path in the output's tree is `path`.

        `outside` says that `source` lies in another file than the master, where links have another meaning
        and so are replaced by what they lead to.
        """
        self._made[access.identity(source), ""] = target.id
        copy_attributes(source, target, path or "/", self.warnings, fixed_strings=self.fixed_strings)
        for name in source:
            if self.keeps_name(f"{path}/{name}", source, name):
                self._copy_name(source, target, name, f"{path}/{name}", outside)

    def _copy_name(self, source: h5py.Group, target: h5py.Group, name: str, path: str, outside: bool) -> None:
        link = access.link(source, name)
        if isinstance(link, h5py.SoftLink) and not outside:
            target[name] = h5py.SoftLink(link.path)
            return
        external = isinstance(link, h5py.ExternalLink)
        found = access.resolve(source, name)
        if external and found is not None:
            self._open.append(found)
        if isinstance(found, h5py.Group):
            self._copy_group(found, target, name, path, outside or external)
        elif isinstance(found, h5py.Dataset):
            self._copy_dataset(Item(path, name, found, source), target)
        elif isinstance(link, h5py.HardLink):
            self._copy_named_type(source, target, name, path)
        else:
            self.warnings.append(f"{path} is left out: it is a link to {_where(link)}, which is not there")

    def _copy_group(self, found: h5py.Group, target: h5py.Group, name: str, path: str, outside: bool) -> None:
        made = self._made.get((access.identity(found), ""))
        if made is not None:
            _link(target, name, made)
            return
        # With a name that isn't ASCII, h5py notes its character set.
        new = h5py.Group(h5py.h5g.create(target.id, name.encode())) if name.isascii() else target.create_group(name)
        self.copy(found, new, path, outside)

    def _copy_dataset(self, item: Item, target: h5py.Group) -> None:
        # Two names of one dataset stay so where the rules, which go by the name, treat both alike.
        identity = access.identity(item.dataset)
        if (made := self._made.get((identity, item.name))) is not None:
            _link(target, item.name, made)
            return
        decision = self.decide(item)
        if isinstance(decision, Drop):
            return
        if isinstance(decision, LinkTo):
            target[item.name] = h5py.SoftLink(decision.path)
            return
        key = (identity, KEPT if isinstance(decision, Keep) else item.name)
        if key in self._made:
            _link(target, item.name, self._made[key])
            return
        try:
            if isinstance(decision, Keep) and self.fixed_strings and _is_variable(item.dataset.dtype):
                made = target.create_dataset(item.name, data=_fixed(access.read(item.dataset))).id
            elif isinstance(decision, Keep):
                made = copy_dataset(item.dataset, target, item.name)
            else:
                made = write_values(item.dataset, target, item.name, decision.values, decision.dtype, packed=self.packs)
        except (TypeError, ValueError, NotImplementedError, access.UnknownFilter) as error:
            self.warnings.append(f"{item.path} is left out: it can't be read or written ({error})")
            return
        _copy_attributes(item.dataset, made, item.path, self.warnings, fixed_strings=self.fixed_strings)
        self._made[key] = made

    def _copy_named_type(self, source: h5py.Group, target: h5py.Group, name: str, path: str) -> None:
        found = source.get(name)
        if not isinstance(found, h5py.Datatype):
            self.warnings.append(f"{path} is left out: it can't be opened")
            return
        found.id.copy().commit(target.id, name.encode())
        copy_attributes(found, target[name], path, self.warnings)


def _link(target: h5py.Group, name: str, made: Any) -> None:
    """Another name for what was made already."""
    target[name] = h5py.Group(made) if isinstance(made, h5py.h5g.GroupID) else h5py.Dataset(made)


def _is_variable(dtype: np.dtype[Any]) -> bool:
    kind = h5py.check_string_dtype(dtype)
    return kind is not None and kind.length is None


def _fixed(value: Any) -> Any:
    """Strings of variable length, one or many, as UTF-8 of the greatest length among them; ASCII where that will do."""
    if isinstance(value, h5py.Empty):
        return h5py.Empty("S1")
    raw = [one.encode() if isinstance(one, str) else bytes(one) for one in np.ravel(np.asarray(value, dtype=object))]
    length = max([1, *map(len, raw)])
    dtype = h5py.string_dtype("ascii" if all(one.isascii() for one in raw) else "utf-8", length)
    return np.array(raw, dtype=dtype).reshape(np.shape(value))


def _where(link: Any) -> str:
    if isinstance(link, h5py.ExternalLink):
        return f"{link.path} in {link.filename}"
    return str(getattr(link, "path", "something unknown"))


def _holds_references(dtype: np.dtype[Any]) -> bool:
    if h5py.check_ref_dtype(dtype) is not None:
        return True
    inner = h5py.check_vlen_dtype(dtype)
    if isinstance(inner, np.dtype):
        return _holds_references(inner)
    return any(_holds_references(dtype[name]) for name in dtype.names or ())


NUMBERS = (h5py.h5t.TypeIntegerID, h5py.h5t.TypeFloatID)
SCALAR = h5py.h5s.create(h5py.h5s.SCALAR)


def _space_copy(space: h5py.h5s.SpaceID) -> h5py.h5s.SpaceID:
    """The same extent, without the room to grow: only chunked data can have that."""
    kind = space.get_simple_extent_type()
    if kind != h5py.h5s.SIMPLE:
        return SCALAR if kind == h5py.h5s.SCALAR else h5py.h5s.create(kind)
    return h5py.h5s.create_simple(space.get_simple_extent_dims())


def _own_type(kind: h5py.h5t.TypeID) -> h5py.h5t.TypeID:
    """A type to make something with in another file: one that has a name in its own can't be used there."""
    return kind.copy() if kind.committed() else kind


def copy_dataset(source: h5py.Dataset, target: h5py.Group, name: str) -> h5py.h5d.DatasetID:
    """Copy values, type (padding and character set of strings too) and shape, but not the way of storage.

    Contiguous, except for large data that was compressed: that gets gzip, which every HDF5 library has.
    """
    kind, space, filters = steady.told(source)
    if not isinstance(kind, NUMBERS) and _holds_references(source.dtype):
        raise TypeError("it holds references")
    n_values = space.get_simple_extent_npoints()
    plist = _packed_as(source) if filters and source.ndim and n_values * kind.get_size() > COMPRESS_ABOVE else None
    made = h5py.h5d.create(target.id, name.encode(), _own_type(kind), _space_copy(space), plist)
    if not n_values:
        return made
    values, as_stored = stored.room(space.get_simple_extent_dims(), source, kind)
    if as_stored is None:
        h5py.Dataset(made)[...] = access.read(source)
        return made
    # As they are stored: conversion would cut off a string that fills its length to the last byte.
    try:
        if filters:
            access.enable_filters(source)
        own = source.own_id if isinstance(source, steady.Dataset) else source.id
        own.read(h5py.h5s.ALL, h5py.h5s.ALL, values, mtype=kind)
    except OSError as error:
        raise access.unreadable(source, error) from None
    made.write(h5py.h5s.ALL, h5py.h5s.ALL, values, mtype=kind)
    if isinstance(source, steady.Dataset):
        source.copied_to(made)
    return made


def _packed_as(source: h5py.Dataset) -> h5py.h5p.PropDCID:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk(source.chunks)
    plist.set_shuffle()
    plist.set_deflate(4)
    return plist


def pack(plist: h5py.h5p.PropDCID, shape: tuple[int, ...], n_bytes: int) -> None:
    """Ask for gzip, a chunk a plane, where a map (..., ny, nx) is large enough to gain by it."""
    if len(shape) >= 2 and n_bytes > COMPRESS_ABOVE:
        plist.set_chunk((1,) * (len(shape) - 2) + shape[-2:])
        plist.set_shuffle()
        plist.set_deflate(4)


def write_values(
    source: h5py.Dataset,
    target: h5py.Group,
    name: str,
    values: Any,
    dtype: np.dtype[Any] | None = None,
    *,
    packed: bool = False,
) -> h5py.h5d.DatasetID:
    """Write a number or an array in place of `source`: of its type where that can hold the values.

    One number takes the source's shape, be it () or (1,).  `packed` maps are stored with gzip.
    """
    array = np.asarray(values)
    if array.ndim == 0 and source.size == 1:
        array = array.reshape(source.shape)
    stored = dtype or fitting_type(array, source.dtype)
    if stored == source.dtype:
        tid = _own_type(steady.told(source)[0])
    else:
        tid = h5py.h5t.py_create(stored, logical=True)
    space = h5py.h5s.create_simple(array.shape) if array.ndim else SCALAR
    plist = None
    if packed:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        pack(plist, array.shape, array.size * stored.itemsize)
    made = h5py.h5d.create(target.id, name.encode(), tid, space, plist)
    new = np.ascontiguousarray(array, dtype=stored).reshape(array.shape)
    if stored.kind not in "iuf":
        h5py.Dataset(made)[...] = new
    elif new.size:
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, new)
    return made


def fitting_type(values: npt.NDArray[Any], stored: np.dtype[Any]) -> np.dtype[Any]:
    """`stored` if it can hold the values, else the smallest integer type of its sign, or float64."""
    if stored.kind not in "iu":
        return stored
    if not np.equal(np.mod(values, 1), 0).all():
        return np.dtype("<f8")
    least, most = (int(values.min()), int(values.max())) if values.size else (0, 0)
    candidates = [stored, *(np.dtype(f"<{stored.kind}{size}") for size in (4, 8)), np.dtype("<i8")]
    for one in candidates:
        if np.iinfo(one).min <= least and most <= np.iinfo(one).max:
            return one
    return np.dtype("<f8")


def copy_attributes(
    source: h5py.HLObject, target: h5py.HLObject, path: str, warnings: list[str], *, fixed_strings: bool = False
) -> None:
    """Copy attributes in kind; one that holds references, or can't be read, is left out with a warning.

    With `fixed_strings`, strings of variable length get a fixed one.
    """
    _copy_attributes(source, target.id, path, warnings, fixed_strings=fixed_strings)


def _copy_attributes(
    source: h5py.HLObject, target: Any, path: str, warnings: list[str], *, fixed_strings: bool
) -> None:
    """Of an item, to one that HDF5's own calls know."""
    for name in source.attrs:
        try:
            _copy_attribute(source, target, name, fixed_strings)
        except (TypeError, NotImplementedError, ValueError) as error:
            warnings.append(f"{path}@{name} is left out: {error}")
        except OSError as error:
            raise InputError(f"{path}@{name} can't be read ({error})") from error


def _copy_attribute(source: h5py.HLObject, target: Any, name: str, fixed_strings: bool) -> None:
    kind, space, values, as_stored = steady.stored_attribute(source, name)
    if not isinstance(kind, NUMBERS) and _holds_references(kind.dtype):
        raise TypeError("it holds references to objects of another file")
    raw = name.encode()
    if h5py.h5a.exists(target, raw):
        h5py.h5a.delete(target, raw)
    if fixed_strings and isinstance(kind, h5py.h5t.TypeStringID) and kind.is_variable_str():
        owner = h5py.Dataset(target) if isinstance(target, h5py.h5d.DatasetID) else h5py.Group(target)
        owner.attrs[name] = _fixed(source.attrs[name])
        return
    made = h5py.h5a.create(target, raw, _own_type(kind), _space_copy(space))
    if values is not None:
        made.write(values, mtype=as_stored)
