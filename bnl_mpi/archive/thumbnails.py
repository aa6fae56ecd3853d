"""A small picture of each set that is done, for an archive's page: its first image, read when the page is made."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..errors import BnlError
from ..hdf5 import access
from ..hdf5.names import IMAGES
from ..pixels.kernels_numpy import mark_value
from ..report import png
from .state import DONE, Entry

WIDEST = 64
"""Pixels of a picture's longer side: so it has some 3 kB, most of which are the noise of the background."""
LEVELS = 10
COUNTS = png.gradient(("#0a0a23", "#7d2482", "#f4785f", "#fcf8c5"), LEVELS)
MASK = (96, 108, 122)
MOST = 2000
"""Sets that get a picture: more would make a page too large to be opened."""


def pictures(entries: Mapping[str, Entry], folder: str) -> dict[str, str]:
    """By stem, what an `img` takes of the first MOST sets that are done; none of one that can't be read."""
    found: dict[str, str] = {}
    for stem in list(_done(entries))[:MOST]:
        image = first_image(os.path.join(folder, f"{stem}_000001.h5"))
        if image is not None:
            found[stem] = png.data_url(picture(image))
    return found


def _done(entries: Mapping[str, Entry]) -> Iterator[str]:
    return (stem for stem, entry in entries.items() if entry.stage == DONE)


def left_out(entries: Mapping[str, Entry]) -> int:
    """How many sets are done beyond those that get a picture."""
    return max(0, sum(1 for _ in _done(entries)) - MOST)


def first_image(path: str) -> np.ndarray[Any, Any] | None:
    """(ny, nx) of a data file, or None where that can't be had."""
    try:
        with access.open_read(path) as file:
            dataset = access.get_dataset(file, IMAGES)
            if dataset is None or dataset.ndim != 3 or not dataset.size or dataset.dtype.kind not in "iuf":
                return None
            return np.asarray(access.read(dataset, 0))
    except (BnlError, OSError, RuntimeError, ValueError):
        return None


def picture(image: np.ndarray[Any, Any]) -> bytes:
    """A PNG of an image (ny, nx): of each square of pixels the greatest count, on a logarithmic scale."""
    mark = mark_value(image.dtype)
    bad = ~np.isfinite(image) if image.dtype.kind == "f" else image == mark
    step = -(-max(image.shape) // WIDEST)
    counts = _pooled(np.where(bad, 0, image), step, np.maximum).astype(np.float64)
    gaps = _pooled(bad, step, np.logical_and)
    greatest = max(8.0, float(np.percentile(counts[~gaps], 99.5)) if not gaps.all() else 8.0)
    level = np.log1p(np.clip(counts, 0, greatest)) / np.log1p(greatest) * (LEVELS - 1)
    return png.encode(np.where(gaps, LEVELS, np.rint(level)).astype(np.uint8), [*COUNTS, MASK])


def _pooled(image: np.ndarray[Any, Any], step: int, how: np.ufunc) -> np.ndarray[Any, Any]:
    rows = how.reduceat(image, np.arange(0, image.shape[0], step), axis=0)
    return np.asarray(how.reduceat(rows, np.arange(0, image.shape[1], step), axis=1))
