"""Short jobs, which are mostly start: whole programs over 24 frames, alone and under mpiexec with one worker."""

from __future__ import annotations

import os
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.scaling import Scale, launch
from benchmarks.timing import interleaved, spread_of

FRAMES = 24
IMPORTS = "import numpy, h5py"


@dataclass
class Job:
    """Whole programs, one a call, which returns the seconds from the start to the end of the last process."""

    scale: Scale
    workers: int
    folder: Path
    cpu: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        run = launch(self.scale, self.workers, self.scale.frames, self.folder)
        self.cpu.append(run.cpu)
        self.first.append(max(note["first_frame"] for note in run.workers))
        return run.wall

    def found(self, seconds: Sequence[float]) -> dict[str, Any]:
        """Of the last calls, as many as there are `seconds`."""
        last = -len(seconds)
        told = {"wall": seconds, "cpu": self.cpu[last:], "first_frame": self.first[last:]}
        return {name: asdict(spread_of(values)) for name, values in told.items()}


def measure(masters: Sequence[tuple[Path, int]], words: str, repeats: int, folder: Path) -> dict[str, Any]:
    """For each set, (master, its frames): alone and with a worker; and what the libraries take by themselves.

    `cpu` is the seconds of a core of all processes, `wall` and `first_frame` begin before the first one starts.
    """
    return {
        "words": words,
        "imports": {"statement": IMPORTS, **_imports(repeats)},
        "sets": [_of_set(master, frames, words, repeats, folder) for master, frames in masters],
    }


def _of_set(master: Path, frames: int, words: str, repeats: int, folder: Path) -> dict[str, Any]:
    given = tuple(shlex.split(words))
    # `env` starts one process, as a shell does.
    works = {
        "alone": Job(Scale(master, frames, frames, launcher="env", words=given), 0, folder),
        "mpiexec": Job(Scale(master, frames, frames, words=given), 1, folder),
    }
    seconds = interleaved(works, repeats)
    return {
        "set": master.name.removesuffix("_master.h5"),
        "frames": frames,
        **{name: works[name].found(seconds[name]) for name in works},
    }


def _imports(repeats: int) -> dict[str, Any]:
    cpu, wall = [], []
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    for _ in range(repeats):
        before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([sys.executable, "-c", IMPORTS], check=True, env=environment)
        wall.append(time.perf_counter() - begin)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {"wall": asdict(spread_of(wall)), "cpu": asdict(spread_of(cpu))}
