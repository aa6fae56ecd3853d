"""A new file in memory that notes which of its values somebody has read back: what comes of them depends on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np

from . import access, steady
from .form import Place, Recorder
from .trail import Copied, Trail


class Dataset(h5py.Dataset):  # type: ignore[misc]
    """A dataset of a draft."""

    def __init__(self, bind: Any, home: File) -> None:
        h5py.Dataset.__init__(self, bind)
        self._home = home

    @property
    def file(self) -> File:
        return self._home

    def __getitem__(self, part: Any, new_dtype: Any = None) -> Any:
        self._home.trail.look_again(self)
        return h5py.Dataset.__getitem__(self, part, new_dtype)


class Group(h5py.Group):  # type: ignore[misc]
    """A group of a draft, whose items are drafts too."""

    _home: File

    def __init__(self, bind: Any, home: File) -> None:
        h5py.Group.__init__(self, bind)
        self._home = home

    @property
    def file(self) -> File:
        return self._home

    def _drafted(self, item: Any) -> Any:
        if type(item) is h5py.Dataset:
            return Dataset(item.id, self._home)
        return Group(item.id, self._home) if type(item) is h5py.Group else item

    def __getitem__(self, name: Any) -> Any:
        return self._drafted(h5py.Group.__getitem__(self, name))

    def __delitem__(self, name: Any) -> None:
        found = self.get(name)
        if isinstance(found, h5py.Dataset):
            # Its place is free for what comes in its stead.
            self._home.trail.look_again(found)
        h5py.Group.__delitem__(self, name)

    def create_group(self, *arguments: Any, **options: Any) -> Any:
        return self._drafted(h5py.Group.create_group(self, *arguments, **options))

    def create_dataset(self, *arguments: Any, **options: Any) -> Any:
        return self._drafted(h5py.Group.create_dataset(self, *arguments, **options))


class File(Group, h5py.File):  # type: ignore[misc]
    """An open new file as a draft."""

    def __init__(self, bind: Any, trail: Trail) -> None:
        h5py.File.__init__(self, bind)
        self.trail = trail

    @property
    def file(self) -> File:
        return self

    @property
    def _home(self) -> File:  # type: ignore[override]
        return self


def copy_text(source: h5py.Dataset, target: h5py.Group, name: str) -> None:
    """Copy a text to a dataset that is as long as the text; an empty one isn't."""
    trail = source.file.trail if isinstance(source, steady.Dataset) else None
    known = trail is not None and id(source) in trail.read
    text = access.text(source[()])
    if not text:
        return
    target[name] = np.bytes_(text)
    if trail is not None and not known and source.dtype.kind == "S":
        # Whoever keeps the copy in mind knows that it is of a text as long as this one.
        source.copied_to(h5py.h5d.open(target.id, name.encode()), is_text=True)
        del trail.read[id(source)]


class Draft:
    """Notes on a new file, from which one like it can be made."""

    image = b""
    """The file, when it is whole."""

    def __init__(self, trail: Trail) -> None:
        self.trail = trail
        self.recorder = Recorder()
        """What its digest is of, when it has one."""
        self.texts: dict[str, Place] = {}
        """Where texts lie that others have in their place."""
        self.copied: list[Copied] = []
        """Of the trail, what went into this file."""

    @contextmanager
    def watching(self, made: h5py.File) -> Iterator[File]:
        """Within, the new file is a draft, and what the trail notes of copies is for it."""
        self.trail.copied, self.trail.read_again = [], set()
        yield File(made.id, self.trail)
        self.copied, again = self.trail.copied, self.trail.read_again
        for one in self.copied:
            if one.offset is None or one.offset in again:
                # It isn't copied alone.
                self.trail.read[id(one.dataset)] = one.dataset
