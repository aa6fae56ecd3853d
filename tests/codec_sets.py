"""Every lossy codec by words for the command, and a small input for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pictures import diffraction
from small_sets import random_mask, write_set

SHAPE = (150, 130)
CODECS = {
    "hcompress": ["-H", "7"],
    "hcompress, 4 bytes": ["-H", "7", "-u", "4"],
    "j2k": ["-J", "12"],
    "j2k2": ["-K", "12"],
    "htj2k": ["-T", "12"],
    "htj2k, rms": ["--rms", "2"],
}


def write_input(folder: Path) -> Path:
    """Eleven frames with masked pixels, and a few that are invalid by their value in one frame."""
    frames = np.stack([diffraction(SHAPE, seed=k, background=4) for k in range(11)])
    frames[np.random.default_rng(8).random(frames.shape) < 2e-4] = 65535
    return write_set(folder, frames, mask=random_mask(SHAPE), per_file=4)
