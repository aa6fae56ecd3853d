"""What `--keep` costs: runs with it, in turn with the same runs without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reductions import B2S2, Run, Setting, available
from benchmarks.timing import interleaved, ratio_of, spread_of
from bnl_mpi.hdf5.access import open_read

RADIUS = 5.0
"""Pixels of a frame, about each reflection."""

SETTINGS = (
    Setting("b2s2 htj2k", {**B2S2, "compression": "htj2k"}),
    Setting("b2s2 T35 htj2k", {**B2S2, "compression": "htj2k", "codec": "htj2k", "codec_level": 35}),
    Setting("b2s2 bslz4", B2S2),
)


def reflections(master: Path) -> Path:
    """A table for `--keep` beside a simulated master: what was simulated on its frames."""
    stem = master.name.removesuffix("_master.h5")
    with open_read(str(master.with_name(f"{stem}_truth.h5"))) as file:
        group = file["predictions"]
        fast, slow, frame, sigma = (group[name][()] for name in ("fast", "slow", "frame", "sigma"))
    with open_read(str(master)) as file:
        n = int(file["entry/instrument/detector/detectorSpecific/nimages"][()])
    number, more = np.floor(frame) + 1, np.ceil(3 * sigma)
    rows = np.stack([fast, slow, number, np.full(len(number), RADIUS), more], 1)
    path = master.with_name(f"{stem}_reflections.txt")
    np.savetxt(path, rows[(number >= 1) & (number <= n)], fmt=["%.2f", "%.2f", "%d", "%.1f", "%d"])
    return path


def measure(master: Path, folder: Path, settings: Sequence[Setting], repeats: int) -> list[dict[str, Any]]:
    """A row for each setting: seconds with `--keep` and without, and their ratio."""
    path = str(reflections(master))
    return [_measure(master, folder, setting, path, repeats) for setting in available(settings)]


def _measure(master: Path, folder: Path, setting: Setting, path: str, repeats: int) -> dict[str, Any]:
    without = Run(master, setting, folder)
    keeping = Run(master, Setting(f"{setting.name} keep", {**setting.options, "keep": (path,)}), folder)
    seconds = interleaved({"keep": keeping, "without": without}, repeats)
    return {
        "setting": setting.name,
        "frames": keeping.frames,
        "seconds": asdict(spread_of(seconds["keep"])),
        "seconds_without": asdict(spread_of(seconds["without"])),
        "over_without": asdict(ratio_of(seconds["keep"], seconds["without"])),
        "ratio_to_raw16": keeping.summary.ratio_to_raw16,
        "ratio_without": without.summary.ratio_to_raw16,
    }
