"""Writes OUT.nxs: the reduced experiment as an NXmx entry, whichever flavour the input's master has.

It is the master's tree less detectorSpecific (by which readers know a detector's own files, and then refuse
image sizes that no detector has), with all that the NXmx definition asks for: one virtual dataset, complete
`depends_on` chains in float64, sizes as (slow, fast).  Strings are of fixed length.  Directions are those of the
McStas frame: z along the beam, y up.  Sources: https://manual.nexusformat.org/classes/applications/NXmx.html, and for
the older flavour the meaning that its readers give to `geometry` and `goniometer`.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..hdf5 import access, writing
from ..hdf5.digest import NO_VALUES, Values
from ..hdf5.draft import Draft, copy_text
from ..hdf5.names import DATA, DETECTOR, PROCESS, SPECIFIC, SQUASH
from ..hdf5.treecopy import Decision, Item, Keep, Replace, TreeCopy, pack
from ..input.axes import AXIS_SUFFIXES, RotationAxis, axis_base, per_degree
from ..input.experiment import Experiment
from ..input.opening import at_hand, name_of
from ..plan import Plan
from . import digest
from .master import DataFiles, add_data_links, add_provenance, add_virtual, is_image_name, point_to_images
from .nxmx import BEAM_PATHS, INSTRUMENT, chain, missing, modules, put_string, sample_axis, wavelength
from .older import place_detector, place_sample
from .reduction import Reduction, Shared
from .rules import decide

IMAGES = "images"
"""The virtual dataset in /entry/data."""


def write_nxs(
    path: str | Path,
    infile: str | Path | h5py.File,
    plan: Plan,
    *,
    data_files: DataFiles,
    experiment: Experiment,
    provenance: Mapping[str, Any],
    data_dtype: np.dtype[Any],
    shared: Shared | None = None,
    draft: Draft | None = None,
) -> list[str]:
    """Write the NXmx file of a reduction to `path`.

    `data_files` are relative to the folder in which the file is to lie; `infile`, `shared` and `draft` as for the
    master.  Returns what the input lacks for NXmx, each as a noun with its place; then nothing is written.  An empty
    list means that all went well.
    Raises InputError as write_master does.
    """
    run = Reduction(plan, experiment, np.dtype(data_dtype), shared=shared or Shared())
    with access.reading(name_of(infile)), at_hand(infile) as source:
        lacking = missing(source, experiment)
        if lacking:
            return lacking
        with writing.write_at_once(path, draft) as target:
            _copy_tree(source, target, run)
            _drop_dangling(target, but=DATA)
            _complete_entry(source, target)
            _complete_beam(source, target)
            written = _complete_detector(source, target, run)
            if experiment.flavour == "filewriter":
                place_detector(source, target, run)
                place_sample(source, target, run)
            scan = _complete_sample_chain(target, run)
            _write_data(target, data_files, run, scan)
            _drop_dangling(target)
            add_provenance(target, provenance)
            point_to_images(target)
            digest.seal(target, draft, written)
    return []


# The copy


def _copy_tree(source: h5py.File, target: h5py.File, run: Reduction) -> None:
    reversed_sizes = _sizes_are_reversed(source, run.plan)
    axes = _axes_by_identity(source, run.experiment)

    def choose(item: Item) -> Decision:
        angles = _exact_angles(item, run, axes)
        return _choose(item, run, reversed_sizes) if angles is None else Replace(angles, np.dtype("<f8"))

    def keeps_name(path: str, group: h5py.Group, name: str) -> bool:
        if path == f"{DATA}/{name}":
            return run.experiment.flavour == "nxmx" and not is_image_name(group, name, run)
        return path not in (f"/{SPECIFIC}", SQUASH, PROCESS)

    # A mask is mostly zeros, and may be larger than all codestreams of a set.
    TreeCopy(choose, keeps_name, run.warnings, packs=True, fixed_strings=True).copy(source, target)


Axes = dict[tuple[int, int], RotationAxis]


def _axes_by_identity(source: h5py.File, experiment: Experiment) -> Axes:
    """The axes with a value for each frame, by what their datasets are."""
    found = {axis.path: access.get_dataset(source, axis.path) for axis in experiment.axes}
    return {access.identity(told): axis for axis in experiment.axes if (told := found[axis.path]) is not None}


def _exact_angles(item: Item, run: Reduction, axes: Axes) -> npt.NDArray[np.float64] | None:
    """An axis' angles, or its ends, as they were set; None for anything else."""
    base, suffix = axis_base(item.name)
    told = access.get_dataset(item.parent, base)
    axis = axes.get(access.identity(told)) if told is not None else None
    if told is None or axis is None or item.dataset.ndim != 1 or item.dataset.size < run.plan.n_frames_in:
        return None
    if suffix == "":
        angles = axis.start[run.first_frames]
    elif suffix == "_end" and axis.end is not None:
        angles = axis.end[run.last_frames]
    else:
        return None
    return np.asarray(angles / per_degree(told))


def _choose(item: Item, run: Reduction, reversed_sizes: bool) -> Decision:
    """The master's rules, then: axes in float64, sizes as (slow, fast), numbers as plain scalars."""
    decision = decide(item, run)
    if isinstance(decision, Replace) and reversed_sizes and item.name in ("data_size", "data_origin"):
        decision = Replace(np.asarray(decision.values)[::-1])
    elif reversed_sizes and item.name in ("data_size", "data_origin"):
        return Replace(access.read(item.dataset)[::-1])
    if not _is_chained(item):
        return decision
    if isinstance(decision, Keep):
        return Replace(access.read(item.dataset), np.dtype("<f8"))
    return Replace(decision.values, np.dtype("<f8")) if isinstance(decision, Replace) else decision


def _is_chained(item: Item) -> bool:
    numeric = item.dataset.dtype.kind in "iuf"
    return numeric and "transformation_type" in item.dataset.attrs and item.dataset.dtype != np.dtype("<f8")


def _sizes_are_reversed(source: h5py.File, plan: Plan) -> bool:
    """Whether the modules' sizes are (fast, slow): their farthest corner is the frame's, turned round."""
    corners = []
    for module in modules(source):
        size, origin = (access.get_dataset(module, name) for name in ("data_size", "data_origin"))
        if size is not None and size.size == 2:
            low = np.zeros(2) if origin is None or origin.size != 2 else np.asarray(origin[()])
            corners.append(low + np.asarray(size[()]))
    farthest = tuple(np.max(corners, axis=0)) if corners else plan.shape_in
    return farthest != tuple(plan.shape_in) and farthest == tuple(reversed(plan.shape_in))


# What NXmx asks for beyond the copy


def _complete_entry(source: h5py.File, target: h5py.File) -> None:
    entry = access.make_group(target, "/entry", "NXentry")
    put_string(entry, "definition", "NXmx")
    if "start_time" not in entry:
        told = access.get_dataset(source, f"{SPECIFIC}/data_collection_date")
        if told is not None:
            copy_text(told, entry, "start_time")


def _complete_beam(source: h5py.File, target: h5py.File) -> None:
    """The beam lies in the instrument, where readers look for it; its class and units are told."""
    told = wavelength(source)
    assert told is not None
    beam = access.make_group(target, f"/{BEAM_PATHS[0]}", "NXbeam")
    if "incident_wavelength" not in beam:
        beam["incident_wavelength"] = target[f"{BEAM_PATHS[1]}/incident_wavelength"]
    for path in BEAM_PATHS:
        there = access.get_group(target, path)
        if there is None:
            continue
        access.make_group(target, f"/{path}", "NXbeam")
        found = access.get_dataset(there, "incident_wavelength")
        if found is not None and "units" not in found.attrs:
            found.attrs["units"] = np.bytes_("angstrom")


def _complete_detector(source: h5py.File, target: h5py.File, run: Reduction) -> Values:
    """What readers look for in the detector's group; returns the mask, where it was added."""
    access.make_group(target, f"/{INSTRUMENT}", "NXinstrument")
    detector = access.make_group(target, f"/{DETECTOR}", "NXdetector")
    mask = run.experiment.mask
    written = NO_VALUES
    if mask is not None and access.get_dataset(detector, "pixel_mask") is None:
        written = _add_mask(detector, run.binned_mask(mask))
    if "saturation_value" not in detector:
        limit = run.plan.limit
        detector["saturation_value"] = (
            np.int64(limit) if float(limit).is_integer() and limit < 1 << 63 else np.float64(limit)
        )
    if "bit_depth_readout" not in detector and run.data_dtype.kind == "u":
        detector["bit_depth_readout"] = np.uint8(run.data_dtype.itemsize * 8)
    if run.data_dtype.kind in "iu":
        _exclude_marks(detector)
    for name in ("x_pixel_size", "y_pixel_size", "sensor_thickness"):
        found = access.get_dataset(detector, name)
        if found is not None and "units" not in found.attrs:
            found.attrs["units"] = np.bytes_("m")
    return written


def _add_mask(detector: h5py.Group, binned: npt.NDArray[np.uint32]) -> Values:
    """Write the mask, (ny, nx), with gzip, and give it by its address."""
    values = binned.astype("<u4", copy=False)
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    pack(plist, values.shape, values.nbytes)
    space = h5py.h5s.create_simple(values.shape)
    made = h5py.h5d.create(detector.id, b"pixel_mask", h5py.h5t.STD_U32LE, space, plist)
    made.write(h5py.h5s.ALL, h5py.h5s.ALL, values)
    return {h5py.h5o.get_info(made).addr: values}


def _exclude_marks(detector: h5py.Group) -> None:
    """Counts below 0 are no counts: an invalid pixel is -1 where signed, and read so where it is the top value."""
    told = access.number(detector, "underload_value")
    if told is None or told < 0:
        if "underload_value" in detector:
            del detector["underload_value"]
        detector["underload_value"] = np.int32(0)


# Chains and data


def _complete_sample_chain(target: h5py.File, run: Reduction) -> h5py.Dataset | None:
    """Give the scan axis its ends and increments, without which one image has no width; returns that axis."""
    start = sample_axis(target)
    if not isinstance(start, h5py.Dataset):
        return None
    moving = {posixpath.basename(axis.path): axis for axis in run.experiment.axes if axis.moves}
    for dataset in chain(start):
        name = posixpath.basename(str(dataset.name))
        if name in moving and dataset.size == run.plan.n_images:
            _add_ends(dataset, name, moving[name], run)
            return _forwards(dataset, name, moving[name])
    return None


def _forwards(dataset: h5py.Dataset, name: str, axis: RotationAxis) -> h5py.Dataset:
    """The same rotation with an angle that increases: about the opposite vector, by the opposite angles.

    NeXus has directions chosen so, and DIALS takes no others.  The axis is made anew, so that other names
    which the dataset may have keep their values with their vector.
    """
    if axis.increment is None or axis.increment >= 0:
        return dataset
    group = dataset.parent
    for one in (name, *(name + suffix for suffix in AXIS_SUFFIXES)):
        old = access.get_dataset(group, one)
        if old is None or old.dtype.kind not in "iuf":
            continue
        values, attributes = np.asarray(old[()], dtype="<f8"), dict(old.attrs)
        del group[one]
        made = group.create_dataset(one, data=0.0 - values)
        for key, given in attributes.items():
            made.attrs[key] = 0.0 - np.asarray(given, dtype="<f8") if key == "vector" else given
    return group[name]


def _add_ends(dataset: h5py.Dataset, name: str, axis: RotationAxis, run: Reduction) -> None:
    if axis.end is not None:
        ends = axis.end[run.last_frames]
    elif axis.increment is not None:
        ends = axis.start[run.last_frames] + axis.increment
    else:
        return
    units = access.attribute_text(dataset, "units")
    ends = ends / per_degree(dataset)
    group = dataset.parent
    for suffix, values in (("_end", ends), ("_increment_set", ends - np.asarray(dataset[()]))):
        if name + suffix not in group:
            group.create_dataset(name + suffix, data=values, dtype="<f8").attrs["units"] = np.bytes_(units)


def _write_data(target: h5py.File, data_files: DataFiles, run: Reduction, scan: h5py.Dataset | None) -> None:
    """The images as the master has them, by file, and as one virtual dataset; beside it the axis that runs along it.

    A reader that takes all names data* for images (fabio) must find each image once, so the dataset has another name.
    One that looks at the links (xia2) sees the same files as in the master, and so the same set.  One that prefers
    links and knows few filters (durin) finds the dataset first, in the detector's group.
    """
    group = access.make_group(target, DATA, "NXdata")
    add_data_links(target, data_files)
    add_virtual(group, IMAGES, data_files, run.plan.shape_out, run.data_dtype)
    group.attrs["signal"] = np.bytes_(IMAGES)
    detector = target[DETECTOR]
    if "data" in detector:
        del detector["data"]
    detector["data"] = h5py.SoftLink(f"{DATA}/{IMAGES}")
    if scan is None:
        return
    name = posixpath.basename(str(scan.name))
    if name in group and access.get_dataset(group, name) != scan:
        del group[name]
    if name not in group:
        group[name] = scan
    group.attrs["axes"] = np.array([name, ".", "."], dtype="S")
    group.attrs[f"{name}_indices"] = np.int32(0)


def _drop_dangling(target: h5py.File, but: str | None = None) -> None:
    """Take out soft links to what isn't in this file; not those below `but`, which is yet to be written."""
    found: list[str] = []

    def visit(name: bytes, info: Any) -> None:
        if info.type == h5py.h5l.TYPE_SOFT:
            link = access.link(target, name.decode())
            if isinstance(link, h5py.SoftLink) and not (but and link.path.startswith(but)):
                found.append(name.decode())

    target.id.links.visit(visit, info=True)
    for name in found:
        if access.resolve(target, name) is None:
            del target[name]
