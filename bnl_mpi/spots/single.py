"""One image before and after its codec: what it adds to the noise of the spots found on it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .finder import SpotFinder
from .shoebox import FOREGROUND_SIGMAS, Boxes, Layer, integrate
from .sizes import USUAL_SIGMA, spot_sigma

Array = NDArray[Any]

FOR_SIGMA = 50
"""Spots that tell how wide all are."""
FEWEST = 10
"""Spots, or nothing is said of the image."""


def added_noise(exact: Array, stored: Array, bad: Array) -> float | None:
    """The rms change of the spots' sums over their Poisson sigmas, of all spots or of the weakest third, whichever is
    greater; None where there are too few.

    Args:
        exact, stored: (ny, nx) counts of an integer type.
        bad: (ny, nx) uint8, not 0 where a pixel is invalid.
    """
    counts = exact.view(np.uint32) if exact.dtype == np.int32 and exact.min(initial=0) >= 0 else exact
    finder = SpotFinder(exact.shape, bad)
    strong = finder.strong(counts)
    finder.take(0, counts, np.flatnonzero(strong))
    spots = finder.spots()
    if len(spots) < FEWEST:
        return None
    brightest = spots[np.argsort(-spots.counts, kind="stable")[:FOR_SIGMA]]
    n, sigma = len(spots), spot_sigma({0: counts}, brightest) or USUAL_SIGMA
    radius = float(np.clip(FOREGROUND_SIGMAS * sigma - 0.5, 1.5, 8.0))
    boxes = Boxes(spots.x, spots.y, np.zeros(n, np.int64), np.ones(n, np.int64), radius)
    before, after = (integrate([Layer(range(1), image, bad, strong)], 1, boxes) for image in (exact, stored))
    good = before.good & after.good
    if np.count_nonzero(good) < FEWEST:
        return None
    change = ((after.counts - before.counts) / before.sigma)[good]
    order = np.argsort((before.counts / before.sigma)[good], kind="stable")
    weakest = order[: max(1, len(order) // 3)]
    return float(max(np.sqrt(np.mean(change**2)), np.sqrt(np.mean(change[weakest] ** 2))))
