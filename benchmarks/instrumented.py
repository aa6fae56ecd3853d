"""bnl-mpi as its users run it, with a note from each rank of its peak memory and its first frame's time.

Started by a launcher as `python -m benchmarks.instrumented FOLDER WORDS...`; the notes go to FOLDER.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BEGIN = "BNL_BENCHMARK_BEGIN"
"""Environment: `time.time()` just before the launcher was started."""


def main(arguments: Sequence[str]) -> int:
    """Run the command line and leave FOLDER/rank_N.json behind; returns the command's status."""
    folder, words = Path(arguments[0]), list(arguments[1:])
    begin = float(os.environ.get(BEGIN, time.time()))
    entered = time.time()
    first_frame: list[float] = []
    _watch_first_frame(first_frame)
    from bnl_mpi import cli

    status = cli.main(words)
    note = {
        "rank": rank_here(os.environ),
        "peak_bytes": peak_bytes(),
        "entered": entered - begin,
        "first_frame": first_frame[0] - begin if first_frame else None,
        "ended": time.time() - begin,
        "cpu": time.process_time(),
    }
    (folder / f"rank_{note['rank']}.json").write_text(json.dumps(note))
    return status


def _watch_first_frame(moments: list[float]) -> None:
    """Let the first frame that a reader fetches leave the time in `moments`."""
    from bnl_mpi.input.frames import FrameReader

    fetch = FrameReader.fetch

    def watched(reader: FrameReader, *arguments: Any, **named: Any) -> Any:
        fetched = fetch(reader, *arguments, **named)
        moments.append(time.time())
        FrameReader.fetch = fetch  # type: ignore[method-assign]
        return fetched

    FrameReader.fetch = watched  # type: ignore[method-assign, assignment]


def rank_here(environment: Mapping[str, str]) -> int:
    """This process's rank as its launcher tells it; 0 without a launcher."""
    from bnl_mpi.run.launch import RANK_VARIABLES

    told = [environment[name] for name in (*RANK_VARIABLES, "SLURM_PROCID") if name in environment]
    return int(told[0]) if told else 0


def peak_bytes() -> int:
    """Peak resident memory of this process since it began its program (Linux's VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status tells no VmHWM")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
