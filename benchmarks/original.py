"""Whole programs beside the one that this is made after: `python -m benchmarks.original PATH/l_bnl_compress.py`.

That script is no part of this project. Who has it, in one version or several, and a Python with the packages that it
imports (`--python`), can repeat this: short jobs in turn, the original's and ours, and a look at the pixels of both.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import inputs, machine
from benchmarks.scaling import LaunchError, Scale, cpu_of_children
from benchmarks.starting import FRAMES, Job
from benchmarks.timing import interleaved, ratio_of, spread_of
from bnl_mpi.hdf5.access import open_read

SETTINGS = ("-b 2 -s 2 -H 16 -c bslz4", "-b 2 -s 2 -J 120 -c bslz4", "-b 2 -s 2 -c bslz4")
"""Of the options that the two share."""
DETECTORS = ("9M", "1M")
Images = npt.NDArray[np.uint16]


@dataclass
class Original:
    """One program of the original's: each call returns the seconds from its start to its end."""

    command: Sequence[str]
    master: Path
    frames: int
    words: str
    folder: Path
    cpu: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            before, begin = cpu_of_children(), time.perf_counter()
            _reduce(self.command, self.master, self.frames, self.words, Path(name))
            wall = time.perf_counter() - begin
            self.cpu.append(cpu_of_children() - before)
            return wall


def _reduce(command: Sequence[str], master: Path, frames: int, words: str, work: Path) -> Path:
    """Run a program to its end, in `work`, where its output lies too; the path of its one data file."""
    given = ["-i", str(master.absolute()), "-1", "1", "-N", str(frames), "-d", str(frames), *shlex.split(words)]
    done = subprocess.run([*command, *given, "-o", "set"], cwd=work, capture_output=True, text=True, check=False)
    path = work / "set_000001.h5"
    if done.returncode or not path.exists():
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise LaunchError(f"{shlex.join(command)} ended with status {done.returncode}: {last}")
    return path


def measure(
    script: Path, python: str, sets: Sequence[tuple[Path, int]], settings: Sequence[str], repeats: int, folder: Path
) -> dict[str, Any]:
    """For each set, (master, its frames), and setting: the script by that Python, ours alone, ours with a worker."""
    text = script.read_bytes()
    version = re.search(rb"""^version\s*=\s*["']([^"']+)["']""", text, re.MULTILINE)
    return {
        "version": None if version is None else version[1].decode(),
        "sha256": hashlib.sha256(text).hexdigest(),
        "rows": [
            _row([python, str(script.absolute())], master, frames, words, repeats, folder)
            for master, frames in sets
            for words in settings
        ],
    }


def _row(command: Sequence[str], master: Path, frames: int, words: str, repeats: int, folder: Path) -> dict[str, Any]:
    given = tuple(shlex.split(words))
    theirs = Original(command, master, frames, words, folder)
    # `env` starts one process, as a shell does.
    alone = Job(Scale(master, frames, frames, launcher="env", words=given), 0, folder)
    worker = Job(Scale(master, frames, frames, words=given), 1, folder)
    # This warms up too: files in the cache, libraries loaded once.
    pixels = _compared(command, master, frames, words, folder)
    wall = interleaved({"original": theirs, "alone": alone, "mpiexec": worker}, repeats, warm_ups=0)
    cpu = {"original": theirs.cpu, "alone": alone.cpu, "mpiexec": worker.cpu}
    row: dict[str, Any] = {"set": master.name.removesuffix("_master.h5"), "frames": frames, "words": words}
    for name in wall:
        row[name] = {"wall": asdict(spread_of(wall[name])), "cpu": asdict(spread_of(cpu[name]))}
    row["times"] = {
        "wall": asdict(ratio_of(wall["original"], wall["alone"])),
        "cpu": asdict(ratio_of(cpu["original"], cpu["alone"])),
        "worker": asdict(ratio_of(wall["original"], wall["mpiexec"])),
    }
    return {**row, "pixels": pixels}


def _compared(command: Sequence[str], master: Path, frames: int, words: str, folder: Path) -> dict[str, int]:
    found = []
    for program in (command, [sys.executable, "-m", "bnl_mpi"]):
        with tempfile.TemporaryDirectory(dir=folder) as name:
            found.append(_images(_reduce(program, master, frames, words, Path(name))))
    return differences(*found)


def _images(path: Path) -> Images:
    import hdf5plugin  # noqa: F401  (its filters)

    with open_read(str(path)) as file:
        images: Images = file["entry/data/data"][()]
    return images


def differences(theirs: Images, ours: Images) -> dict[str, int]:
    """Of the pixels that ours doesn't mark as invalid: how many, how many differ, and by how much at most."""
    valid = ours != np.iinfo(ours.dtype).max
    apart = np.abs(theirs[valid].astype(np.int64) - ours[valid])
    return {"valid": int(valid.sum()), "differ": int(np.count_nonzero(apart)), "most": int(apart.max(initial=0))}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write one JSON file; 0 on success, 1 where a run failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.original", description=__doc__)
    add = parser.add_argument
    add("scripts", type=Path, nargs="+", help="l_bnl_compress.py, one version or several")
    add("--python", default=sys.executable, help="a Python with the packages that it imports (default: this one)")
    add("--settings", nargs="+", default=list(SETTINGS), help="reductions, as words that both programs understand")
    add(
        "--detectors", nargs="+", default=list(DETECTORS), help=f"of the simulated sets (default {' '.join(DETECTORS)})"
    )
    add("--frames", type=int, default=FRAMES, help=f"of each set (default {FRAMES})")
    add("--repeats", type=int, default=5)
    add("--work", type=Path, default=Path("benchmarks/data"), help="folder of input and output")
    add("--result", type=Path, default=Path("benchmarks/results/original.json"))
    chosen = parser.parse_args(arguments)
    sets = [(inputs.simulated(chosen.work, d, 16, chosen.frames), chosen.frames) for d in chosen.detectors]
    machine.compile_modules()
    before = machine.load()
    try:
        found = [
            measure(script, chosen.python, sets, chosen.settings, chosen.repeats, chosen.work)
            for script in chosen.scripts
        ]
    except (LaunchError, OSError) as error:
        print(f"benchmarks.original: {error}", file=sys.stderr)
        return 1
    chosen.result.parent.mkdir(parents=True, exist_ok=True)
    record = {"machine": {**machine.describe(), "load_before": before}, "original": found}
    chosen.result.write_text(json.dumps(record, indent=1) + "\n")
    for row in (row for one in found for row in one["rows"]):
        times = {name: spread["median"] for name, spread in row["times"].items()}
        print(f"{row['set']} {row['words']}: {times['wall']:.1f} x ours, {times['cpu']:.1f} x by CPU; {row['pixels']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
