"""Modules, gaps, faults and geometry of the Eiger detectors, and what the sensor does to a position.

The laboratory frame is that of imgCIF: X along the rotation axis, Z from the sample to the source, Y so
that the frame is right-handed. The detector's fast axis is +X, its slow axis -Y; the detector stands at
Z = -distance. Lengths are in millimetres; pixel coordinates count from the outer corner of the first
pixel, so that pixel i covers i to i + 1. Image arrays are indexed (slow, fast).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import exp, log

import numpy as np
import numpy.typing as npt

from bnl_mpi.errors import UsageError
from bnl_mpi.simulate.settings import Settings

Floats = npt.NDArray[np.float64]

PIXEL_SIZE = 0.075  # mm
GAP, DEAD, UNDER_RESPONDING, OVER_RESPONDING, NOISY = 1, 2, 4, 8, 16  # pixel_mask bits 0 to 4

_MODULES = {"500k": (1, 1), "1M": (1, 2), "4M": (2, 4), "9M": (3, 6), "16M": (4, 8)}
# keV, and cm2/g at each: NIST XCOM
_SILICON_ENERGY = (3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 40.0)
_SILICON_MASS_ATTENUATION = (978.0, 452.9, 245.0, 147.0, 64.68, 33.89, 10.34, 4.464, 1.436, 0.7012)
_SILICON_DENSITY = 2.33  # g/cm3
_KEV_ANGSTROM = 12.398419843


@dataclass(frozen=True)
class ModuleLayout:
    """A grid of equal modules: sizes and gaps in pixels, each a pair (slow, fast)."""

    modules: tuple[int, int]
    size: tuple[int, int]
    gap: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """Image size (slow, fast)."""
        slow, fast = (
            count * size + (count - 1) * gap for count, size, gap in zip(self.modules, self.size, self.gap, strict=True)
        )
        return slow, fast

    def gap_mask(self) -> npt.NDArray[np.bool_]:
        """True where no module lies, shape (slow, fast)."""
        inside = []
        for length, size, gap in zip(self.shape, self.size, self.gap, strict=True):
            inside.append(np.arange(length) % (size + gap) < size)
        return ~(inside[0][:, np.newaxis] & inside[1])


def module_layout(model: str, flavour: str) -> ModuleLayout:
    """The layout of a model ("500k" to "16M") of a flavour: Eiger 2's modules are 2 pixels smaller."""
    fast, slow = _MODULES[model]
    if flavour == "eiger2":
        return ModuleLayout((slow, fast), (512, 1028), (38, 12))
    return ModuleLayout((slow, fast), (514, 1030), (37, 10))


def silicon_attenuation(wavelength: float) -> float:
    """Linear attenuation coefficient of silicon in 1/mm, interpolated between tabulated energies."""
    energy = _KEV_ANGSTROM / wavelength
    if not _SILICON_ENERGY[0] <= energy <= _SILICON_ENERGY[-1]:
        raise UsageError(
            f"--wavelength {wavelength} is {energy:.2f} keV: give 3 to 40 keV, that is 0.31 to 4.13 Angstrom"
        )
    log_mass = np.interp(log(energy), np.log(_SILICON_ENERGY), np.log(_SILICON_MASS_ATTENUATION))
    return exp(float(log_mass)) * _SILICON_DENSITY / 10


@dataclass(frozen=True)
class Geometry:
    """Where the detector stands: distance in mm, beam centre (fast, slow) in pixels, shape (slow, fast)."""

    layout: ModuleLayout
    distance: float
    beam_center: tuple[float, float]
    wavelength: float
    sensor_thickness: float

    @cached_property
    def attenuation(self) -> float:
        """The sensor's linear attenuation coefficient, 1/mm."""
        return silicon_attenuation(self.wavelength)

    @cached_property
    def highest_resolution(self) -> float:
        """Smallest d in Angstrom that a corner of the detector sees."""
        slow, fast = self.layout.shape
        across = max(self.beam_center[0], fast - self.beam_center[0])
        along = max(self.beam_center[1], slow - self.beam_center[1])
        radius = float(np.hypot(across, along)) * PIXEL_SIZE
        return self.wavelength / (2 * float(np.sin(np.arctan2(radius, self.distance) / 2)))

    def project(self, direction: Floats) -> tuple[Floats, Floats]:
        """Pixel coordinates (fast, slow) where rays along unit vectors, shape (n, 3), are recorded.

        A photon travels on in the sensor before it is absorbed, by the mean depth that the sensor's
        thickness allows, so spots lie outwards of where the ray meets the surface. Rays that don't run
        towards the detector give NaN.
        """
        cosine = np.where(direction[:, 2] < 0, -direction[:, 2], np.nan)
        path = self.sensor_thickness / cosine
        mean_depth = 1 / self.attenuation - (path + 1 / self.attenuation) * np.exp(-self.attenuation * path)
        reach = self.distance / cosine + mean_depth
        fast = direction[:, 0] * reach / PIXEL_SIZE + self.beam_center[0]
        slow = -direction[:, 1] * reach / PIXEL_SIZE + self.beam_center[1]
        return fast, slow

    def efficiency(self, cosine: Floats) -> Floats:
        """Share of the photons that the sensor absorbs, at the cosine of the angle of incidence."""
        return np.asarray(1 - np.exp(-self.attenuation * self.sensor_thickness / cosine))

    def pixel_directions(self) -> tuple[Floats, Floats, Floats]:
        """Unit vectors X, Y, Z to each pixel's middle, three arrays of shape (slow, fast)."""
        slow, fast = self.layout.shape
        x = (np.arange(fast) + 0.5 - self.beam_center[0])[np.newaxis, :] * PIXEL_SIZE
        y = -(np.arange(slow) + 0.5 - self.beam_center[1])[:, np.newaxis] * PIXEL_SIZE
        length = np.sqrt(x**2 + y**2 + self.distance**2)
        return x / length, y / length, -self.distance / length


def make_geometry(settings: Settings) -> Geometry:
    """The geometry that the settings ask for; the beam falls beside the gaps in the middle, on a module."""
    layout = module_layout(settings.detector, settings.flavour)
    slow, fast = layout.shape
    beam_center = (fast / 2 + 23.17, slow / 2 + 38.62)
    distance = settings.distance
    if distance is None:
        two_theta = 2 * np.arcsin(settings.wavelength / (2 * 2.0)) if settings.wavelength < 3.4 else 1.2
        distance = max(5 * round(float(fast / 2 * PIXEL_SIZE / np.tan(min(two_theta, 1.2))) / 5), 20)
    thickness = 0.45 if settings.flavour == "eiger2" else 0.32
    return Geometry(layout, float(distance), beam_center, settings.wavelength, thickness)


@dataclass(frozen=True)
class Faults:
    """What isn't as it should be: the mask, and the pixels that count by themselves.

    `mask`: uint32 (slow, fast), pixel_mask bits. `hot`: flat indices of pixels that the mask doesn't
    flag, `hot_rate`: the counts a frame that they add.
    """

    mask: npt.NDArray[np.uint32]
    hot: npt.NDArray[np.intp]
    hot_rate: Floats


def make_faults(layout: ModuleLayout, share: float, rng: np.random.Generator) -> Faults:
    """Scatter faulty pixels at random over the modules, `share` of them for each kind of fault."""
    mask = np.where(layout.gap_mask(), np.uint32(GAP), np.uint32(0)).astype(np.uint32)
    sound = np.flatnonzero(mask == 0)
    count = round(share * sound.size)
    hot_count = count // 4
    kinds = (DEAD, UNDER_RESPONDING, OVER_RESPONDING, NOISY)
    chosen = rng.choice(sound, size=count * len(kinds) + hot_count, replace=False)
    for index, bit in enumerate(kinds):
        mask.ravel()[chosen[index * count : (index + 1) * count]] |= np.uint32(bit)
    hot = np.sort(chosen[len(kinds) * count :])
    return Faults(mask, hot, np.exp(rng.uniform(np.log(20), np.log(1000), size=hot.size)))
