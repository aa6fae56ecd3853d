"""The pictures: background, spots, beamstop and faults, one frame at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bnl_mpi.simulate.detector import Faults, Geometry
from bnl_mpi.simulate.diffraction import ROCKING_REACH, Predictions, polarisation
from bnl_mpi.simulate.noise import PoissonField
from bnl_mpi.simulate.settings import Settings

Floats = npt.NDArray[np.float64]

_STOP_RADIUS = 18.0  # pixels
_ARM_HALF_WIDTH = 3.5  # pixels
_FRAME_STREAM = 1  # beside stream 0, which the crystal and the faults are drawn from


def beamstop_transmission(geometry: Geometry) -> Floats:
    """Share of the photons that pass the beamstop and its arm, (slow, fast); exactly 1 away from it."""
    slow, fast = geometry.layout.shape
    x = np.arange(fast) + 0.5 - geometry.beam_center[0]
    y = (np.arange(slow) + 0.5 - geometry.beam_center[1])[:, np.newaxis]
    disc = 1 / (1 + np.exp(np.clip(_STOP_RADIUS - np.hypot(x, y), -30, 30)))
    across = 1 / (1 + np.exp(np.clip(2 * (_ARM_HALF_WIDTH - np.abs(x)), -30, 30)))
    arm = np.where(y > 0, 0.4 + 0.6 * across, 1.0)
    transmission = (0.02 + 0.98 * disc) * arm
    return np.where(transmission > 0.999, 1.0, transmission)


def background_counts(settings: Settings, geometry: Geometry) -> Floats:
    """Expected background of a frame in counts, (slow, fast): air scatter, water ring at 3.3 Angstrom."""
    x, _, z = geometry.pixel_directions()
    s = np.sqrt(np.clip(2 * (1 + z), 0, None)) / geometry.wavelength  # 1/d = 2 sin(theta) / wavelength
    shape = 0.5 * np.exp(-((s / 0.15) ** 2)) + 0.75 * np.exp(-(((s - 0.303) / 0.06) ** 2))
    shape += 0.35 * np.exp(-s / 0.4)
    level = settings.background * settings.exposed_width
    return np.asarray(level * shape * polarisation(x, z) * np.abs(z) ** 3)


def frame_omegas(settings: Settings) -> tuple[Floats, Floats]:
    """Omega in degrees at the start and the end of each frame, two arrays (frames,)."""
    index = np.arange(settings.frames, dtype=float)
    start, end = (settings.omega_start + settings.osc * edge for edge in (index, index + 1))
    return np.asarray(start), np.asarray(end)


@dataclass(frozen=True)
class _Active:
    """The reflections that a run of frames can see."""

    frames: range
    predictions: Predictions


class FrameMaker:
    """Makes any frame by its index; a frame depends on nothing but the settings and its index.

    `cutoff`: the count at which pixels saturate. Flagged pixels carry `mark`.
    """

    def __init__(
        self, settings: Settings, geometry: Geometry, faults: Faults, predictions: Predictions, cutoff: int
    ) -> None:
        self._settings = settings
        self._shape = geometry.layout.shape
        self._predictions = predictions
        self._faults = faults
        self._cutoff = cutoff
        self.dtype = np.dtype(f"u{settings.bits // 8}")
        self.mark = int(np.iinfo(self.dtype).max)
        self._flagged = np.flatnonzero(faults.mask)
        transmission = beamstop_transmission(geometry)
        means = background_counts(settings, geometry) * transmission
        means.ravel()[self._flagged] = 0.0
        self._background = PoissonField(means)
        self._transmission = transmission.astype(np.float32).ravel()
        self._active = _Active(range(0), predictions)

    def _exposure(self, frame: int) -> tuple[float, float]:
        """The omegas between which a frame sees the crystal."""
        settings = self._settings
        start = settings.omega_start + settings.osc * frame
        if settings.osc == 0:
            return start - settings.exposed_width / 2, start + settings.exposed_width / 2
        return start, start + settings.osc

    def _seen_near(self, frame: int) -> Predictions:
        """The reflections to consider for a frame, kept for its neighbours too."""
        if frame not in self._active.frames:
            run = range(frame - frame % 32, frame - frame % 32 + 32)
            ends = [*self._exposure(run[0]), *self._exposure(run[-1])]
            reach = ROCKING_REACH * self._predictions.sigma
            omega = self._predictions.omega
            rows = np.flatnonzero((omega + reach > min(ends)) & (omega - reach < max(ends)))
            self._active = _Active(run, self._predictions.take(rows))
        return self._active.predictions

    def expected(self, frame: int) -> tuple[Predictions, Floats]:
        """The reflections that may be seen in a frame, and the counts that each is expected to give there."""
        near = self._seen_near(frame)
        return near, near.counts * near.shares(*self._exposure(frame))

    def __call__(self, frame: int) -> npt.NDArray[np.unsignedinteger]:
        """Frame number `frame` (from 0), shape (slow, fast), in the stored unsigned type."""
        rng = np.random.Generator(np.random.SFC64([self._settings.seed, _FRAME_STREAM, frame]))
        counts = self._background.draw(rng)
        counts += np.bincount(self._photons(frame, rng), minlength=counts.size)
        counts[self._faults.hot] += rng.poisson(self._faults.hot_rate)
        np.minimum(counts, self._cutoff, out=counts)
        picture = counts.astype(self.dtype)
        picture[self._flagged] = self.mark
        return picture.reshape(self._shape)

    def _photons(self, frame: int, rng: np.random.Generator) -> npt.NDArray[np.intp]:
        """Flat pixel index of each diffracted photon that is counted.

        A Poisson number of photons, each placed by the spot's profile, is the same as a Poisson count in
        each pixel of the profile integrated over that pixel.
        """
        near, expected = self.expected(frame)
        photons = rng.poisson(expected)
        sigma = self._settings.spot_sigma
        total = int(photons.sum())
        fast = np.repeat(near.fast, photons) + sigma * rng.standard_normal(total)
        slow = np.repeat(near.slow, photons) + sigma * rng.standard_normal(total)
        inside = (fast >= 0) & (fast < self._shape[1]) & (slow >= 0) & (slow < self._shape[0])
        index = slow[inside].astype(np.intp) * self._shape[1] + fast[inside].astype(np.intp)
        passed = rng.random(index.size, dtype=np.float32) < self._transmission[index]
        return np.asarray(index[passed])
