"""What groups and datasets of files that are open for reading have in common: each question is asked once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from .once import once
from .stored import StoredAttribute


class Attributes(h5py.AttributeManager):  # type: ignore[misc]
    """An item's attributes, each read once."""

    def __init__(self, parent: Any) -> None:
        # As h5py does, but past the property by which values are read.
        self._id = parent._id
        self._known: dict[str, Any] = {}

    @once
    def _names(self) -> dict[str, None]:
        return dict.fromkeys(super().__iter__()) if h5py.h5a.get_num_attrs(self._id) else {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(f"Unable to synchronously open attribute (can't locate attribute: '{name}')")
        if name not in self._known:
            self._known[name] = super().__getitem__(name)
        return own(self._known[name])


def own(value: Any) -> Any:
    """A value that the asker may change."""
    return value.copy() if isinstance(value, (np.ndarray, np.void)) else value


class Item:
    """What groups and datasets of a steady file have in common."""

    _home: Any
    _id: Any
    id: Any

    @property
    def file(self) -> Any:
        return self._home

    @once
    def attrs(self) -> Attributes:
        return Attributes(self)

    @once
    def stored_attributes(self) -> dict[str, StoredAttribute]:
        """Those that `stored_attribute` has read."""
        return {}

    @once
    def identity(self) -> tuple[int, int]:
        """File number and address: equal for two names of one object."""
        info = h5py.h5o.get_info(self._id)
        return int(info.fileno), int(info.addr)
