"""How large spots are, how near to one another, and how long they last: what bounds binning and summing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .finder import Spots

Array = NDArray[Any]

USUAL_SIGMA = 1.0
"""Pixels: where too few spots tell."""
WINDOW = 6
ENOUGH, MOST = 10, 400
FWHM = 2.3548

LEAST_SPACING = 3.0
"""Binned pixels between neighbours, at least: one for each, and one of background between."""
MOST_FWHM = 1.5
"""Spot widths that a binned pixel may span: a wider one adds background and nothing else."""
MOST_WIDTHS = 2.0
"""Rocking widths that an image may span."""


@dataclass(frozen=True)
class SpotSizes:
    """Medians over found spots; None where too few were found."""

    sigma: float | None
    """Standard deviation of the profile on the detector, pixels."""
    spacing: float | None
    """Pixels to the nearest neighbour of the same frames; nineteen of twenty are further apart."""
    rocking: float | None
    """Full width at half maximum in frames, from how alike a spot's frames are; None for stills."""

    @property
    def most_binning(self) -> int | None:
        if self.spacing is None or self.sigma is None:
            return None
        return max(1, int(min(self.spacing / LEAST_SPACING, MOST_FWHM * FWHM * self.sigma)))

    @property
    def most_sum(self) -> int | None:
        return None if self.rocking is None else max(1, int(self.rocking * MOST_WIDTHS))

    def advice(self) -> list[str]:
        """How far to bin and to sum, each with its reason."""
        lines = []
        if self.sigma is not None and self.spacing is not None:
            lines.append(
                f"spots are {self.sigma * FWHM:.1f} pixels wide and at least {self.spacing:.0f} apart: "
                f"b up to {self.most_binning}"
            )
        if self.rocking is not None:
            lines.append(f"spots last {self.rocking:.1f} frames (at half height): s up to {self.most_sum}")
        return lines


def spot_sigma(frames: dict[int, Array], spots: Spots) -> float | None:
    """Standard deviation of the profiles of the brightest spots, pixels; `frames` by their numbers."""
    widths = []
    for k in np.argsort(-spots.counts, kind="stable")[:MOST]:
        frame = frames.get(int(spots.z[k]))
        if frame is None:
            continue
        width = _width(frame, spots.x[k], spots.y[k])
        if width is not None:
            widths.append(width)
    return float(np.median(widths)) if len(widths) >= ENOUGH else None


def _width(frame: Array, x: float, y: float) -> float | None:
    row, column = int(y), int(x)
    cut = frame[row - WINDOW : row + WINDOW + 1, column - WINDOW : column + WINDOW + 1].astype(np.float64)
    if min(row, column) < WINDOW or cut.shape != (2 * WINDOW + 1, 2 * WINDOW + 1):
        return None
    edge = np.concatenate([cut[0], cut[-1], cut[1:-1, 0], cut[1:-1, -1]])
    if edge.max() > 60000:
        return None
    # Neighbours would widen it: only the middle counts.
    inner = (cut - np.median(edge))[2:-2, 2:-2]
    at = np.arange(-WINDOW + 2, WINDOW - 1)
    total = inner.sum()
    if total <= 0:
        return None
    centre = [(inner.sum(axis=axis) @ at) / total for axis in (0, 1)]
    second = [(inner.sum(axis=axis) @ (at - c) ** 2) / total for axis, c in zip((0, 1), centre, strict=True)]
    # A pixel's own width is no spot's.
    variance = sum(second) / 2 - 1 / 12
    return float(np.sqrt(variance)) if 0.04 < variance < 16 else None


def nearest(spots: Spots) -> Array:
    """(n,) distance of each spot's nearest neighbour on the detector with frames in common, pixels."""
    n = len(spots)
    found = np.full(n, np.inf)
    for k in range(0, n, 256):
        part = slice(k, k + 256)
        apart = np.hypot(spots.x[part, None] - spots.x, spots.y[part, None] - spots.y)
        common = (spots.box[part, None, 4] < spots.box[None, :, 5]) & (spots.box[part, None, 5] > spots.box[None, :, 4])
        apart[~common] = np.inf
        rows = np.arange(apart.shape[0])
        apart[rows, rows + k] = np.inf
        found[part] = apart.min(axis=1)
    return found


def rocking_width(profiles: Array, variances: Array) -> float | None:
    """Full width at half maximum in frames of (n, frames) sums, whose Poisson `variances` are known.

    A Gaussian of standard deviation w is like itself, one frame on, by exp(-1 / 4 w^2).
    """
    if len(profiles) < ENOUGH or profiles.shape[1] < 2:
        return None
    same = float(np.sum(profiles[:, :-1] ** 2 + profiles[:, 1:] ** 2 - variances[:, :-1] - variances[:, 1:])) / 2
    shifted = float(np.sum(profiles[:, :-1] * profiles[:, 1:]))
    if same <= 0:
        return None
    alike = min(shifted / same, 0.999)
    # Less alike than by a third in 100: shorter than a frame.
    return max(1.0, FWHM / np.sqrt(-4 * np.log(alike))) if alike > 0.01 else 1.0
