"""bnl-mpi as its users run it, with a note from each rank of its peak memory and its first frame's time.

Started by a launcher as `python -m benchmarks.instrumented FOLDER WORDS...`; the notes go to FOLDER.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

BEGIN = "BNL_BENCHMARK_BEGIN"
"""Environment: `time.time()` just before the launcher was started."""


def main(arguments: Sequence[str]) -> int:
    """Run the command line and leave FOLDER/rank_N.json behind; returns the command's status."""
    folder = Path(arguments[0])
    begin = float(os.environ.get(BEGIN, time.time()))
    entered = time.time()
    first_frame: list[float] = []
    sys.meta_path.insert(0, _Watch(first_frame))
    from bnl_mpi import cli

    # As its own console script calls it.
    sys.argv = ["bnl-mpi", *arguments[1:]]
    status = cli.main()
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


class _Watch(MetaPathFinder):
    """Lets the first frame that a reader fetches leave the time in `moments`, and imports nothing for that."""

    def __init__(self, moments: list[float]) -> None:
        self._moments = moments

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name != "bnl_mpi.input.frames":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        assert spec is not None
        assert spec.loader is not None
        load = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            load(module)
            _watch_first_frame(module.FrameReader, self._moments)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _watch_first_frame(reader: Any, moments: list[float]) -> None:
    fetch = reader.fetch

    def watched(*arguments: Any, **named: Any) -> Any:
        fetched = fetch(*arguments, **named)
        moments.append(time.time())
        reader.fetch = fetch
        return fetched

    reader.fetch = watched


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
    from bnl_mpi import cli

    cli.end(main(sys.argv[1:]))
