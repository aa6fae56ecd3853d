"""The axes of a master: which datasets tell of one, and the angles of those that rotate, frame by frame.

Source: section 2 of the NXmx definition; for the older flavour the FileWriter's `goniometer` group.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..hdf5 import access
from ..pixels.middle import median
from .angles import START_DIGITS, Told, are_singles, restore, setting

GONIOMETER = "entry/sample/goniometer"

AXIS_SUFFIXES = ("_end", "_increment_set", "_increment", "_range_average", "_range_total", "_start")
"""What is told of an axis in datasets beside it; the longer of two endings that fit comes first."""

ROTATION_NAMES = frozenset({"omega", "phi", "chi", "kappa", "theta", "two_theta", "alpha"})
AXIS_CLASSES = frozenset({"NXtransformations", "NXpositioner"})
AXIS_GROUPS = frozenset({"goniometer", "transformations"})
MODULE_NAMES = frozenset({"module_offset", "fast_pixel_direction", "slow_pixel_direction"})

STANDSTILL = 1e-3
"""Degrees: an axis at rest is read back with this much jitter, which is neither a motion nor a jump."""


@dataclass(frozen=True)
class RotationAxis:
    """A rotation axis with a value for every frame, in degrees."""

    path: str
    start: npt.NDArray[np.float64]
    """(n_frames,): at the start of each frame; what a scan was set to, where the file tells that in singles."""
    end: npt.NDArray[np.float64] | None
    """(n_frames,): at the end of each frame, where the input tells it."""
    increment: float | None
    """Rotation in a frame: the usual one; None where nothing tells it."""
    resolution: float
    """Degrees: nearer values can't be told apart (jitter at rest, rounding of the stored type)."""

    @property
    def moves(self) -> bool:
        """Whether the frames differ in angle, or one frame spans a range."""
        if float(np.ptp(self.start)) > self.resolution:
            return True
        return self.increment is not None and abs(self.increment) > self.resolution


def axis_base(name: str) -> tuple[str, str]:
    """('omega', '_end') for 'omega_end'; ('omega', '') for 'omega' itself."""
    for suffix in AXIS_SUFFIXES:
        if name.endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)], suffix
    return name, ""


def is_axis(dataset: h5py.Dataset, path: str, parent: h5py.Group) -> bool:
    """Whether a dataset is an axis, or tells of one: numeric, at most 1-D, and found where axes are kept.

    That is: it has a transformation_type; or lies in an NXtransformations, an NXpositioner or a goniometer
    group; or is named in its NXdata group's @axes; or its name less a known ending is such a neighbour's.
    A detector module's directions and offset (vectors, some with three values) are not axes.
    """
    folder, name = posixpath.split(path)
    if dataset.dtype.kind not in "iuf" or dataset.ndim > 1 or name in MODULE_NAMES:
        return False
    if access.attribute_text(parent, "NX_class") == "NXdetector_module":
        return False
    if "transformation_type" in dataset.attrs or posixpath.basename(folder) in AXIS_GROUPS:
        return True
    if access.attribute_text(parent, "NX_class") in AXIS_CLASSES or name in _named_axes(parent):
        return True
    base, suffix = axis_base(name)
    if not suffix or (neighbour := access.get_dataset(parent, base)) is None:
        return False
    return is_axis(neighbour, f"{folder}/{base}", parent)


def _named_axes(group: h5py.Group) -> set[str]:
    value = group.attrs.get("axes") if "axes" in group.attrs else None
    if value is None or isinstance(value, h5py.Empty):
        return set()
    names = [access.text(one) for one in np.atleast_1d(value)]
    return {part for name in names for part in name.replace(":", ",").split(",")}


def per_degree(dataset: h5py.Dataset, default: float = 1.0) -> float:
    """What one unit of a rotation axis is in degrees, from its units."""
    units = access.attribute_text(dataset, "units").lower()
    return 180.0 / np.pi if units.startswith("rad") else default


def all_rotations(h5: h5py.File, n_frames: int) -> list[RotationAxis]:
    """Axes with a value for each frame, then those of which only start and increment are told."""
    found = _rotation_axes(h5, n_frames)
    names = {posixpath.basename(axis.path) for axis in found}
    group = access.get_group(h5, GONIOMETER)
    if group is None:
        return found
    told = [_told_axis(group, name, n_frames) for name in sorted(ROTATION_NAMES - names)]
    return found + [axis for axis in told if axis is not None]


def _told_axis(group: h5py.Group, name: str, n_frames: int) -> RotationAxis | None:
    told = _told(group, name)
    if not told.width:
        return None
    first, increment = setting(told.start or 0.0, START_DIGITS), setting(told.width)
    start = first + np.arange(n_frames, dtype=np.float64) * increment
    end: npt.NDArray[np.float64] = np.add(start, increment)
    return RotationAxis(f"/{GONIOMETER}/{name}", start, end, increment, STANDSTILL)


def _rotation_axes(h5: h5py.File, n_frames: int) -> list[RotationAxis]:
    """Every rotation axis with a value for each frame, each object once: under the name beside which its ends are."""
    found: dict[tuple[int, int], RotationAxis] = {}
    entry = access.get_group(h5, "entry")
    if entry is None or n_frames < 1:
        return []
    for path, dataset in access.walk(entry, "/entry"):
        name = posixpath.basename(path)
        if dataset.ndim != 1 or dataset.size < max(n_frames, 1) or axis_base(name)[1]:
            continue
        parent = dataset.parent
        if not is_axis(dataset, path, parent) or not _is_rotation(dataset, name):
            continue
        known = found.get(access.identity(dataset))
        if known is None or (known.end is None and f"{name}_end" in parent):
            found[access.identity(dataset)] = _rotation_axis(dataset, path, n_frames)
    return list(found.values())


def _is_rotation(dataset: h5py.Dataset, name: str) -> bool:
    kind = access.attribute_text(dataset, "transformation_type")
    return kind == "rotation" if kind else name in ROTATION_NAMES


def _rotation_axis(dataset: h5py.Dataset, path: str, n_frames: int) -> RotationAxis:
    scale = per_degree(dataset)
    parent, name = dataset.parent, posixpath.basename(str(dataset.name))
    stored = _floats(dataset, n_frames)
    if not np.isfinite(stored).all():
        frame = int(np.flatnonzero(~np.isfinite(stored))[0]) + 1
        raise InputError(f"{dataset.file.filename}: {path} is not a finite number at frame {frame}")
    told = _told(parent, name, scale)
    if told == Told() and (group := access.get_group(dataset.file, GONIOMETER)) is not None:
        told = _told(group, name)
    start, widths = restore(stored, told, scale)
    end_set = access.get_dataset(parent, f"{name}_end")
    end = None
    if end_set is not None and end_set.ndim == 1 and end_set.size >= n_frames and end_set.dtype.kind in "iuf":
        end = _end(_floats(end_set, n_frames), start + widths, told, scale)
    resolution = max(STANDSTILL, 4 * float(np.finfo(stored.dtype).eps) * float(np.abs(start).max()))
    return RotationAxis(path, start, end, _increment(parent, name, start, end, scale), resolution)


def _floats(dataset: h5py.Dataset, n_frames: int) -> npt.NDArray[Any]:
    values = np.asarray(access.read(dataset, slice(n_frames)))
    return values if values.dtype.kind == "f" else values.astype(np.float64)


def _told(group: h5py.Group, name: str, scale: float = 1.0) -> Told:
    """What a group tells of an axis' first angle and usual width in single numbers."""

    starts, widths = (
        [value * scale for ending in endings if (value := access.number(group, name + ending)) is not None]
        for endings in (("_start", ""), ("_increment", "_range_average"))
    )
    return Told(next(iter(starts), None), next((width for width in widths if width), None))


def _end(
    stored: npt.NDArray[Any], expected: npt.NDArray[np.float64], told: Told, scale: float
) -> npt.NDArray[np.float64]:
    """(n,): the ends of frames: as `expected` from starts and widths where they round to what is stored."""
    values = np.asarray(stored, dtype=np.float64) * scale
    ulp = np.spacing(np.abs(values).max().astype(np.float32)) if are_singles(stored) else 0.0
    if np.isfinite(values).all() and (np.abs(values - expected) <= 2 * ulp).all():
        return expected
    return restore(stored, Told(None, told.width), scale)[0]


def _increment(
    parent: h5py.Group,
    name: str,
    start: npt.NDArray[np.float64],
    end: npt.NDArray[np.float64] | None,
    scale: float,
) -> float | None:
    """The usual rotation in one frame: from the ends, the told increments, or the steps between starts."""
    if end is not None:
        return median(end - start)
    for suffix in ("_increment_set", "_increment", "_range_average"):
        told = access.get_dataset(parent, name + suffix)
        if told is not None and told.dtype.kind in "iuf" and told.size:
            return setting(median(told[()])) * scale
    return median(np.diff(start)) if len(start) > 1 else None
