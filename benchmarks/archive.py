"""Many small data sets against the same frames as one: `python -m benchmarks.archive --sets 1000 --frames 20`.

The sets are of one simulated set: data files are hard links to its own, masters differ as a detector's do from set to
set, in names and dates, or (`--angles`) in the angle at which they begin too.  `bnl-mpi archive` reduces them with
`-p N`, and on N + 1 ranks of MPI; the one set of as many frames is reduced on as many workers; rounds of all in turn.
Meanwhile memory and descriptors of all processes are watched, which must not grow from set to set.  What a set costs
besides its frames is then timed part by part in this process.  All goes into one JSON file, which the page takes over
as its own section.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import inputs, machine
from benchmarks.timing import ratio_of, spread_of
from bnl_mpi.run.launch import mpiexec_command

SETTINGS = ("-b 2 -s 2 -H 16 -c bslz4", "-b 1 -s 1 -c bslz4")
TOKEN = "BNL_MPI_MANY"
"""In the environment of all processes of a run: by it they are found."""
LOOK_SECONDS = 0.2
MEASURED = 12
"""Sets of which the parts are timed."""


class RunError(Exception):
    """A run failed; the message is its last line."""


@dataclass
class Run:
    """One run of the program, with all its processes."""

    seconds: float
    cpu: float
    """Seconds of all processes, user and system."""
    seen: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    """By process: (bytes held, descriptors), one after the other."""

    def growth(self, which: int) -> float:
        """The most of a process in the last quarter of its time, by the most in the second; of all that lived on."""
        found = []
        for told in self.seen.values():
            values, quarter = [one[which] for one in told], len(told) // 4
            if quarter:
                found.append(max(values[-quarter:]) / max(values[quarter : 2 * quarter]))
        return max(found, default=1.0)

    def greatest(self, which: int) -> int:
        return max((one[which] for told in self.seen.values() for one in told), default=0)


DATE = "entry/instrument/detector/detectorSpecific/data_collection_date"
ANGLES = ("omega", "omega_end", "omega_start")


def neighbours(master: Path, folder: Path, sets: int, *, angles: bool = False) -> Path:
    """A folder of `sets` sets of the frames of one, each with its own name and date; made unless it is there."""
    import h5py

    data = master.with_name(master.name.replace("_master.h5", "_data_000001.h5"))
    for number in range(sets):
        place = folder / f"{number:04d}"
        place.mkdir(parents=True, exist_ok=True)
        made, name = place / f"set_{number:04d}_master.h5", f"set_{number:04d}_data_000001.h5"
        if made.exists():
            continue
        os.link(data, place / name)
        shutil.copy(master, made)
        with h5py.File(made, "r+", locking=False) as h5:
            h5[DATE][...] = np.bytes_(
                f"2020-01-01T{number // 3600:02d}:{number // 60 % 60:02d}:{number % 60:02d}.000000"
            )
            del h5["entry/data/data_000001"]
            h5["entry/data/data_000001"] = h5py.ExternalLink(name, "/entry/data/data")
            goniometer = h5["entry/sample/goniometer"]
            for axis in ANGLES if angles else ():
                if axis in goniometer:
                    goniometer[axis][...] = goniometer[axis][...] + np.float32(number % 360)
    return folder


def run(words: Sequence[str], *, watched: bool = False, ranks: int | None = None) -> Run:
    """Run `bnl-mpi` with these words, on `ranks` of MPI if they are given, and look at its processes if `watched`."""
    token = f"{os.getpid()}-{time.monotonic_ns()}"
    command, environment = [sys.executable, "-m", "bnl_mpi", *words], dict(os.environ)
    if ranks is not None:
        command, environment = mpiexec_command(ranks, words)
    found, begin = Run(0.0, 0.0), time.monotonic()
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(command, env=environment | {TOKEN: token}, stdout=subprocess.DEVNULL, stderr=errors)
        while (ended := os.wait4(child.pid, os.WNOHANG))[0] == 0:
            for pid in _processes(token) if watched else ():
                with contextlib.suppress(OSError, KeyError, ValueError):
                    found.seen.setdefault(pid, []).append(_held(pid))
            time.sleep(LOOK_SECONDS)
        _, status, usage = ended
        child.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        told = errors.read().splitlines() or ["it says nothing"]
    found.seconds, found.cpu = time.monotonic() - begin, usage.ru_utime + usage.ru_stime
    if child.returncode:
        raise RunError(f"{shlex.join(command)}: {told[-1]}")
    return found


def _processes(token: str) -> Iterator[int]:
    word = f"{TOKEN}={token}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name)


def _held(pid: int) -> tuple[int, int]:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return int(status["VmRSS"].split()[0]) * 1024, len(os.listdir(f"/proc/{pid}/fd"))


# ---- what a set costs besides its frames ------------------------------------------------------------------


@contextlib.contextmanager
def _timed(spent: dict[str, float], parts: Mapping[str, tuple[Any, str]]) -> Iterator[None]:
    """Within, the processor's seconds in each part, a function of a module or class, are added up in `spent`."""
    before = {name: getattr(place, function) for name, (place, function) in parts.items()}

    def wrapped(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            begin = time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                spent[name] = spent.get(name, 0.0) + time.process_time() - begin

        return timed

    for name, (place, function) in parts.items():
        setattr(place, function, wrapped(name, before[name]))
    try:
        yield
    finally:
        for name, (place, function) in parts.items():
            setattr(place, function, before[name])


def parts_of_a_set(masters: Sequence[Path], settings: str, to: Path) -> dict[str, dict[str, float]]:
    """Processor seconds of each part of a set, over `masters`; the first of them only warms up."""
    from bnl_mpi.archive import facts, stages
    from bnl_mpi.archive.state import DONE, Entry
    from bnl_mpi.hdf5.memory import Memory
    from bnl_mpi.run.signals import StopRequest
    from bnl_mpi.run.world import World
    from bnl_mpi.tasks import images, reduction

    parts: dict[str, tuple[Any, str]] = {
        "facts": (facts, "read_facts"),
        "plan": (reduction.ReductionTask, "prepare"),
        "frames": (images.ImageMaker, "_make_images"),
        "data file": (images.ImageMaker, "make"),
        "masters": (reduction, "write_masters"),
        "check": (stages, "_check"),
    }
    rows: list[dict[str, float]] = []
    memory = Memory()
    for number, master in enumerate(masters):
        spent: dict[str, float] = {}
        work = stages.Work(Entry(f"set{number}", str(master), words=tuple(settings.split())), str(to), False)
        begin = time.process_time()
        with _timed(spent, parts):
            facts.read_facts(str(master), memory=memory)
            entry = stages.do(work, World(None), StopRequest(), lambda entry: None)
        whole = time.process_time() - begin
        if entry is None or entry.stage != DONE:
            raise RunError(f"{master}: {entry and entry.reason}")
        spent["data file"] -= spent["frames"]
        spent["all else"] = whole - sum(spent.values())
        spent["besides frames"] = whole - spent["frames"]
        rows.append(spent)
    shutil.rmtree(to)
    return {name: asdict(spread_of([row[name] for row in rows[1:]])) for name in rows[0]}


# ---- both together ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sets:
    """What is reduced."""

    master: Path
    """Of the simulated set that all are of."""
    detector: str
    frames: int
    sets: int
    angles: bool
    """Whether each begins at another angle."""


def measure(one: Sets, settings: Sequence[str], workers: int, rounds: int, folder: Path) -> Iterator[dict[str, Any]]:
    """For each of the settings a row with processes and one with ranks: seconds and processor seconds of many sets and
    of one, and what grew."""
    kind = f"{one.detector}_{one.frames}_{one.sets}{'_angles' * one.angles}"
    raw = neighbours(one.master, folder / f"many_{kind}", one.sets, angles=one.angles)
    longer = inputs.multiplied(one.master, one.sets)
    masters = sorted(raw.glob("*/*_master.h5"))[: MEASURED + 1]
    for words in settings:
        many: dict[str, list[Run]] = {"processes": [], "ranks": []}
        single: list[Run] = []
        for _ in range(rounds):
            for how, runs in many.items():
                ranks = workers + 1 if how == "ranks" else None
                runs.append(_fresh(["archive", str(raw), "--to"], folder / "many_out", words, workers, ranks))
            single.append(_fresh(["-i", str(longer), "-o"], folder / "one_out", words, workers))
        parts = parts_of_a_set(masters, words, folder / "parts_out")
        about = {
            "words": words,
            "detector": one.detector,
            "sets": one.sets,
            "frames": one.frames,
            "angles": one.angles,
            "workers": workers,
        }
        for how, runs in many.items():
            row = {**about, "how": how, **_figures(runs, single, one.sets), "parts": parts}
            print(f"benchmarks.archive: {_line(row)}", file=sys.stderr, flush=True)
            yield row


def _figures(many: list[Run], one: list[Run], sets: int) -> dict[str, Any]:
    named = (("many", many), ("one", one))
    return {
        **{f"{name}_seconds": asdict(spread_of([r.seconds for r in runs])) for name, runs in named},
        **{f"{name}_cpu": asdict(spread_of([r.cpu for r in runs])) for name, runs in named},
        "ratio": asdict(ratio_of([r.seconds for r in many], [r.seconds for r in one])),
        "cpu_ratio": asdict(ratio_of([r.cpu for r in many], [r.cpu for r in one])),
        "cpu_a_set": statistics.median((a.cpu - b.cpu) / sets for a, b in zip(many, one, strict=True)),
        "memory_growth": max(r.growth(0) for r in many),
        "memory": max(r.greatest(0) for r in many),
        "descriptors": max(r.greatest(1) for r in many),
        "descriptors_growth": max(r.growth(1) for r in many),
    }


def _fresh(words: Sequence[str], to: Path, settings: str, workers: int, ranks: int | None = None) -> Run:
    """A run into a folder that is empty before and gone afterwards."""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    is_archive = words[0] == "archive"
    where = to if is_archive else to / "set"
    how = [] if ranks is not None else ["-p", str(workers)]
    try:
        return run([*words, str(where), *settings.split(), *how], watched=is_archive, ranks=ranks)
    finally:
        shutil.rmtree(to, ignore_errors=True)


def _line(row: Mapping[str, Any]) -> str:
    parts = ", ".join(f"{name} {told['median'] * 1e3:.1f}" for name, told in row["parts"].items())
    return (
        f"{row['detector']} {row['words']} ({row['how']}): {row['sets']} sets of {row['frames']} frames take "
        f"{row['ratio']['median']:.2f} times one set "
        f"({row['cpu_ratio']['median']:.2f} of the processors' time); ms a set: {parts}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write one JSON file; 0 on success, 1 where a run failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.archive", description=__doc__)
    add = parser.add_argument
    add("--sets", type=int, default=1000, help="how many (default 1000)")
    add("--frames", type=int, nargs="+", default=[20, 100], help="frames of a set (default 20 100)")
    add("--settings", nargs="+", default=list(SETTINGS), help="reductions, each as words for bnl-mpi")
    add("--detectors", nargs="+", default=["500k", "1M"], help="of the simulated sets (default 500k 1M)")
    add("--angles", action="store_true", help="let each set begin at another angle")
    add("--workers", type=int, default=2, help="processes of the archive, workers of the one set (default 2)")
    add("--rounds", type=int, default=3, help="runs of each (default 3)")
    add("--quick", action="store_true", help="few sets, to see that all of it runs")
    add("--work", type=Path, default=Path("benchmarks/data"), help="folder of input and output")
    add("--result", type=Path, default=Path("benchmarks/results/archive.json"))
    chosen = parser.parse_args(arguments)
    sets, rounds = (4, 1) if chosen.quick else (chosen.sets, chosen.rounds)
    kinds = [(d, n) for d in chosen.detectors for n in chosen.frames]
    kinds = [(chosen.detectors[0], 4)] if chosen.quick else kinds
    machine.compile_modules()
    load = machine.load()
    rows: list[dict[str, Any]] = []
    try:
        for detector, n in kinds:
            short = inputs.simulated(chosen.work, detector, 16, n)
            one = Sets(short, detector, n, sets, chosen.angles)
            rows += measure(one, chosen.settings, chosen.workers, rounds, chosen.work)
    except RunError as error:
        print(f"benchmarks.archive: {error}", file=sys.stderr)
        return 1
    chosen.result.parent.mkdir(parents=True, exist_ok=True)
    record = {"machine": {**machine.describe(), "load_before": load}, "archive": rows}
    chosen.result.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
