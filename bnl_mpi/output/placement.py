"""From an NXmx file to where things stand in imgCIF's laboratory: what a CBF header has to tell.

imgCIF has x along the spindle and z towards the source: (x, y, z) of NeXus is (-x, y, -z) there.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..hdf5 import access
from ..input.axes import per_degree
from ..input.cbf.geometry import rotated, to_nexus
from .nxmx import SAMPLE, chain, modules

Vector = npt.NDArray[np.float64]

LENGTHS = {"m": 1e3, "cm": 10.0, "mm": 1.0, "um": 1e-3, "micron": 1e-3, "nm": 1e-6}
"""Millimetres in a unit."""

SAME = 1e-7


@dataclass(frozen=True)
class Rotation:
    """A rotation axis of the crystal's chain."""

    name: str
    vector: Vector
    """In imgCIF's frame."""
    settings: Vector
    """(n_images,), or (1,) where it doesn't move; degrees."""
    turns: Vector | None
    """(n_images,): how far it turns during each image; None where it doesn't move."""

    def setting(self, image: int) -> float:
        return float(self.settings[image if len(self.settings) > 1 else 0])

    def turn(self, image: int) -> float:
        return 0.0 if self.turns is None else float(self.turns[image])


@dataclass(frozen=True)
class Placement:
    """Detector and axes in imgCIF's frame; millimetres and unit vectors."""

    origin: Vector
    """The outer corner of the first pixel."""
    fast: Vector
    slow: Vector
    pixel: tuple[float, float]
    """(fast, slow)."""
    rotations: tuple[Rotation, ...]
    """Outermost first."""

    @property
    def moving(self) -> Rotation | None:
        return next((axis for axis in self.rotations if axis.turns is not None), None)

    @property
    def is_plain(self) -> bool:
        """Whether a miniCBF header can tell it: a detector that faces the beam, one spindle along x."""
        faces = np.allclose(self.fast, (1, 0, 0), atol=SAME) and np.allclose(self.slow, (0, -1, 0), atol=SAME)
        used = [axis for axis in self.rotations if axis.turns is not None or abs(axis.setting(0)) > SAME]
        along = all(np.allclose(axis.vector, (1, 0, 0), atol=SAME) for axis in used)
        return bool(faces and len(used) <= 1 and along)


def read_placement(h5: h5py.File, n_images: int) -> Placement:
    """The placement of an open NXmx file, as `nexus.write_nxs` makes it, of `n_images` images."""
    (module, *_) = modules(h5)
    ends = [module[f"{name}_pixel_direction"] for name in ("fast", "slow")]
    corners, directions, sizes = [], [], []
    for end in ends:
        axes = chain(end)
        corners.append(_laboratory(axes, np.zeros(3)))
        directions.append(_laboratory(axes, _vector(end), direction=True))
        sizes.append(float(access.scalar(end)) * _length(end))
    return Placement(
        to_nexus(corners[0]),
        to_nexus(directions[0]),
        to_nexus(directions[1]),
        (sizes[0], sizes[1]),
        _rotations(h5, n_images),
    )


def _text(dataset: h5py.Dataset, name: str) -> str:
    return access.attribute_text(dataset, name)


def _vector(dataset: h5py.Dataset) -> Vector:
    vector = np.asarray(dataset.attrs["vector"], dtype=np.float64)
    length = float(np.linalg.norm(vector))
    return vector / length if length else vector


def _length(dataset: h5py.Dataset, attribute: str = "units") -> float:
    unit = _text(dataset, attribute) or "m"
    if unit not in LENGTHS:
        raise InputError(f"{dataset.file.filename}: {dataset.name} is in {unit}, which is no unit of length")
    return LENGTHS[unit]


def _offset(dataset: h5py.Dataset) -> Vector:
    if "offset" not in dataset.attrs:
        return np.zeros(3)
    unit = _length(dataset, "offset_units" if "offset_units" in dataset.attrs else "units")
    offset: Vector = np.asarray(dataset.attrs["offset"], dtype=np.float64) * unit
    return offset if np.any(offset) else np.zeros(3)


def _setting(dataset: h5py.Dataset) -> float:
    value = float(np.asarray(access.read(dataset), dtype=np.float64).reshape(-1)[0])
    return value * (per_degree(dataset) if _text(dataset, "transformation_type") == "rotation" else _length(dataset))


def _laboratory(axes: list[h5py.Dataset], point: Vector, *, direction: bool = False) -> Vector:
    """A point on the first of `axes`, innermost first, which is a pixel direction at its pixel 0, in NeXus' frame."""
    for k, axis in enumerate(axes):
        if _text(axis, "transformation_type") == "rotation":
            point = rotated(point, _vector(axis), _setting(axis))
        elif k and not direction:
            point = point + _vector(axis) * _setting(axis)
        if not direction and np.any(np.asarray(axis.attrs.get("offset", 0.0))):
            point = point + _offset(axis)
    return point


def _rotations(h5: h5py.File, n_images: int) -> tuple[Rotation, ...]:
    sample = access.get_group(h5, SAMPLE)
    told = None if sample is None else access.get_dataset(sample, "depends_on")
    place = "." if told is None else access.text(told[()])
    if sample is None or place in (".", ""):
        return ()
    start = access.get_dataset(sample, place)
    axes = [] if start is None else chain(start)
    turning = [axis for axis in axes if _text(axis, "transformation_type") == "rotation"]
    return tuple(_rotation(axis, n_images) for axis in reversed(turning))


def _rotation(axis: h5py.Dataset, n_images: int) -> Rotation:
    name = posixpath.basename(str(axis.name))
    values = np.asarray(access.read(axis), dtype=np.float64).reshape(-1) * per_degree(axis)
    ends = access.get_dataset(axis.parent, f"{name}_end")
    turns = None
    if ends is not None and ends.size == len(values) == n_images:
        turns = np.asarray(access.read(ends), dtype=np.float64).reshape(-1) * per_degree(axis) - values
    settings = values if len(values) == n_images else values[:1]
    return Rotation(name, to_nexus(_vector(axis)), settings, turns if turns is not None and turns.any() else None)
