"""The arithmetic of a reduction, pixel by pixel in Python: slow, plain, and independent of the package."""

from __future__ import annotations

from typing import Any

import numpy as np


def is_invalid(value: int, dtype: np.dtype[Any]) -> bool:
    """By value: the top five of the stored type (8 bits: the top one), or negative."""
    top = np.iinfo(dtype).max
    return value < 0 or value > (254 if dtype == np.uint8 else top - 5)


def reduce_image(
    frames: np.ndarray[Any, Any],
    mask: np.ndarray[Any, Any] | None,
    binning: int,
    satval: int,
    *,
    scale: float = 1.0,
    out: str = "uint16",
    scaled_saturation: bool = False,
    total_frames: int | None = None,
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], int]:
    """The image of `frames`, (s, ny, nx): values before a codec, what is invalid, and satval'."""
    n, ny, nx = frames.shape
    oy, ox = -(-ny // binning), -(-nx // binning)
    top = int(np.iinfo(out).max) - (1 if out.startswith("u") else 0)
    if scaled_saturation:
        limit = min(int(binning * binning * (total_frames or n) * satval * scale + 0.5), int(np.iinfo(out).max) - 1)
    else:
        limit = min(int(satval * scale + 0.5), top)
    values = np.zeros((oy, ox), np.int64)
    invalid = np.zeros((oy, ox), bool)
    for y in range(oy):
        for x in range(ox):
            total, n_valid, fault, saturated = 0, 0, False, False
            for f in range(n):
                for j in range(y * binning, min(ny, (y + 1) * binning)):
                    for i in range(x * binning, min(nx, (x + 1) * binning)):
                        if mask is not None and mask[j, i]:
                            continue
                        value = int(frames[f, j, i])
                        if is_invalid(value, frames.dtype):
                            fault = True
                            continue
                        n_valid += 1
                        total += value
                        saturated |= value >= satval
            if scaled_saturation:
                v = limit if saturated else min(int(total * scale), limit)
            else:
                v = min(int(min(total, satval) * scale), limit)
            invalid[y, x] = fault or n_valid == 0
            values[y, x] = 0 if invalid[y, x] else v
    return values, invalid, limit


def stored(values: np.ndarray[Any, Any], invalid: np.ndarray[Any, Any], limit: int, out: str) -> np.ndarray[Any, Any]:
    """Step 6: clipped, and marked where invalid."""
    image: np.ndarray[Any, Any] = np.clip(values, 0, limit).astype(out)
    image[invalid] = np.iinfo(out).max if out.startswith("u") else -1
    return image


def reduce_set(
    frames: np.ndarray[Any, Any],
    mask: np.ndarray[Any, Any] | None,
    *,
    sum: int,
    binning: int,
    satval: int,
    **options: Any,
) -> np.ndarray[Any, Any]:
    """All images of a set without a codec."""
    out = options.get("out", "uint16")
    images = []
    for k in range(0, len(frames), sum):
        values, invalid, limit = reduce_image(frames[k : k + sum], mask, binning, satval, total_frames=sum, **options)
        images.append(stored(values, invalid, limit, out))
    return np.array(images)
