"""What other programs do with a file or folder before they read a pixel, written anew from their descriptions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py

from bnl_mpi.hdf5 import access


def default_image(path: Path) -> h5py.Dataset | None:
    """What a viewer shows at once, by NeXus' rules: @default from the root down to an NXdata, whose @signal it is."""
    group: Any = h5py.File(path)
    while "signal" not in group.attrs:
        name = access.attribute_text(group, "default")
        if not name or name not in group:
            return None
        group = group[name]
    if access.attribute_text(group, "NX_class") != "NXdata":
        return None
    found = group.get(access.attribute_text(group, "signal"))
    axes = [access.text(one) for one in group.attrs.get("axes", ())] if "axes" in group.attrs else []
    if any(name != "." and name not in group for name in axes):
        return None
    return found if isinstance(found, h5py.Dataset) and found.ndim >= 2 else None


def sweeps(folder: Path, readable: list[str]) -> list[str]:
    """Names of the HDF5 files that xia2 takes for a sweep each, of those in a folder that dxtbx recognises.

    Files whose names data_... in /entry/data lead to the same files are one, and a master stands for it.
    """
    found: dict[tuple[str, ...], str] = {}
    for name in sorted(readable):
        with h5py.File(folder / name) as h5:
            group = h5["/entry/data"]
            files = tuple(group[one].file.filename for one in group if one.startswith("data_"))
        if files not in found or (found[files].endswith(".nxs") and name.endswith("_master.h5")):
            found[files] = name
    return list(found.values())
