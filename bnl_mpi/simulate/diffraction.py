"""Which reflection crosses the Ewald sphere when, where it is recorded, and how strong it is there.

The incident beam runs along -Z and the rotation axis is +X, right-handed, in the laboratory frame of
`bnl_mpi.simulate.detector`. After Kabsch (2010), Acta Cryst. D66, 133-144, section 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bnl_mpi.simulate.crystal import Crystal
from bnl_mpi.simulate.detector import Geometry
from bnl_mpi.simulate.settings import Settings

Floats = npt.NDArray[np.float64]

POLARISED_SHARE = 0.999  # of the beam, with its electric vector along X
SMALLEST_ZETA = 0.05  # nearer to the rotation axis a reflection smears out over degrees; left out
ROCKING_REACH = 4.0  # standard deviations after which the rocking curve counts as over


@dataclass(frozen=True)
class Predictions:
    """Reflections on the detector, in the order of their crossing; arrays of length n but `hkl` (n, 3).

    `omega`: degrees at the crossing. `fast`, `slow`: pixel coordinates. `counts`: expected when
    fully recorded. `factor`: counts over true intensity. `sigma`: of the rocking curve, degrees omega.
    """

    hkl: npt.NDArray[np.int32]
    omega: Floats
    fast: Floats
    slow: Floats
    counts: Floats
    factor: Floats
    sigma: Floats

    def __len__(self) -> int:
        return len(self.hkl)

    def take(self, rows: npt.NDArray[np.intp]) -> Predictions:
        """The reflections of these rows."""
        return Predictions(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def shares(self, start: Floats | float, end: Floats | float) -> Floats:
        """Part of each rocking curve between two omegas, in degrees."""
        to_end = normal_cdf((end - self.omega) / self.sigma)
        return np.abs(to_end - normal_cdf((start - self.omega) / self.sigma))


_CDF_GRID = np.linspace(-6, 6, 12001)
_DENSITY = np.exp(-(_CDF_GRID**2) / 2)
_CDF = np.concatenate(([0.0], np.cumsum((_DENSITY[1:] + _DENSITY[:-1]) / 2)))
_CDF /= _CDF[-1]


def normal_cdf(x: Floats) -> Floats:
    """Cumulative normal distribution, to about 1e-7, by interpolation."""
    return np.asarray(np.interp(x, _CDF_GRID, _CDF))


def polarisation(direction_x: Floats, direction_z: Floats) -> Floats:
    """Share of the intensity scattered along a unit vector, of a beam along -Z polarised along X."""
    cosine2 = direction_z**2
    direction_y2 = np.clip(1 - direction_x**2 - cosine2, 0, None)
    across = 1 - direction_y2
    return np.asarray((1 - 2 * POLARISED_SHARE) * across + POLARISED_SHARE * (1 + cosine2))


def crossings(vectors: Floats, wavelength: float) -> tuple[Floats, npt.NDArray[np.intp]]:
    """Angles in radians, in (-2 pi, 2 pi), at which reciprocal vectors (n, 3) meet the Ewald sphere.

    Returns the angles of both crossings and the rows of the vectors that they belong to; a vector in the
    blind region has none. Solves (R(phi) r) . s0 = -r^2 / 2 with s0 = (0, 0, -1/wavelength).
    """
    along, across = -vectors[:, 2] / wavelength, -vectors[:, 1] / wavelength
    target = -(vectors**2).sum(axis=1) / 2
    amplitude = np.hypot(along, across)
    rows = np.flatnonzero(np.abs(target) < amplitude)
    middle = np.arctan2(across[rows], along[rows])
    half = np.arccos(target[rows] / amplitude[rows])
    return np.concatenate((middle - half, middle + half)), np.concatenate((rows, rows))


def rotate(vectors: Floats, angle: Floats) -> Floats:
    """Vectors (n, 3) turned about +X, right-handed, each by its own angle in radians."""
    cosine, sine = np.cos(angle), np.sin(angle)
    y = cosine * vectors[:, 1] - sine * vectors[:, 2]
    z = sine * vectors[:, 1] + cosine * vectors[:, 2]
    return np.stack((vectors[:, 0], y, z), axis=1)


def predict(crystal: Crystal, geometry: Geometry, settings: Settings) -> Predictions:
    """Every reflection that the scan records, wholly or in part, sorted by omega."""
    vectors = crystal.all_hkl @ crystal.a_matrix.T
    phi, rows = crossings(vectors, geometry.wavelength)
    # unit vectors along the diffracted beams
    beam = rotate(vectors[rows], phi) * geometry.wavelength + np.array([0.0, 0.0, -1.0])
    fast, slow = geometry.project(beam)
    sine = np.hypot(beam[:, 0], beam[:, 1])
    # zeta = axis . e1 with e1 = beam x s0 / |beam x s0|; the Lorentz factor is |axis . (beam x s0)|
    lorentz = np.abs(beam[:, 1])
    zeta = lorentz / np.maximum(sine, 1e-12)
    image_slow, image_fast = geometry.layout.shape
    margin = 4 * settings.spot_sigma
    # rays away from the detector are NaN, which compares as not seen
    seen = (np.abs(fast - image_fast / 2) < image_fast / 2 + margin) & (
        np.abs(slow - image_slow / 2) < image_slow / 2 + margin
    )
    keep = np.flatnonzero(seen & (zeta > SMALLEST_ZETA))
    beam, lorentz = beam[keep], lorentz[keep]
    factor = polarisation(beam[:, 0], beam[:, 2]) / lorentz * geometry.efficiency(-beam[:, 2])
    every = Predictions(
        hkl=crystal.all_hkl[rows[keep]],
        omega=np.degrees(phi[keep]),
        fast=fast[keep],
        slow=slow[keep],
        counts=crystal.all_intensity[rows[keep]] * factor,
        factor=factor,
        sigma=settings.mosaicity / zeta[keep],
    )
    return _within_scan(every, settings)


def _within_scan(every: Predictions, settings: Settings) -> Predictions:
    """Repeat each crossing for every turn in which the scan meets it; drop those that it doesn't meet."""
    width = settings.exposed_width
    ends = (settings.omega_start, settings.omega_start + settings.frames * settings.osc)
    if settings.osc == 0:
        ends = (ends[0] - width / 2, ends[0] + width / 2)
    reach = ROCKING_REACH * every.sigma
    lowest = np.ceil((min(ends) - reach - every.omega) / 360).astype(int)
    highest = np.floor((max(ends) + reach - every.omega) / 360).astype(int)
    copies = np.maximum(highest - lowest + 1, 0)
    rows = np.repeat(np.arange(len(every)), copies)
    ordinal = np.arange(rows.size) - np.repeat(np.cumsum(copies) - copies, copies)
    omega = every.omega[rows] + 360.0 * (lowest[rows] + ordinal)
    repeated = every.take(rows)
    repeated.omega[:] = omega
    return repeated.take(np.argsort(omega, kind="stable"))
