"""Values as they lie in their file."""

from __future__ import annotations

from typing import Any, NamedTuple

import h5py
import numpy as np


class StoredAttribute(NamedTuple):
    """An attribute as it lies in its file."""

    kind: Any
    """Its type, by HDF5's own call."""
    space: Any
    values: np.ndarray[Any, Any] | None
    """Bytes of each (kind "V"), objects where they have no one size; None where there are none."""
    as_stored: Any
    """The type to read and write `values` with: `kind`, or None for objects."""


def room(shape: tuple[int, ...], item: Any, kind: Any) -> tuple[np.ndarray[Any, Any], Any]:
    """Room for values of a dataset or attribute (by HDF5's own call) as they are stored, bits that mean nothing
    included, and their type; objects, and None, where they have no one size."""
    # Numbers, as most are: their NumPy type needn't be asked for.
    if isinstance(kind, (h5py.h5t.TypeIntegerID, h5py.h5t.TypeFloatID)) or not (dtype := item.dtype).hasobject:
        return np.empty(shape, f"V{kind.get_size()}"), kind
    return np.empty(shape, dtype), None
