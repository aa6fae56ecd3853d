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

from ..hdf5 import access
from ..hdf5.treecopy import Decision, Item, Keep, Replace, TreeCopy, pack
from ..input.experiment import AXIS_SUFFIXES, DETECTOR, SPECIFIC, Experiment, RotationAxis, axis_base, per_degree
from ..input.opening import open_master
from ..pixels.maps import bin_mask
from ..plan import Plan
from .master import (
    DATA,
    PROCESS,
    DataFiles,
    add_data_links,
    add_provenance,
    add_virtual,
    is_image_name,
    point_to_images,
)
from .rules import Reduction, decide

INSTRUMENT = "entry/instrument"
SAMPLE = "entry/sample"
BEAM_PATHS = (f"{INSTRUMENT}/beam", f"{SAMPLE}/beam")
MAX_CHAIN = 50
IMAGES = "images"
"""The virtual dataset in /entry/data."""

Vector = npt.NDArray[np.float64]

HORIZONTAL_AXIS = (-1.0, 0.0, 0.0)
ROTATION_AXES = {"E-32-0105": (0.0, 1.0, 0.0)}
"""By detector number: older masters don't tell the direction, and readers know this one as vertical."""

PARALLEL_ROTATIONS = ("omega", "phi")
"""Axes of the older flavour that may be taken as the spindle: kappa and chi lie askew, who knows how."""


def write_nxs(
    path: str | Path,
    infile: str | Path,
    plan: Plan,
    *,
    data_files: DataFiles,
    experiment: Experiment,
    provenance: Mapping[str, Any],
    data_dtype: np.dtype[Any],
) -> list[str]:
    """Write the NXmx file of a reduction to `path`.

    `data_files` are relative to the folder in which the file is to lie.  Returns what the input lacks for
    NXmx, each as a noun with its place; then nothing is written.  An empty list means that all went well.
    Raises InputError as write_master does.
    """
    run = Reduction(plan, experiment, np.dtype(data_dtype))
    with access.reading(infile), open_master(infile) as source:
        lacking = missing(source, experiment)
        if lacking:
            return lacking
        with access.write_at_once(path) as target:
            _copy_tree(source, target, run)
            _drop_dangling(target, but=DATA)
            _complete_entry(source, target)
            _complete_beam(source, target)
            _complete_detector(source, target, run)
            if experiment.flavour == "filewriter":
                _place_detector(source, target, run)
                _place_sample(source, target, run)
            scan = _complete_sample_chain(target, run)
            _write_data(target, data_files, run, scan)
            _drop_dangling(target)
            add_provenance(target, provenance)
            point_to_images(target)
    return []


# What the input must have


def missing(source: h5py.File, experiment: Experiment) -> list[str]:
    """What an NXmx entry needs and the input doesn't have."""
    lacking = []
    if _wavelength(source) is None:
        lacking.append(f"the wavelength (/{BEAM_PATHS[0]}/incident_wavelength)")
    for name in ("sensor_material", "sensor_thickness"):
        if access.get_dataset(source, f"{DETECTOR}/{name}") is None:
            lacking.append(f"the {name.replace('_', ' ')} (/{DETECTOR}/{name})")
    if experiment.flavour == "nxmx":
        return lacking + _missing_chains(source)
    return lacking + _missing_geometry(source) + _missing_directions(experiment)


def _wavelength(source: h5py.File) -> h5py.Dataset | None:
    for path in BEAM_PATHS:
        found = access.get_dataset(source, f"{path}/incident_wavelength")
        if found is not None and found.dtype.kind in "iuf":
            return found
    return None


def _missing_geometry(source: h5py.File) -> list[str]:
    wanted = {
        f"{DETECTOR}/geometry/orientation/value": 6,
        f"{DETECTOR}/geometry/translation/distances": 3,
        f"{DETECTOR}/x_pixel_size": 1,
        f"{DETECTOR}/y_pixel_size": 1,
    }
    return [f"/{path}" for path, n in wanted.items() if not _has_numbers(access.get_dataset(source, path), n)]


def _has_numbers(dataset: h5py.Dataset | None, n: int) -> bool:
    return dataset is not None and dataset.size == n and dataset.dtype.kind in "iuf"


def _missing_directions(experiment: Experiment) -> list[str]:
    names = {posixpath.basename(axis.path) for axis in experiment.axes if axis.moves}
    names = {name for name in names if name != "two_theta"}
    if len(names) > 1 or names - set(PARALLEL_ROTATIONS):
        return [f"the directions of the axes that move ({', '.join(sorted(names))})"]
    return []


def _missing_chains(source: h5py.File) -> list[str]:
    modules = _modules(source)
    if not modules:
        return [f"an NXdetector_module (/{DETECTOR}/module)"]
    ends: list[tuple[str, h5py.Dataset | None]] = []
    for module in modules:
        for name in ("fast_pixel_direction", "slow_pixel_direction"):
            ends.append((f"{module.name}/{name}", access.get_dataset(module, name)))
    lacking = []
    for path, dataset in ends:
        lacking += [path] if dataset is None else _broken_links(dataset)
    start = _sample_axis(source)
    return lacking + (_broken_links(start) if isinstance(start, h5py.Dataset) else start or [])


def _modules(h5: h5py.File) -> list[h5py.Group]:
    detector = access.get_group(h5, DETECTOR)
    groups = [] if detector is None else [access.get_group(detector, name) for name in detector]
    wanted = "NXdetector_module"
    return [g for g in groups if g is not None and access.attribute_text(g, "NX_class") == wanted]


def _sample_axis(h5: h5py.File) -> h5py.Dataset | list[str] | None:
    """The axis that the sample sits on; None where it rests on nothing, a list where the axis is missing."""
    sample = access.get_group(h5, SAMPLE)
    told = None if sample is None else access.get_dataset(sample, "depends_on")
    if sample is None or told is None:
        return [f"/{SAMPLE}/depends_on"]
    place = access.text(told[()])
    if place in ("", "."):
        return None
    axis = access.get_dataset(sample, place)
    return axis if axis is not None else [f"{place}, on which the sample depends"]


def chain(dataset: h5py.Dataset) -> list[h5py.Dataset]:
    """An axis and all that it depends on, outermost last; cut where a link is broken."""
    found = [dataset]
    while len(found) < MAX_CHAIN:
        place = access.attribute_text(found[-1], "depends_on")
        if place in ("", "."):
            break
        following = access.get_dataset(found[-1].parent, place)
        if following is None:
            break
        found.append(following)
    return found


def _broken_links(dataset: h5py.Dataset) -> list[str]:
    axes = chain(dataset)
    lacking = [
        f"{axis.name}@{name}"
        for axis in axes
        for name in ("vector", "transformation_type", "units")
        if name not in axis.attrs
    ]
    last = access.attribute_text(axes[-1], "depends_on")
    if last not in ("", "."):
        lacking.append(f"{last}, on which {axes[-1].name} depends")
    return lacking


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
        return path not in (f"/{SPECIFIC}", "/entry/squash", f"/entry/{PROCESS}")

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
    for module in _modules(source):
        size, origin = (access.get_dataset(module, name) for name in ("data_size", "data_origin"))
        if size is not None and size.size == 2:
            low = np.zeros(2) if origin is None or origin.size != 2 else np.asarray(origin[()])
            corners.append(low + np.asarray(size[()]))
    farthest = tuple(np.max(corners, axis=0)) if corners else plan.shape_in
    return farthest != tuple(plan.shape_in) and farthest == tuple(reversed(plan.shape_in))


# What NXmx asks for beyond the copy


def _string(group: h5py.Group, name: str, value: str) -> None:
    if name in group:
        del group[name]
    group[name] = np.bytes_(value)


def _complete_entry(source: h5py.File, target: h5py.File) -> None:
    entry = access.make_group(target, "/entry", "NXentry")
    _string(entry, "definition", "NXmx")
    if "start_time" not in entry:
        told = access.get_dataset(source, f"{SPECIFIC}/data_collection_date")
        if told is not None and access.text(told[()]):
            _string(entry, "start_time", access.text(told[()]))


def _complete_beam(source: h5py.File, target: h5py.File) -> None:
    """The beam lies in the instrument, where readers look for it; its class and units are told."""
    wavelength = _wavelength(source)
    assert wavelength is not None
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


def _complete_detector(source: h5py.File, target: h5py.File, run: Reduction) -> None:
    access.make_group(target, f"/{INSTRUMENT}", "NXinstrument")
    detector = access.make_group(target, f"/{DETECTOR}", "NXdetector")
    mask = run.experiment.mask
    if access.get_dataset(detector, "pixel_mask") is None and mask is not None:
        binned = bin_mask(mask, run.plan.binning).astype("<u4")
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        pack(plist, binned.shape, binned.nbytes)
        space = h5py.h5s.create_simple(binned.shape)
        h5py.h5d.create(detector.id, b"pixel_mask", h5py.h5t.STD_U32LE, space, plist)
        detector["pixel_mask"][...] = binned
    if "saturation_value" not in detector:
        limit = run.plan.limit
        detector["saturation_value"] = np.int64(limit) if float(limit).is_integer() else np.float64(limit)
    if "bit_depth_readout" not in detector and run.data_dtype.kind == "u":
        detector["bit_depth_readout"] = np.uint8(run.data_dtype.itemsize * 8)
    if run.data_dtype.kind in "iu":
        _exclude_marks(detector)
    for name in ("x_pixel_size", "y_pixel_size", "sensor_thickness"):
        found = access.get_dataset(detector, name)
        if found is not None and "units" not in found.attrs:
            found.attrs["units"] = np.bytes_("m")


def _exclude_marks(detector: h5py.Group) -> None:
    """Counts below 0 are no counts: an invalid pixel is -1 where signed, and read so where it is the top value."""
    told = access.number(detector, "underload_value")
    if told is None or told < 0:
        if "underload_value" in detector:
            del detector["underload_value"]
        detector["underload_value"] = np.int32(0)


# The older flavour's geometry


def _axis(
    group: h5py.Group, name: str, values: Any, kind: str, units: str, vector: Vector, depends_on: str
) -> h5py.Dataset:
    """A link of a chain."""
    if name in group:
        del group[name]
    made = group.create_dataset(name, data=np.asarray(values, dtype="<f8"))
    made.attrs["transformation_type"] = np.bytes_(kind)
    made.attrs["units"] = np.bytes_(units)
    made.attrs["vector"] = np.asarray(vector, dtype="<f8")
    made.attrs["offset"] = np.zeros(3)
    made.attrs["offset_units"] = np.bytes_("m")
    made.attrs["depends_on"] = np.bytes_(depends_on)
    return made


def _direction(vector: Vector, default: tuple[float, float, float]) -> tuple[float, Vector]:
    """Length and unit vector; a null vector has the default direction."""
    length = float(np.linalg.norm(vector))
    return length, vector / length if length > 0 else np.array(default)


def older_geometry(source: h5py.File) -> tuple[Vector, Vector, Vector]:
    """(origin, fast, slow) of an older master: the first pixel's outer corner in metres, and unit vectors.

    `geometry` counts z towards the source, so its sign is turned.  Where the translation has no part across
    the beam, the origin follows from the beam centre and the distance.
    """
    turn = np.array([1.0, 1.0, -1.0])
    orientation = access.read(source[f"{DETECTOR}/geometry/orientation/value"])
    directions = np.asarray(orientation, dtype=np.float64).reshape(2, 3) * turn
    fast, slow = (_direction(one, (-1.0, 0.0, 0.0))[1] for one in directions)
    distances = access.read(source[f"{DETECTOR}/geometry/translation/distances"])
    shift = np.asarray(distances, dtype=np.float64).reshape(3) * turn
    if shift[0] or shift[1]:
        return shift, fast, slow
    sizes, centre = _pair(source, "{}_pixel_size"), _pair(source, "beam_center_{}")
    origin = -(sizes[0] * centre[0] * fast + sizes[1] * centre[1] * slow)
    origin[2] += abs(shift[2])
    return origin, fast, slow


def _pair(source: h5py.File, pattern: str) -> tuple[float, float]:
    x, y = (access.number(source, f"{DETECTOR}/{pattern.format(one)}") for one in "xy")
    return x or 0.0, y or 0.0


def _place_detector(source: h5py.File, target: h5py.File, run: Reduction) -> None:
    """Distance along the beam, then the module's offset across it, then the directions of its pixels."""
    origin, fast, slow = older_geometry(source)
    detector = target[DETECTOR]
    transformations = access.make_group(detector, "transformations", "NXtransformations")
    distance = _axis(transformations, "det_z", origin[2:], "translation", "m", np.array([0.0, 0.0, 1.0]), ".")
    _string(detector, "depends_on", str(distance.name))
    module = access.make_group(detector, "module", "NXdetector_module")
    length, across = _direction(np.array([origin[0], origin[1], 0.0]), (1.0, 0.0, 0.0))
    offset = _axis(module, "module_offset", length, "translation", "m", across, str(distance.name))
    for name, size, vector in (("fast", "x", fast), ("slow", "y", slow)):
        pixel = access.scalar(detector[f"{size}_pixel_size"])
        _axis(module, f"{name}_pixel_direction", pixel, "translation", "m", vector, str(offset.name))
    module["data_origin"] = np.zeros(2, dtype="<i4")
    module["data_size"] = np.array(run.plan.shape_out, dtype="<i4")
    if "type" not in detector:
        _string(detector, "type", "Pixel")


def _place_sample(source: h5py.File, target: h5py.File, run: Reduction) -> None:
    """The spindle, in a chain of its own; where nothing rotates the sample depends on nothing."""
    sample = access.make_group(target, f"/{SAMPLE}", "NXsample")
    axis = _spindle(run.experiment)
    if axis is None:
        if "depends_on" not in sample:
            _string(sample, "depends_on", ".")
        return
    name = posixpath.basename(axis.path)
    group = access.make_group(sample, "transformations", "NXtransformations")
    values = axis.start[run.first_frames]
    made = _axis(group, name, values, "rotation", "deg", _spindle_direction(source, axis), ".")
    _string(sample, "depends_on", str(made.name))


def _spindle(experiment: Experiment) -> RotationAxis | None:
    """The axis that moves; where none does, omega if it is told of."""
    named = [axis for axis in experiment.axes if posixpath.basename(axis.path) in PARALLEL_ROTATIONS]
    resting = [axis for axis in named if posixpath.basename(axis.path) == "omega"]
    return next((axis for axis in named if axis.moves), resting[0] if resting else None)


def _spindle_direction(source: h5py.File, axis: RotationAxis) -> Vector:
    told = access.get_dataset(source, axis.path)
    if told is not None and "vector" in told.attrs:
        return np.asarray(told.attrs["vector"], dtype=np.float64)
    number = access.get_dataset(source, f"{DETECTOR}/detector_number")
    key = "" if number is None else access.text(number[()])
    return np.array(ROTATION_AXES.get(key, HORIZONTAL_AXIS))


# Chains and data


def _complete_sample_chain(target: h5py.File, run: Reduction) -> h5py.Dataset | None:
    """Give the scan axis its ends and increments, without which one image has no width; returns that axis."""
    start = _sample_axis(target)
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
    dangling: list[str] = []

    def visit(name: str) -> None:
        link = access.link(target, name)
        if not isinstance(link, h5py.SoftLink) or (but and link.path.startswith(but)):
            return
        if access.resolve(target, name) is None:
            dangling.append(name)

    target.visit_links(visit)
    for name in dangling:
        del target[name]
