"""Made-up pictures that look like diffraction."""

from __future__ import annotations

from typing import Any

import numpy as np

Image = np.ndarray[Any, Any]


def diffraction(shape: tuple[int, int], seed: int = 0, background: float = 2.0) -> Image:
    """Poisson counts: a background that falls from the beam, a ring, and sharp spots of up to a few thousand."""
    rng = np.random.default_rng(seed)
    ny, nx = shape
    y, x = np.ogrid[:ny, :nx]
    radius = np.hypot(y - 0.45 * ny, x - 0.5 * nx) / max(shape)
    mean = background * (0.3 + np.exp(-4 * radius) + 0.7 * np.exp(-(((radius - 0.3) / 0.04) ** 2)))
    for _ in range(ny * nx // 800):
        cy, cx = rng.uniform(0, ny), rng.uniform(0, nx)
        low, left = max(0, int(cy) - 5), max(0, int(cx) - 5)
        yy, xx = np.ogrid[low : min(ny, low + 11), left : min(nx, left + 11)]
        mean[low : low + 11, left : left + 11] += rng.exponential(60) * np.exp(-((yy - cy) ** 2 + (xx - cx) ** 2) / 2)
    return rng.poisson(mean).astype(np.uint16)
