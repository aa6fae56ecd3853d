"""A pixel mask as the compiled loops take it: nearly all of it flags nothing, or everything."""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

RUN = 128
"""Columns of a frame that the compiled loops take at a time, cut to a multiple of the binning."""


class PackedMask(NamedTuple):
    """A mask for one binning, with pixels only where it flags some of a run."""

    runs: Array
    """uint8, by row of the binned image and run: 0 where the mask flags nothing, 2 where everything, else 1."""
    pixels: Array
    """uint8: of the runs that have a 1 their rows, RUN each, not 0 where flagged; and one byte more."""


Mask = Array | PackedMask | None


def runs_of(compiled: ModuleType, mask: Array, binning: int) -> tuple[Array, int]:
    """The runs of a mask (ny, nx), and how many bytes its pixels take beside the last."""
    if mask.ndim != 2 or not 1 <= binning <= RUN:
        raise ValueError(f"a mask of shape {mask.shape} can't be binned by {binning}")
    ny, nx = mask.shape
    width = RUN // binning * binning
    runs = np.empty((-(-ny // binning), -(-nx // width)), np.uint8)
    size: int = compiled.mask_runs(mask, binning, runs)
    return runs, size


def packed(compiled: ModuleType, mask: Array, binning: int, shape: tuple[int, ...]) -> PackedMask:
    """A mask of frames of `shape`, (ny, nx), packed."""
    if mask.shape != shape:
        raise ValueError(f"mask has shape {mask.shape}, not {shape}")
    runs, size = runs_of(compiled, mask, binning)
    pixels = np.zeros(size + 1, np.uint8)
    compiled.pack_mask(mask, binning, runs, pixels)
    return PackedMask(runs, pixels)
