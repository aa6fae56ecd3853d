"""Where a pixel is, and which resolution that means: from the detector's own chain, or from distance and beam centre.

Positions are in metres in the McStas frame: z along the beam, the sample at the origin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..hdf5 import access
from ..hdf5.names import DETECTOR
from ..output import nxmx, older

Vector = npt.NDArray[np.float64]
FARTHEST = 0.1
"""Of the distance: beam centres nearer to one another than this are one, told more or less well."""
METRES = {"m": 1.0, "cm": 1e-2, "mm": 1e-3, "um": 1e-6}


@dataclass(frozen=True)
class Geometry:
    """A flat detector: position of the first pixel's outer corner, and the steps from pixel to pixel, metres."""

    wavelength: float
    """Angstrom."""
    origin: Vector
    fast: Vector
    slow: Vector

    def position(self, x: Any, y: Any) -> Vector:
        """(n, 3) of points (fast, slow) in pixels."""
        x, y = np.asarray(x, float), np.asarray(y, float)
        return np.asarray(self.origin + x[..., None] * self.fast + y[..., None] * self.slow)

    def resolution(self, x: Any, y: Any) -> Vector:
        """d in Angstrom, infinite in the beam."""
        at = self.position(x, y)
        cosine = at[..., 2] / np.linalg.norm(at, axis=-1)
        sine = np.sqrt(np.maximum(0.0, (1 - cosine) / 2))
        with np.errstate(divide="ignore"):
            return np.asarray(self.wavelength / (2 * sine))

    @property
    def beam_centre(self) -> tuple[float, float]:
        """(x, y) in pixels where the beam meets the detector's plane."""
        x, y, _ = np.linalg.solve(
            np.stack([self.fast, self.slow, [0.0, 0.0, -1.0]], axis=1), -np.asarray(self.origin, float)
        )
        return float(x), float(y)

    @property
    def distance(self) -> float:
        """Of the sample from the detector's plane, metres."""
        normal = np.cross(self.fast, self.slow)
        return float(abs(self.origin @ normal) / np.linalg.norm(normal))

    def circle(self, d: float, n: int = 181) -> Vector:
        """(n, 2): x and y of the cone of resolution `d` on the detector; NaN where it doesn't meet it."""
        sine = self.wavelength / (2 * d)
        if sine >= 1:
            return np.full((n, 2), np.nan)
        angle, turn = 2 * np.arcsin(sine), np.linspace(0, 2 * np.pi, n)
        rays = np.stack([np.sin(angle) * np.cos(turn), np.sin(angle) * np.sin(turn), np.full(n, np.cos(angle))], axis=1)
        normal = np.cross(self.fast, self.slow)
        along = rays @ normal
        with np.errstate(divide="ignore", invalid="ignore"):
            at = rays * ((self.origin @ normal) / along)[:, None] - self.origin
        at[along * (self.origin @ normal) <= 0] = np.nan
        plane = np.stack([self.fast, self.slow], axis=1)
        inverse = np.linalg.pinv(plane)
        return np.asarray(at @ inverse.T)

    def binned(self, binning: int) -> Geometry:
        """The same detector with pixels of `binning` x `binning`."""
        return Geometry(self.wavelength, self.origin, self.fast * binning, self.slow * binning)


def read_geometry(h5: h5py.File) -> tuple[Geometry | None, str]:
    """What an open master tells of wavelength and detector; or None, and what it lacks."""
    wavelength = _wavelength(h5)
    if wavelength is None or not wavelength > 0:
        return None, "the wavelength (/entry/instrument/beam/incident_wavelength)"
    places = [Geometry(wavelength, *place) for reader in (_chained, _older, _plain) if (place := reader(h5))]
    sound = [g for g in places if np.isfinite([g.origin, g.fast, g.slow]).all() and g.origin[2] > 0]
    if not sound:
        return None, "the detector's distance or beam centre (/entry/instrument/detector)"
    return (sound[0] if _agree(sound[0], sound[-1]) else sound[-1]), ""


def _agree(one: Geometry, plain: Geometry) -> bool:
    """Whether chains put the beam where the beam centre is told: some files' chains are placeholders."""
    apart = np.subtract(one.beam_centre, plain.beam_centre) * np.linalg.norm(plain.fast)
    return bool(np.hypot(*apart) < FARTHEST * plain.distance)


def _wavelength(h5: h5py.File) -> float | None:
    for path in nxmx.BEAM_PATHS:
        value = access.number(h5, f"{path}/incident_wavelength")
        if value is not None:
            return value
    return None


_Place = tuple[Vector, Vector, Vector]


def _chained(h5: h5py.File) -> _Place | None:
    """By the first module's depends_on chains; None where they are broken."""
    detector = access.get_group(h5, DETECTOR)
    for name in detector or ():
        module = access.get_group(h5, f"{DETECTOR}/{name}")
        if module is None or access.attribute_text(module, "NX_class") != "NXdetector_module":
            continue
        fast = access.get_dataset(module, "fast_pixel_direction")
        slow = access.get_dataset(module, "slow_pixel_direction")
        if fast is None or slow is None or "vector" not in fast.attrs or "vector" not in slow.attrs:
            return None
        return _place(fast, slow)
    return None


def _place(fast: h5py.Dataset, slow: h5py.Dataset) -> _Place | None:
    below = [axis for axis in nxmx.chain(fast)[1:] if axis != slow]
    if not below:
        return None
    origin, turn = _offset(fast), np.eye(3)
    for axis in below:
        step, rotation = _transformation(axis)
        origin, turn = rotation @ origin + step, rotation @ turn
    steps = [turn @ _unit(axis) * _value(axis) * _metres(axis) for axis in (fast, slow)]
    return origin, steps[0], steps[1]


def _value(axis: h5py.Dataset) -> float:
    return float(np.asarray(access.read(axis), float).reshape(-1)[0])


def _metres(axis: h5py.Dataset, name: str = "units") -> float:
    return METRES.get(access.attribute_text(axis, name), 1.0)


def _unit(axis: h5py.Dataset) -> Vector:
    vector = np.asarray(axis.attrs.get("vector", [0.0, 0.0, 0.0]), float)
    return vector / (np.linalg.norm(vector) or 1.0)


def _offset(axis: h5py.Dataset) -> Vector:
    told = np.asarray(axis.attrs.get("offset", [0.0, 0.0, 0.0]), float).reshape(-1)
    return told[:3] * _metres(axis, "offset_units") if told.size >= 3 else np.zeros(3)


def _transformation(axis: h5py.Dataset) -> tuple[Vector, Vector]:
    """(translation, rotation) that takes a point of the axis' frame to that of what it depends on."""
    vector, value = _unit(axis), _value(axis)
    if access.attribute_text(axis, "transformation_type") != "rotation":
        return vector * value * _metres(axis) + _offset(axis), np.eye(3)
    angle = value if access.attribute_text(axis, "units").startswith("rad") else np.deg2rad(value)
    x, y, z = vector
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)
    return _offset(axis), rotation


def _older(h5: h5py.File) -> _Place | None:
    """By the older flavour's group `geometry`."""
    wanted = {"geometry/orientation/value": 6, "geometry/translation/distances": 3}
    found = {path: access.get_dataset(h5, f"{DETECTOR}/{path}") for path in wanted}
    if any(item is None or item.size != wanted[path] for path, item in found.items()):
        return None
    sizes = _sizes(h5)
    if sizes is None:
        return None
    origin, fast, slow = older.older_geometry(h5)
    return origin, fast * sizes[0], slow * sizes[1]


def _sizes(h5: h5py.File) -> tuple[float, float] | None:
    x, y = (access.number(h5, f"{DETECTOR}/{one}_pixel_size") for one in "xy")
    return (x, y) if x and y else None


def _plain(h5: h5py.File) -> _Place | None:
    """By distance and beam centre, across the beam."""
    sizes = _sizes(h5)
    centre = [access.number(h5, f"{DETECTOR}/beam_center_{one}") for one in "xy"]
    told = [access.number(h5, f"{DETECTOR}/{name}") for name in ("detector_distance", "distance")]
    distance = next((value for value in told if value), None)
    if sizes is None or distance is None or centre[0] is None or centre[1] is None:
        return None
    fast, slow = np.array([-sizes[0], 0.0, 0.0]), np.array([0.0, -sizes[1], 0.0])
    return -(centre[0] * fast + centre[1] * slow) + np.array([0.0, 0.0, abs(distance)]), fast, slow
