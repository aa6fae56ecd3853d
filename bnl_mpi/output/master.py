"""Writes the new master: the input's tree by the rules, and links to the new data files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..hdf5 import access, writing
from ..hdf5.draft import Draft
from ..hdf5.names import DATA, DETECTOR, IMAGES, PROCESS, SPECIFIC, SQUASH
from ..hdf5.treecopy import Item, TreeCopy, copy_attributes
from ..input.experiment import Experiment
from ..input.opening import at_hand, name_of
from ..pixels.kernels_numpy import mark_value
from ..plan import Plan
from . import digest, record
from .reduction import Reduction, Shared
from .rules import decide, is_images

REGIONS = "kept_regions"

DataFiles = Sequence[tuple[str, int]]
"""(file name relative to the master's folder, images in it)."""


def write_master(
    path: str | Path,
    infile: str | Path | h5py.File,
    plan: Plan,
    *,
    data_files: DataFiles,
    experiment: Experiment,
    provenance: Mapping[str, Any],
    squash_files: DataFiles = (),
    data_dtype: np.dtype[Any],
    regions: bytes | None = None,
    shared: Shared | None = None,
    draft: Draft | None = None,
) -> list[str]:
    """Write the master of a reduction to `path` and return the warnings, each one line.

    `data_files` and `squash_files` are given in order, relative to the folder in which the master is to lie;
    they need not exist yet.  `infile` is the input's path, or the input open already.  `shared` takes up what the
    rules find out, for the next call with the same plan and open input.  `draft` takes notes of the new file.
    `provenance` becomes /entry/process_bnl_mpi: text as it is, all else as JSON.
    Raises InputError where an axis of the input fits neither one frame nor all of them.
    """
    run = Reduction(plan, experiment, np.dtype(data_dtype), shared=shared or Shared())
    with access.reading(name_of(infile)), at_hand(infile) as source, writing.write_at_once(path, draft) as target:
        name = offered_virtual(source, run) if experiment.flavour == "nxmx" else None
        run.signal = f"{DATA}/{name}" if name else None
        keeps_name = filewriter_names if experiment.flavour == "filewriter" else nxmx_names(run)
        TreeCopy(lambda item: decide(item, run), keeps_name, run.warnings).copy(source, target)
        _share_mask(target)
        add_data_links(target, data_files)
        if name:
            _add_virtual(source, target, name, data_files, run)
        add_squash_links(target, squash_files)
        add_provenance(target, provenance)
        point_to_images(target)
        if regions is not None:
            add_regions(target, regions)
        digest.seal(target, draft)
    return run.warnings


def _is_anew(path: str) -> bool:
    """Whether the output has its own there: an earlier run's codestreams aren't of these images."""
    return path == SQUASH


def filewriter_names(path: str, group: h5py.Group, name: str) -> bool:
    """Nothing in /entry/data but links to data: readers of the older flavour count every name there."""
    return not (_is_anew(path) or path.startswith(f"{DATA}/"))


def nxmx_names(run: Reduction) -> Callable[[str, h5py.Group, str], bool]:
    """All but the images in /entry/data."""

    def keeps_name(path: str, group: h5py.Group, name: str) -> bool:
        if path == f"{DATA}/{name}":
            return not is_image_name(group, name, run)
        return not _is_anew(path)

    return keeps_name


def data_group(source: h5py.File) -> h5py.Group | None:
    """The input's /entry/data."""
    return access.get_group(source, DATA)


def offered_virtual(source: h5py.File, run: Reduction) -> str | None:
    """The name under which the input's /entry/data offers all frames at once, if it does.

    That is a stack of frames which isn't one of the data_NNNNNN links: virtual, stored, or linked.
    """
    group = data_group(source)
    if group is None:
        return None
    signal = access.attribute_text(group, "signal")
    names: list[str] = [name for name in group if access.DATA_NAME.fullmatch(name) is None]
    for name in sorted(names, key=lambda name: name != signal):
        found = access.get_dataset(group, name)
        if found is not None and is_images(Item(f"{DATA}/{name}", name, found, group), run):
            return name
        if found is None and name == signal:
            return name
    return None


def is_image_name(group: h5py.Group, name: str, run: Reduction) -> bool:
    """Whether a name in /entry/data stands for frames."""
    if access.DATA_NAME.fullmatch(name) is not None or run.signal == f"{DATA}/{name}":
        return True
    found = access.get_dataset(group, name)
    return found is not None and is_images(Item(f"{DATA}/{name}", name, found, group), run)


def _share_mask(target: h5py.File) -> None:
    """The mask is to be found in the detector's group and in detectorSpecific: one dataset, two names."""
    groups = [group for p in (DETECTOR, SPECIFIC) if (group := access.get_group(target, p)) is not None]
    masks = [found for group in groups if (found := access.get_dataset(group, "pixel_mask")) is not None]
    if not masks:
        return
    for group in groups:
        if access.get_dataset(group, "pixel_mask") is None:
            if "pixel_mask" in group:
                del group["pixel_mask"]
            group["pixel_mask"] = masks[0]


def add_data_links(target: h5py.File, data_files: DataFiles) -> None:
    """Links data_000001, ... to the images of each file, in order."""
    group = access.make_group(target, DATA, "NXdata")
    for number, (filename, _) in enumerate(data_files, 1):
        group[f"data_{number:06d}"] = h5py.ExternalLink(filename, IMAGES)


def add_virtual(
    group: h5py.Group, name: str, data_files: DataFiles, shape: tuple[int, int], dtype: np.dtype[Any]
) -> h5py.Dataset:
    """A virtual dataset (images, slow, fast) over the files; what is missing reads as the mark."""
    total = sum(n for _, n in data_files)
    layout = h5py.VirtualLayout((total, *shape), dtype=dtype)
    at = 0
    for filename, n in data_files:
        layout[at : at + n] = h5py.VirtualSource(filename, IMAGES, shape=(n, *shape), dtype=dtype)
        at += n
    return group.create_virtual_dataset(name, layout, fillvalue=mark_value(dtype))


def _add_virtual(source: h5py.File, target: h5py.File, name: str, data_files: DataFiles, run: Reduction) -> None:
    made = add_virtual(target[DATA], name, data_files, run.plan.shape_out, run.data_dtype)
    found = access.get_dataset(source, f"{DATA}/{name}")
    if found is not None:
        copy_attributes(found, made, f"{DATA}/{name}", run.warnings)


def point_to_images(target: h5py.File) -> None:
    """Lead viewers from the root to the images, and let the axes be told that exist.

    By https://manual.nexusformat.org/datarules.html: @default of root and entry, @signal and @axes of the data.
    """
    entry, group = access.get_group(target, "/entry"), access.get_group(target, DATA)
    if entry is None or group is None:
        return
    for parent, name in ((target, "entry"), (entry, "data")):
        if access.get_group(parent, access.attribute_text(parent, "default") or "?") is None:
            parent.attrs["default"] = np.bytes_(name)
    if access.attribute_text(group, "signal") not in group:
        images = next((name for name in sorted(group) if access.DATA_NAME.fullmatch(name)), None)
        if images is not None:
            group.attrs["signal"] = np.bytes_(images)
    _mend_axes(group)


def _mend_axes(group: h5py.Group) -> None:
    """An axis that isn't there is told as none, ".", as NeXus has it."""
    if "axes" not in group.attrs:
        return
    told = group.attrs["axes"]
    names = [] if isinstance(told, h5py.Empty) else [access.text(one) for one in np.atleast_1d(told)]
    names = [part for name in names for part in name.replace(",", ":").split(":")]
    kept = [name if name in group else "." for name in names]
    for name in set(names) - set(kept):
        group.attrs.pop(f"{name}_indices", None)
    if all(name == "." for name in kept):
        del group.attrs["axes"]
    elif kept != names:
        group.attrs["axes"] = np.array(kept, dtype="S")


def add_squash_links(target: h5py.File, squash_files: DataFiles) -> None:
    """Links to the codestreams of each file; not in /entry/data, where readers would trip over them."""
    if not squash_files:
        return
    group = access.make_group(target, SQUASH, "NXcollection")
    for number, (filename, _) in enumerate(squash_files, 1):
        group[f"squash_{number:06d}"] = h5py.ExternalLink(filename, DATA)


def add_regions(target: h5py.File, regions: bytes) -> None:
    """What `--keep` kept, packed, as `input.reflections.regions` reads it."""
    access.make_group(target, record.GROUP, "NXcollection")[REGIONS] = np.frombuffer(regions, np.uint8)


def read_regions(master: h5py.File) -> bytes | None:
    """What `add_regions` added; None where nothing was."""
    found = access.get_dataset(master, f"{record.GROUP}/{REGIONS}")
    return None if found is None else bytes(found[()].tobytes())


def add_provenance(target: h5py.File, provenance: Mapping[str, Any]) -> None:
    """/entry/process_bnl_mpi: how this file came to be; that of an earlier run is renamed, with a number."""
    entry = access.make_group(target, "/entry", "NXentry")
    if PROCESS in entry:
        number = next(k for k in range(1, len(entry) + 1) if f"{PROCESS}_{k}" not in entry)
        entry.move(PROCESS, f"{PROCESS}_{number}")
    group = access.make_group(target, PROCESS, "NXprocess")
    for name, value in provenance.items():
        group[name] = np.bytes_(stored_text(value))


def stored_text(value: Any) -> bytes:
    """An item of provenance as it is stored: text as it is, all else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text.encode("utf-8") or b" "
