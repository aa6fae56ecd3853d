"""Strong pixels by the dispersion of the counts around them, and which of them touch: compiled, else in NumPy.

The test is the one that DIALS publishes (`spotfinder.threshold.algorithm=dispersion`; Winter et al., Acta Cryst.
D74, 2018, 85): of the valid pixels in a window, variance over mean must be above Poisson's 1 by `nsigma_b` times its
standard deviation, and the pixel above the mean by `nsigma_s` times Poisson's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import strong_numpy
from .kernels import _kernels, top_value  # type: ignore[attr-defined]

Array = NDArray[Any]

LARGEST_KERNEL = 6


def strong_pixels(
    frame: Array,
    mask: Array | None,
    *,
    kernel: int = 3,
    min_count: int = 2,
    nsigma_b: float = 6.0,
    nsigma_s: float = 3.0,
    threshold: float = 0.0,
    top: int | None = None,
) -> Array:
    """Which pixels of a frame are strong.

    Args:
        frame: (ny, nx) counts of an unsigned type of 1, 2 or 4 bytes; C-contiguous.
        mask: (ny, nx) uint8 or bool, not 0 where a pixel is flagged; None if none is.
        kernel: k, 1 to 6: windows have (2k+1) x (2k+1) pixels, less what is flagged, invalid or off the edge.
        min_count: valid pixels that a window needs, at least 2.
        nsigma_b, nsigma_s: how far above chance, see above.
        threshold: a strong pixel has more counts than this.
        top: greatest valid count; by default `top_value` of the type.

    Returns:
        (ny, nx) uint8: 1 where strong, else 0.
    """
    if not 1 <= kernel <= LARGEST_KERNEL or min_count < 2:
        raise ValueError(f"the kernel's size is 1 to {LARGEST_KERNEL}, min_count at least 2")
    strong = np.empty(frame.shape, np.uint8)
    how = strong_numpy if _kernels is None else _kernels
    greatest = top_value(frame.dtype) if top is None else top
    how.strong_pixels(frame, mask, greatest, kernel, min_count, float(nsigma_b), float(nsigma_s), threshold, strong)
    return strong


def components(keys: Array, shape: tuple[int, int]) -> tuple[Array, int]:
    """Which pixels belong together: those that share a face, in a frame or from a frame to the next.

    Args:
        keys: (n,) int64, (frame * ny + y) * nx + x of each pixel, rising.
        shape: (ny, nx).

    Returns:
        (n,) int32, the component of each pixel, counted from 0 in the order of their first pixels; their number.
    """
    labels = np.empty(len(keys), np.int32)
    if not len(keys):
        return labels, 0
    how = strong_numpy if _kernels is None else _kernels
    return labels, int(how.components(keys, *shape, labels))
