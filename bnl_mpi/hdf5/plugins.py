"""hdf5plugin's filters: that of Eigers alone where no other is met, for all twelve take longer than a frame."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from importlib.util import find_spec

import h5py

from .names import BITSHUFFLE

OWN_NUMBERS = 256
"""Filters with numbers below this are HDF5's own."""
ALONE = {BITSHUFFLE: "libh5bshuf.so"}
"""Files in hdf5plugin's folder of plugins."""


def enable(code: int) -> None:
    """Have HDF5 know the filter of this number, if it doesn't and hdf5plugin has it."""
    if code < OWN_NUMBERS or h5py.h5z.filter_avail(code):
        return
    if code in ALONE:
        # As hdf5plugin itself does it; where it can't be done so, it has its own way.
        with suppress(OSError, AttributeError, RuntimeError, ValueError):
            _register(ALONE[code])
            return
    import hdf5plugin  # noqa: F401  (registers the filters)


def _register(name: str) -> None:
    (place,) = _folders()
    library = ctypes.CDLL(os.path.join(place, name))
    library.init_filter.argtypes, library.H5PLget_plugin_info.restype = [ctypes.c_char_p], ctypes.c_void_p
    if library.init_filter(os.fsencode(h5py.h5z.__file__)) < 0:
        raise OSError(f"{name} can't be initialised")
    h5py.h5z.register_filter(library.H5PLget_plugin_info())


def _folders() -> set[str]:
    """Where hdf5plugin has its plugins; one folder, where it is installed."""
    found = find_spec("hdf5plugin")
    places = (found and found.submodule_search_locations) or ()
    return {os.path.join(os.path.realpath(place), "plugins") for place in places}


def _leave_plugins_to_hdf5plugin() -> bool:
    """Take hdf5plugin's folder out of HDF5's search path, where HDF5_PLUGIN_PATH names it, as other programs need, or
    that of another Python's; returns whether it did.

    The same filters are registered otherwise; loaded twice, or from elsewhere, some fail when a dataset is made.
    """
    n_before = h5py.h5pl.size()
    for index in reversed(range(n_before)):
        if os.path.exists(os.path.join(os.fsdecode(h5py.h5pl.get(index)), ALONE[BITSHUFFLE])):
            h5py.h5pl.remove(index)
    return bool(h5py.h5pl.size() < n_before)


_was_named = _leave_plugins_to_hdf5plugin()


def give_back() -> None:
    """In a process that isn't ours: HDF5 knows all filters of the folders that it isn't to look into any more."""
    if _was_named:
        import hdf5plugin  # noqa: F401  (registers the filters)
