"""Where detector and crystal stand, as NeXus' chains of axes.

imgCIF's laboratory has x along the spindle and z towards the source, NeXus' z along the beam and y up: (x, y, z) of
the one is (-x, y, -z) of the other.  Both count an axis' offset in the frame that it depends on, with all axes at
zero.  Source: the imgCIF dictionary, categories axis, diffrn_scan_frame_axis and array_structure_list_axis.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .header import Header

Vector = npt.NDArray[np.float64]

TO_NEXUS = np.array([-1.0, 1.0, -1.0])

ROTATIONS = ("omega", "phi", "chi", "kappa", "alpha")
STANDSTILL = 1e-4
"""Degrees or millimetres: nearer settings are one."""


@dataclass(frozen=True)
class Axis:
    """A link of a chain, in NeXus' frame; degrees or millimetres."""

    name: str
    kind: str
    """'rotation' or 'translation'."""
    vector: Vector
    offset: Vector
    depends_on: str
    """A name, or '.'."""
    settings: Vector
    """(n_frames,), or (1,) where it doesn't move."""
    increments: Vector | None = None
    """(n_frames,): how far it turns during each frame; None where it doesn't."""


@dataclass(frozen=True)
class Geometry:
    """All that stands in space.  Directions are unit vectors in NeXus' frame, lengths in millimetres."""

    detector: tuple[Axis, ...]
    """Outermost first; the last one carries the module."""
    module_offset: Vector
    """From the last axis to the outer corner of the first pixel."""
    fast: Vector
    slow: Vector
    pixel: tuple[float, float]
    """(fast, slow)."""
    distance: float
    """From the crystal to the detector's plane."""
    beam_centre: tuple[float, float]
    """(x, y) in pixels: as the header has it, else where the beam meets the plane."""
    goniometer: tuple[Axis, ...]
    """Outermost first; the crystal sits on the last one.  Empty where nothing rotates."""
    settings: Mapping[str, float] = field(default_factory=dict)
    """Angles that are told without a direction, in degrees."""
    warnings: tuple[str, ...] = ()


def to_nexus(vector: npt.ArrayLike) -> Vector:
    """A vector of imgCIF's frame in NeXus'."""
    turned: Vector = np.asarray(vector, dtype=np.float64) * TO_NEXUS + 0.0
    return turned


def rotated(vector: Vector, axis: Vector, degrees: float) -> Vector:
    """The vector, turned about a unit vector."""
    angle = np.deg2rad(degrees)
    along = axis * float(axis @ vector)
    turned: Vector = along + (vector - along) * np.cos(angle) + np.cross(axis, vector) * np.sin(angle)
    return turned


def laboratory(axes: Sequence[Axis], point: Vector, *, direction: bool = False) -> Vector:
    """A point (or a direction) on the last of `axes`, outermost first, in the laboratory, at their first settings."""
    for axis in reversed(axes):
        if axis.kind == "rotation":
            point = rotated(point, axis.vector, float(axis.settings[0]))
        elif not direction:
            point = point + axis.vector * float(axis.settings[0])
        if not direction:
            point = point + axis.offset
    return point


def plain_name(name: str) -> str:
    """`GON_OMEGA` is omega, `DET_2THETA` two_theta: the names that readers know; others in lower case."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    if "2theta" in words or "twotheta" in words or words[-2:] == ["two", "theta"]:
        return "two_theta"
    return next((word for word in words if word in ROTATIONS), re.sub(r"[^a-z0-9]+", "_", name.lower()))


def distance_and_centre(
    detector: Sequence[Axis], offset: Vector, directions: Sequence[Vector], sizes: Sequence[float]
) -> tuple[float, tuple[float, float]]:
    """Distance of the plane in mm, and the pixel where the beam meets it."""
    origin = laboratory(detector, offset)
    fast, slow = (laboratory(detector, one, direction=True) for one in directions)
    normal = np.cross(fast, slow)
    distance = abs(float(normal @ origin))
    if abs(normal[2]) < 1e-6:
        return distance, (0.0, 0.0)
    spot = np.array([0.0, 0.0, float(normal @ origin) / normal[2]]) - origin
    return distance, (float(spot @ fast) / sizes[0], float(spot @ slow) / sizes[1])


def go_on(headers: Sequence[Header], settings: Vector, increments: Vector) -> None:
    """Have an axis, (n_frames,) both, go on through frames whose headers are damaged as in the frame before."""
    for k, header in enumerate(headers):
        if header.damage is not None:
            settings[k], increments[k] = settings[k - 1] + increments[k - 1], increments[k - 1]


def told_centre(header: Header) -> tuple[float, float] | None:
    """The beam centre of a miniCBF header, in pixels."""
    told = header.numbers("Beam_xy")
    return (told[0], told[1]) if len(told) > 1 else None
