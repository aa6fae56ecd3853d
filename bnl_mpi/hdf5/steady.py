"""HDF5 files that are open for reading, and so don't change: what was asked of them once isn't asked again.

h5py goes through HDF5 for each name, type, shape and attribute, at 20 to 130 microseconds a question, and a run asks
some ten thousand of them of a master.  The classes here are h5py's own, and differ in their speed alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
from h5py._objects import phil

from .items import Attributes, Item, own
from .once import once
from .stored import StoredAttribute, room
from .trail import Copied, Trail

SMALL = 1 << 16
"""Bytes: the values of larger datasets are not kept."""
MOST_LINKS = 16
"""Soft links that are followed on one way; HDF5 itself gives up after as many."""

HARD = h5py.HardLink()


def told(dataset: h5py.Dataset) -> tuple[Any, Any, int]:
    """Type and extent of an open dataset, by HDF5's own calls, and the number of its filters."""
    if isinstance(dataset, Dataset):
        return dataset.kind, dataset.space, dataset.n_filters
    return dataset.id.get_type(), dataset.id.get_space(), dataset.id.get_create_plist().get_nfilters()


def stored_attribute(item: Any, name: str) -> StoredAttribute:
    """An attribute of an open item as it is stored; of an item of a steady file it is read once."""
    known: dict[str, StoredAttribute] = item.stored_attributes if isinstance(item, Item) else {}
    if name not in known:
        attribute = h5py.h5a.open(item._id if isinstance(item, Item) else item.id, name.encode())
        kind, space = attribute.get_type(), attribute.get_space()
        values, as_stored = None, kind
        if space.get_simple_extent_npoints():
            values, as_stored = room(space.get_simple_extent_dims(), attribute, kind)
            attribute.read(values, mtype=as_stored)
        known[name] = StoredAttribute(kind, space, values, as_stored)
    return known[name]


class Dataset(Item, h5py.Dataset):  # type: ignore[misc]
    """A dataset whose type and shape are looked up once, and its values where they are few."""

    def __init__(self, bind: Any, home: File) -> None:
        # h5py's own part comes when something is asked for that it makes: most items are looked at only.
        self._id = bind
        self._home = home
        self._values: Any = None
        self._is_begun = False

    @property
    def id(self) -> Any:
        # Who has this can read values.
        if (trail := self._home.trail) is not None:
            trail.read[id(self)] = self
        return self._id

    @property
    def own_id(self) -> Any:
        """The same, for somebody who looks at no values, or tells what he copies by `copied_to`."""
        return self._id

    def copied_to(self, made: Any, *, is_text: bool = False) -> None:
        """Note that the values went as they are into a new dataset (by HDF5's own call), whoever reads that."""
        if (trail := self._home.trail) is not None:
            trail.copied.append(Copied(self, made.get_offset(), made.get_storage_size(), is_text))

    def __getattr__(self, name: str) -> Any:
        # By h5py's own lock, which whoever asks may hold already.
        with phil:
            if not self._is_begun:
                self._is_begun = True
                h5py.Dataset.__init__(self, self._id, readonly=True)
            return object.__getattribute__(self, name)

    @once
    def kind(self) -> Any:
        """Its type, by HDF5's own call."""
        return self._id.get_type()

    @once
    def space(self) -> Any:
        """Its extent, by HDF5's own call."""
        return self._id.get_space()

    @once
    def creation(self) -> Any:
        """The properties that it was made with, by HDF5's own call."""
        return self._id.get_create_plist()

    @once
    def n_filters(self) -> int:
        return int(self.creation.get_nfilters())

    @once
    def is_plain(self) -> bool:
        """Whether its values lie in the file, in one piece."""
        layout = self.creation.get_layout()
        one_piece = layout in (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS)
        return bool(one_piece and self.creation.get_external_count() == 0)

    @once
    def shape(self) -> tuple[int, ...] | None:
        if self.space.get_simple_extent_type() == h5py.h5s.NULL:
            return None
        return tuple(int(n) for n in self.space.get_simple_extent_dims())

    @once
    def size(self) -> int | None:
        return None if self.shape is None else int(self.space.get_simple_extent_npoints())

    @once
    def dtype(self) -> np.dtype[Any]:
        found: np.dtype[Any] = self._id.dtype
        return found

    @once
    def ndim(self) -> int:
        return int(self.space.get_simple_extent_ndims())

    def __getitem__(self, part: Any, new_dtype: Any = None) -> Any:
        if (trail := self._home.trail) is not None:
            trail.read[id(self)] = self
        is_whole = isinstance(part, tuple) and not part and new_dtype is None
        if not is_whole or (self.size or 0) * self.dtype.itemsize > SMALL:
            return h5py.Dataset.__getitem__(self, part, new_dtype)
        if self._values is None:
            self._values = h5py.Dataset.__getitem__(self, ())
        return own(self._values)


class Group(Item, h5py.Group):  # type: ignore[misc]
    """A group whose links are looked up once, and whose items are opened once."""

    def __init__(self, bind: Any, home: File) -> None:
        h5py.Group.__init__(self, bind)
        self._home = home

    @once
    def _links(self) -> dict[str, Any]:
        """All links by name: HARD, or None for another."""
        found: dict[str, Any] = {}
        order = self.id.get_create_plist().get_link_creation_order() & h5py.h5p.CRT_ORDER_TRACKED

        def note(name: bytes, info: Any) -> None:
            found[self._d(name)] = _kind_of(info)

        self.id.links.iterate(note, idx_type=h5py.h5.INDEX_CRT_ORDER if order else h5py.h5.INDEX_NAME, info=True)
        return found

    @once
    def _asked(self) -> dict[str, Any]:
        """Links that were asked for by name, None for those that weren't looked at yet; False where there is none."""
        return {}

    @once
    def _items(self) -> dict[str, Any]:
        return {}

    def _known(self, name: str) -> Any:
        """As `_asked` has it.  One name is looked up alone, unless all were listed."""
        asked = self._asked
        if name not in asked:
            if "_links" in self.__dict__:
                asked[name] = self._links.get(name, False)
            else:
                links, encoded = self.id.links, self._e(name)
                asked[name] = _kind_of(links.get_info(encoded)) if links.exists(encoded) else False
        return asked[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._links)

    def __len__(self) -> int:
        return len(self._links)

    def __contains__(self, name: object) -> bool:
        group, last = self._split(name)
        return bool(h5py.Group.__contains__(self, name)) if group is None else group._known(last) is not False

    def link(self, name: str) -> h5py.HardLink | h5py.SoftLink | h5py.ExternalLink | None:
        """The link of that plain name itself, or None; TypeError for kinds that h5py doesn't know."""
        found = self._known(name)
        if found is None:
            found = self._asked[name] = h5py.Group.get(self, name, getlink=True)
        return found or None

    def get(self, name: Any, default: Any = None, getclass: bool = False, getlink: bool = False, **more: Any) -> Any:
        group, last = self._split(name) if getlink or _is_plain(name) else (None, "")
        if group is None or getclass or more:
            return h5py.Group.get(self, name, default, getclass, getlink, **more)
        if getlink:
            return group.link(last) if last in group else default
        try:
            return self[name]
        except KeyError:
            return default

    def _split(self, path: object) -> tuple[Group | None, str]:
        """The group of this file in which a path ends, and its last name; None where HDF5 itself is to say."""
        if not isinstance(path, str):
            return None, ""
        folder, slash, name = path.rpartition("/")
        if not _is_plain(name):
            return None, ""
        try:
            group = self._find(folder or slash, MOST_LINKS) if slash else self
        except KeyError:
            return None, ""
        return (group if isinstance(group, Group) else None), name

    def __getitem__(self, name: Any) -> Any:
        found = self.find(name) if isinstance(name, str) and name else None
        return h5py.Group.__getitem__(self, name) if found is None else found

    def find(self, path: str) -> Group | Dataset | None:
        """What `path` leads to without leaving the file; None where HDF5 itself is to say what is there.

        KeyError, as h5py has it, where there is nothing of that name.
        """
        found = self._find(path, MOST_LINKS)
        if found is None and (trail := self._home.trail) is not None:
            trail.left = True
        return found

    def _find(self, path: str, links: int) -> Group | Dataset | None:
        here: Group | Dataset | None = self._home.top if path.startswith("/") else self
        for part in path.split("/"):
            if part in ("", "."):
                continue
            if not isinstance(here, Group):
                return None
            here = here._child(part, links)
        return here

    def _child(self, name: str, links: int) -> Group | Dataset | None:
        found: Group | Dataset | None = self._items.get(name)
        if found is not None:
            return found
        link = self.link(name)
        if link is None and self._known(name) is False:
            raise KeyError(f"Unable to synchronously open object (object '{name}' doesn't exist)")
        if isinstance(link, h5py.SoftLink):
            # What it leads to has this name too, so it is opened by it.
            stays = links and isinstance(link.path, str) and self._find(link.path, links - 1) is not None
            if not stays:
                return None
        elif not isinstance(link, h5py.HardLink):
            return None
        opened = h5py.h5o.open(self.id, name.encode())
        if isinstance(opened, h5py.h5g.GroupID):
            found = Group(opened, self._home)
        elif isinstance(opened, h5py.h5d.DatasetID):
            found = Dataset(opened, self._home)
        if found is not None:
            self._items[name] = found
        return found


def _kind_of(info: Any) -> h5py.HardLink | None:
    return HARD if info.type == h5py.h5l.TYPE_HARD else None


def _is_plain(name: object) -> bool:
    return isinstance(name, str) and name not in ("", ".") and "/" not in name


class File(Group, h5py.File):  # type: ignore[misc]
    """A file open for reading, without a lock."""

    trail: Trail | None = None
    _access: Any = None
    """How h5py opens such a file; it makes that list of properties, and one for new files, anew for each."""

    def __init__(self, path: str) -> None:
        if File._access is None:
            h5py.File.__init__(self, path, "r", locking=False)
            File._access = self.id.get_access_plist()
        else:
            opened = h5py.h5f.open(os.fsencode(path), h5py.h5f.ACC_RDONLY, fapl=File._access)
            h5py.HLObject.__init__(self, opened)

    @property
    def file(self) -> File:
        return self

    @property
    def _home(self) -> File:
        return self

    @once
    def top(self) -> Group:
        """The root as a group like all others."""
        return Group(h5py.h5o.open(self.id, b"/"), self)

    @property
    def _links(self) -> dict[str, Any]:
        links: dict[str, Any] = self.top._links
        return links

    @property
    def _items(self) -> dict[str, Any]:
        items: dict[str, Any] = self.top._items
        return items

    def _known(self, name: str) -> Any:
        return self.top._known(name)

    @property
    def _asked(self) -> dict[str, Any]:
        asked: dict[str, Any] = self.top._asked
        return asked

    @property
    def attrs(self) -> Attributes:
        found: Attributes = self.top.attrs
        return found

    def close(self) -> None:
        # Items know their file, which need not know them any longer: so memory is free at once.
        self.__dict__.pop("top", None)
        h5py.File.close(self)
