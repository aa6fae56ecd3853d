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


def thinned(image: Image, share: float) -> Image:
    """As with that share of the beam."""
    return np.random.default_rng(9).binomial(image, share).astype(np.uint16)


def with_hot_pixels(image: Image, k: int) -> Image:
    """None, forty saturated ones, and one that is less hot, in turn."""
    image = image.copy()
    if k % 3 == 1:
        image.reshape(-1)[np.random.default_rng(k).integers(0, image.size, 40)] = 65535
    elif k % 3 == 2:
        image[50, 60] = 60000
    return image


def changing(kind: str) -> list[Image]:
    """Images of a block, which change from one to the next."""
    shape = (300, 257)
    pictures = [diffraction(shape, seed) for seed in range(12)]
    dark = [np.random.default_rng(seed).poisson(0.3, shape).astype(np.uint16) for seed in range(12)]
    if kind == "beam loss":
        beam = [1, 1, 0.8, 0.5, 0.2, 0.05, 0.01, 0, 0, 0.5, 1, 1]
        return [thinned(image, share) for image, share in zip(pictures, beam, strict=True)]
    if kind == "shutter":
        return pictures[:5] + [np.zeros(shape, np.uint16)] * 4 + pictures[5:7]
    if kind == "grid scan":
        return [pictures[k] if k % 6 in (2, 3) else dark[k] for k in range(12)]
    if kind == "alternating":
        return [diffraction(shape, k, 30) if k % 2 else thinned(pictures[k], 0.2) for k in range(8)]
    if kind == "hot pixels":
        return [with_hot_pixels(image, k) for k, image in enumerate(pictures[:9])]
    return [with_hot_pixels(np.zeros(shape, np.uint16) if k % 2 else dark[k], k) for k in range(9)]


CHANGING = ["beam loss", "shutter", "grid scan", "alternating", "hot pixels", "hot pixels in the dark"]
