"""One number for all that an HDF5 file tells: a SHA-256 over its items, in an order that the names alone give.

What counts is content: groups, links, types, shapes, attributes and values.  How HDF5 lays them out (chunks,
filters, the order of names, the library's version) doesn't, so that a copy by h5repack has the same digest.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np

from . import access
from .stored import room

AT_ONCE = 1 << 20
"""Bytes of one dataset in memory at a time: few, so that they are in the processor's cache when they are hashed."""
WHOLE_CHUNK = 1 << 26
"""Bytes up to which whole chunks are read all the same: HDF5 decodes a chunk anew for each part of it."""

Values = Mapping[int, np.ndarray[Any, Any]]
"""All values of datasets that were read before, by their addresses, each of the very type that is stored."""
NO_VALUES: Values = MappingProxyType({})


def content_sha256(
    file: h5py.File,
    *,
    leave_out: Collection[str] = (),
    checked_elsewhere: Callable[[str], bool] = lambda path: False,
    at_hand: Values = NO_VALUES,
) -> str:
    """The digest of an open file, in hexadecimal.

    `leave_out` has paths of datasets whose values don't count, and `PATH@NAME` of attributes that don't.  Of datasets
    `checked_elsewhere` it is not the values that count, but the filters by which their stored form is read.  Those
    `at_hand` aren't read again.  Raises what h5py does where something can't be read.
    """
    digest = Digest()
    walk(file, digest, leave_out=leave_out, checked_elsewhere=checked_elsewhere, at_hand=at_hand)
    return digest.sha256.hexdigest()


class Digest:
    """Takes what a walk finds, in order, and digests it."""

    in_one_piece = AT_ONCE
    """Bytes up to which the values of a contiguous dataset are given in one piece."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()

    def see(self, address: int) -> None:
        """Called with the address of every object."""

    def add(self, data: Any) -> None:
        """Bytes of whatever it is."""
        self.sha256.update(data)

    def add_values(self, data: Any, address: int, offset: int) -> None:
        """All values of the dataset at `address`, as they are stored in one piece at `offset` of the file."""
        self.add(data)

    def add_file_name(self, data: bytes, address: int, link: bytes) -> None:
        """The file named by the external link `link` of the group at `address`, or by a virtual dataset there (b"")."""
        self.add(data)


def walk(
    file: h5py.File,
    digest: Digest,
    *,
    leave_out: Collection[str] = (),
    checked_elsewhere: Callable[[str], bool] = lambda path: False,
    at_hand: Values = NO_VALUES,
) -> None:
    """Tell `digest` all that counts in an open file; arguments as for `content_sha256`."""
    _Walk(digest, frozenset(leave_out), checked_elsewhere, at_hand).group(file, "")


class _Walk:
    """By HDF5's own calls, as few as can be: a master has hundreds of items, and each call costs microseconds."""

    def __init__(
        self,
        digest: Digest,
        leave_out: frozenset[str],
        checked_elsewhere: Callable[[str], bool],
        at_hand: Values,
    ) -> None:
        self._digest = digest
        self._leave_out, self._checked_elsewhere, self._at_hand = leave_out, checked_elsewhere, at_hand
        self._seen: dict[int, str] = {}
        """By address: all are in one file."""

    def _tell(self, *words: object) -> None:
        """Words with their lengths, so that no two sequences of them make the same bytes."""
        told: list[bytes] = []
        for word in words:
            data = word if isinstance(word, bytes) else str(word).encode("utf-8", "surrogateescape")
            told += (len(data).to_bytes(8, "little"), data)
        self._digest.add(b"".join(told))

    def _tell_file(self, name: str, address: int, link: bytes) -> None:
        """A word that names a file."""
        data = name.encode("utf-8", "surrogateescape")
        self._digest.add(len(data).to_bytes(8, "little"))
        self._digest.add_file_name(data, address, link)

    def group(self, group: h5py.Group, path: str) -> None:
        """All below."""
        address = access.identity(group)[1]
        self._seen[address] = path
        self._group(group.id, path, address)

    def _group(self, group: h5py.h5g.GroupID, path: str, here: int) -> None:
        self._digest.see(here)
        self._attributes(group, path)
        links: list[tuple[bytes, int, int]] = []
        group.links.iterate(lambda name, info: links.append((name, info.type, info.u)), info=True)
        for name, kind, address in sorted(links):
            where = f"{path}/{name.decode('utf-8', 'surrogateescape')}"
            if kind == h5py.h5l.TYPE_EXTERNAL:
                filename, inner = group.links.get_val(name)
                self._tell("external", where)
                self._tell_file(os.fsdecode(filename), here, name)
                self._tell(inner)
            else:
                self._name(group, name, kind, address, where)

    def _name(self, group: h5py.h5g.GroupID, name: bytes, kind: int, address: int, path: str) -> None:
        if kind == h5py.h5l.TYPE_SOFT:
            self._tell("soft", path, group.links.get_val(name))
        elif kind != h5py.h5l.TYPE_HARD:
            self._tell("link", path)
        elif address in self._seen:
            self._tell("same", path, self._seen[address])
        else:
            self._seen[address] = path
            self._item(h5py.h5o.open(group, name), path, address)

    def _item(self, item: Any, path: str, address: int) -> None:
        if isinstance(item, h5py.h5g.GroupID):
            self._tell("group", path)
            self._group(item, path, address)
            return
        self._digest.see(address)
        if isinstance(item, h5py.h5d.DatasetID):
            kind, space = item.get_type(), item.get_space()
            self._tell("dataset", path, known_type_text(kind), _shape(space))
            self._attributes(item, path)
            if path not in self._leave_out:
                self._content(item, kind, space, path, address)
        else:
            self._tell("type", path, type_text(item))
            self._attributes(item, path)

    def _attributes(self, item: Any, path: str) -> None:
        names: list[bytes] = []
        if h5py.h5a.get_num_attrs(item):
            h5py.h5a.iterate(item, lambda name, *_: names.append(name), index_type=h5py.h5.INDEX_NAME)
        for name in sorted(names):
            text = name.decode("utf-8", "surrogateescape")
            if f"{path}@{text}" in self._leave_out:
                continue
            attribute = h5py.h5a.open(item, name)
            kind, shape = attribute.get_type(), attribute.shape
            self._tell("attribute", text, known_type_text(kind), "null" if shape is None else shape)
            if shape is not None and 0 not in shape:
                values, as_stored = room(shape, attribute, kind)
                attribute.read(values, mtype=as_stored)
                self._values(values, item)

    def _content(
        self, dataset: h5py.h5d.DatasetID, kind: Any, space: h5py.h5s.SpaceID, path: str, address: int
    ) -> None:
        n_values = space.get_simple_extent_npoints()
        if (
            not self._checked_elsewhere(path)
            and n_values * kind.get_size() <= self._digest.in_one_piece
            and (offset := dataset.get_offset()) is not None
        ):
            # In one piece, as all small ones that this program writes.
            self._at_once(dataset, kind, space, address, offset)
            return
        plist = dataset.get_create_plist()
        if self._checked_elsewhere(path):
            filters = [plist.get_filter(k) for k in range(plist.get_nfilters())]
            self._tell("stored", *((number, flags, values) for number, flags, values, _ in filters))
        elif plist.get_layout() == h5py.h5d.VIRTUAL:
            whole = h5py.Dataset(dataset)
            self._tell("virtual", np.asarray(whole.fillvalue).tobytes())
            for to, file, name, source in sorted(whole.virtual_sources(), key=lambda one: _bounds(one[0])):
                self._tell(_bounds(to))
                self._tell_file(file, address, b"")
                self._tell(name, _bounds(source))
        elif n_values and plist.get_layout() == h5py.h5d.COMPACT:
            self._at_once(dataset, kind, space)
        elif address in self._at_hand:
            self._values(self._at_hand[address], dataset)
        elif n_values:
            access.check_storage(h5py.Dataset(dataset))
            for part in _parts(h5py.Dataset(dataset)):
                self._values(part, dataset)

    def _at_once(
        self,
        dataset: h5py.h5d.DatasetID,
        kind: Any,
        space: h5py.h5s.SpaceID,
        address: int = 0,
        offset: int | None = None,
    ) -> None:
        values, as_stored = room(space.get_simple_extent_dims(), dataset, kind)
        dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, values, as_stored)
        if offset is None or values.dtype.hasobject:
            self._values(values, dataset)
        else:
            self._digest.add_values(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data, address, offset)

    def _values(self, values: np.ndarray[Any, Any], item: Any) -> None:
        if not values.dtype.hasobject:
            self._digest.add(np.ascontiguousarray(values).view(np.uint8).data)
            return
        for value in values.reshape(-1):
            self._value(value, item)

    def _value(self, value: Any, item: Any) -> None:
        """One of variable length, a reference, or a compound of such."""
        if isinstance(value, (h5py.Reference, h5py.RegionReference)):
            self._tell("reference", (h5py.h5r.get_name(value, item) or b"") if value else b"")
        elif isinstance(value, (bytes, str)):
            self._tell("text", value)
        elif isinstance(value, np.ndarray):
            self._tell("array", value.dtype, value.shape)
            self._values(value, item)
        elif isinstance(value, np.void) and value.dtype.names:
            for name in value.dtype.names:
                self._value(value[name], item)
        else:
            self._tell("value", value.tobytes() if isinstance(value, np.generic) else repr(value))


def _parts(dataset: h5py.Dataset) -> Any:
    """The values in C order, some rows of the first axis at a time."""
    access.enable_filters(dataset)
    kind = dataset.id.get_type()
    if not dataset.shape:
        values, as_stored = room((), dataset, kind)
        dataset.id.read(h5py.h5s.ALL, h5py.h5s.ALL, values, as_stored)
        yield values
        return
    n_rows, row_bytes = dataset.shape[0], kind.get_size() * int(np.prod(dataset.shape[1:]))
    step = max(1, AT_ONCE // max(1, row_bytes))
    rows = dataset.chunks[0] if dataset.chunks else 1
    if rows > 1 and rows * row_bytes <= WHOLE_CHUNK:
        step = max(rows, step // rows * rows)
    space = dataset.id.get_space()
    for first in range(0, n_rows, step):
        shape = (min(step, n_rows - first), *dataset.shape[1:])
        values, as_stored = room(shape, dataset, kind)
        space.select_hyperslab((first, *(0,) * (len(shape) - 1)), shape)
        memory = h5py.h5s.create_simple(shape)
        dataset.id.read(memory, space, values, as_stored)
        yield values


def _shape(space: h5py.h5s.SpaceID) -> str:
    kind = space.get_simple_extent_type()
    if kind == h5py.h5s.NULL:
        return "null"
    return str(tuple(space.get_simple_extent_dims()))


def _bounds(space: h5py.h5s.SpaceID) -> str:
    """Where a selection lies; a selection of all is stored without an extent."""
    if space.get_select_type() == h5py.h5s.SEL_ALL:
        return "all"
    first, last = space.get_select_bounds()
    return f"{tuple(first)} {tuple(last)} {space.get_select_npoints()}"


_texts: dict[bytes, str] = {}
MOST_TEXTS = 4096


def known_type_text(kind: Any) -> str:
    """`type_text`, remembered by the type's stored form."""
    stored = kind.encode()
    text = _texts.get(stored)
    if text is None:
        if len(_texts) >= MOST_TEXTS:
            _texts.clear()
        text = _texts[stored] = type_text(kind)
    return text


def type_text(kind: Any) -> str:
    """A type in words: all that h5py tells of it, nothing of how it is stored."""
    t = h5py.h5t
    if isinstance(kind, t.TypeEnumID):
        members = [(kind.get_member_name(k), kind.get_member_value(k)) for k in range(kind.get_nmembers())]
        return f"enum {type_text(kind.get_super())} {sorted(members)}"
    if isinstance(kind, t.TypeCompoundID):
        parts = [
            f"{kind.get_member_name(k)!r} {kind.get_member_offset(k)} {type_text(kind.get_member_type(k))}"
            for k in range(kind.get_nmembers())
        ]
        return f"compound {kind.get_size()} {{{'; '.join(parts)}}}"
    if isinstance(kind, t.TypeStringID):
        size = "variable" if kind.is_variable_str() else kind.get_size()
        return f"string {size} {kind.get_cset()} {kind.get_strpad()}"
    if isinstance(kind, t.TypeArrayID):
        return f"array {kind.get_array_dims()} {type_text(kind.get_super())}"
    if isinstance(kind, t.TypeVlenID):
        return f"variable {type_text(kind.get_super())}"
    if isinstance(kind, t.TypeOpaqueID):
        return f"opaque {kind.get_size()} {kind.get_tag()!r}"
    if isinstance(kind, t.TypeReferenceID):
        return f"reference {kind.get_size()}"
    return _number_text(kind)


def _number_text(kind: Any) -> str:
    words = [type(kind).__name__, kind.get_size(), kind.get_order(), kind.get_precision(), kind.get_offset()]
    if isinstance(kind, h5py.h5t.TypeIntegerID):
        words.append(kind.get_sign())
    if isinstance(kind, h5py.h5t.TypeFloatID):
        words += [*kind.get_fields(), kind.get_ebias(), kind.get_norm()]
    return " ".join(map(str, words))
