"""What waiting for the disk costs: the same run from a warm cache and from a cold one."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.reductions import H16, Run
from benchmarks.timing import interleaved, spread_of


def drop_from_cache(paths: list[Path]) -> None:
    """Let the system forget what it has cached of these files."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(master: Path, folder: Path, repeats: int) -> dict[str, Any]:
    """Seconds a frame, and of them in reading, warm and cold."""
    data = sorted(master.parent.glob(master.name.replace("_master.h5", "_data_*.h5")))
    warm, cold = Run(master, H16, folder), Run(master, H16, folder)

    def cold_run() -> float:
        drop_from_cache(data)
        return cold()

    seconds = interleaved({"warm": warm, "cold": cold_run}, repeats)
    return {
        name: {
            "seconds_a_frame": asdict(spread_of([s / run.frames for s in seconds[name]])),
            "read_a_frame": run.stages(repeats)["read"].median / run.frames,
        }
        for name, run in (("warm", warm), ("cold", cold))
    }
