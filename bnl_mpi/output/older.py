"""The geometry of the older flavour's masters as chains of NXmx.

Directions are those of the McStas frame: z along the beam, y up.  What `geometry` and `goniometer` mean is what their
readers make of them.
"""

from __future__ import annotations

import posixpath
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..hdf5 import access
from ..hdf5.names import DETECTOR
from ..input.axes import RotationAxis
from ..input.experiment import Experiment
from .nxmx import PARALLEL_ROTATIONS, SAMPLE, put_string
from .reduction import Reduction

Vector = npt.NDArray[np.float64]

HORIZONTAL_AXIS = (-1.0, 0.0, 0.0)
ROTATION_AXES = {"E-32-0105": (0.0, 1.0, 0.0)}
"""By detector number: older masters don't tell the direction, and readers know this one as vertical."""


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


def place_detector(source: h5py.File, target: h5py.File, run: Reduction) -> None:
    """Distance along the beam, then the module's offset across it, then the directions of its pixels."""
    origin, fast, slow = older_geometry(source)
    detector = target[DETECTOR]
    transformations = access.make_group(detector, "transformations", "NXtransformations")
    distance = _axis(transformations, "det_z", origin[2:], "translation", "m", np.array([0.0, 0.0, 1.0]), ".")
    put_string(detector, "depends_on", str(distance.name))
    module = access.make_group(detector, "module", "NXdetector_module")
    length, across = _direction(np.array([origin[0], origin[1], 0.0]), (1.0, 0.0, 0.0))
    offset = _axis(module, "module_offset", length, "translation", "m", across, str(distance.name))
    for name, size, vector in (("fast", "x", fast), ("slow", "y", slow)):
        pixel = access.scalar(detector[f"{size}_pixel_size"])
        _axis(module, f"{name}_pixel_direction", pixel, "translation", "m", vector, str(offset.name))
    module["data_origin"] = np.zeros(2, dtype="<i4")
    module["data_size"] = np.array(run.plan.shape_out, dtype="<i4")
    if "type" not in detector:
        put_string(detector, "type", "Pixel")


def place_sample(source: h5py.File, target: h5py.File, run: Reduction) -> None:
    """The spindle, in a chain of its own; where nothing rotates the sample depends on nothing."""
    sample = access.make_group(target, f"/{SAMPLE}", "NXsample")
    axis = _spindle(run.experiment)
    if axis is None:
        if "depends_on" not in sample:
            put_string(sample, "depends_on", ".")
        return
    name = posixpath.basename(axis.path)
    group = access.make_group(sample, "transformations", "NXtransformations")
    values = axis.start[run.first_frames]
    made = _axis(group, name, values, "rotation", "deg", _spindle_direction(source, axis), ".")
    put_string(sample, "depends_on", str(made.name))


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
