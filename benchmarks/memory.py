"""Peak memory of a worker, by setting and size of the detector."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import scaling

WORDS = ("-b 2 -s 2 -H 16 -c bslz4", "-b 2 -s 2 -T 14 -c htj2k")


def available() -> list[str]:
    """Those of WORDS whose libraries are there."""
    return [words for words in WORDS if "htj2k" not in words or importlib.util.find_spec("imagecodecs")]


def measure(masters: Sequence[Path], frames: int, folder: Path) -> list[dict[str, Any]]:
    """A row for each set and setting: peak memory of the worker that made two blocks of `frames` frames."""
    rows = []
    for master in masters:
        for words in available():
            scale = scaling.Scale(master, frames, max(1, frames // 4), words=tuple(shlex.split(words)))
            run = scaling.launch(scale, 1, frames, folder)
            peak = max(note["peak_bytes"] for note in run.workers)
            rows.append({"set": master.name.removesuffix("_master.h5"), "words": words, "peak_bytes": peak})
    return rows
