"""Many small data sets against the same frames as one: `python -m benchmarks.archive --sets 1000 --frames 20`.

The sets are hard links to one simulated set, each in a folder of its own.  `bnl-mpi archive` reduces them with `-p N`,
and the one set of as many frames is reduced on as many workers; rounds of both in turn.  Meanwhile memory and
descriptors of all processes are watched, which must not grow from set to set.  What a set costs besides its frames is
then timed part by part in this process.  All goes into one JSON file, which the page takes over as its own section.
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

from benchmarks import inputs, machine
from benchmarks.timing import ratio_of, spread_of

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


def linked(master: Path, folder: Path, sets: int) -> Path:
    """A folder of `sets` sets that are hard links to one; made unless it is there."""
    files = [master, *master.parent.glob(master.name.replace("_master.h5", "_data_*.h5"))]
    for number in range(sets):
        place = folder / f"{number:04d}"
        place.mkdir(parents=True, exist_ok=True)
        for path in files:
            if not (place / path.name).exists():
                os.link(path, place / path.name)
    return folder


def run(words: Sequence[str], *, watched: bool = False) -> Run:
    """Run `bnl-mpi` with these words, and look at its processes meanwhile if they are `watched`."""
    token = f"{os.getpid()}-{time.monotonic_ns()}"
    command = [sys.executable, "-m", "bnl_mpi", *words]
    found, begin = Run(0.0, 0.0), time.monotonic()
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(command, env=os.environ | {TOKEN: token}, stdout=subprocess.DEVNULL, stderr=errors)
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


def measure(
    short: Path, sets: int, settings: Sequence[str], workers: int, rounds: int, folder: Path
) -> list[dict[str, Any]]:
    """A row for each of the settings: seconds and processor seconds of `sets` sets and of one, and what grew."""
    frames = int(short.name.split("_")[3])
    raw = linked(short, folder / f"many_{short.name.removesuffix('_master.h5')}_{sets}", sets)
    longer = inputs.multiplied(short, sets)
    rows = []
    for words in settings:
        many: list[Run] = []
        one: list[Run] = []
        for _ in range(rounds):
            many.append(_fresh(["archive", str(raw), "--to"], folder / "many_out", words, workers))
            one.append(_fresh(["-i", str(longer), "-o"], folder / "one_out", words, workers))
        masters = sorted(raw.glob("*/*_master.h5"))[: MEASURED + 1]
        rows.append(
            {
                "words": words,
                "sets": sets,
                "frames": frames,
                "workers": workers,
                **{f"{name}_seconds": asdict(spread_of([r.seconds for r in runs])) for name, runs in _named(many, one)},
                **{f"{name}_cpu": asdict(spread_of([r.cpu for r in runs])) for name, runs in _named(many, one)},
                "ratio": asdict(ratio_of([r.seconds for r in many], [r.seconds for r in one])),
                "cpu_ratio": asdict(ratio_of([r.cpu for r in many], [r.cpu for r in one])),
                "cpu_a_set": statistics.median((a.cpu - b.cpu) / sets for a, b in zip(many, one, strict=True)),
                "memory_growth": max(r.growth(0) for r in many),
                "memory": max(r.greatest(0) for r in many),
                "descriptors": max(r.greatest(1) for r in many),
                "descriptors_growth": max(r.growth(1) for r in many),
                "parts": parts_of_a_set(masters, words, folder / "parts_out"),
            }
        )
        print(f"benchmarks.archive: {_line(rows[-1])}", file=sys.stderr, flush=True)
    return rows


def _named(many: list[Run], one: list[Run]) -> list[tuple[str, list[Run]]]:
    return [("many", many), ("one", one)]


def _fresh(words: Sequence[str], to: Path, settings: str, workers: int) -> Run:
    """A run into a folder that is empty before and gone afterwards."""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    is_archive = words[0] == "archive"
    where = to if is_archive else to / "set"
    try:
        return run([*words, str(where), *settings.split(), "-p", str(workers)], watched=is_archive)
    finally:
        shutil.rmtree(to, ignore_errors=True)


def _line(row: Mapping[str, Any]) -> str:
    parts = ", ".join(f"{name} {told['median'] * 1e3:.1f}" for name, told in row["parts"].items())
    return (
        f"{row['words']}: {row['sets']} sets of {row['frames']} frames take {row['ratio']['median']:.2f} times one set "
        f"({row['cpu_ratio']['median']:.2f} of the processors' time); ms a set: {parts}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write one JSON file; 0 on success, 1 where a run failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.archive", description=__doc__)
    add = parser.add_argument
    add("--sets", type=int, default=1000, help="how many (default 1000)")
    add("--frames", type=int, nargs="+", default=[20, 100], help="frames of a set (default 20 100)")
    add("--settings", nargs="+", default=list(SETTINGS), help="reductions, each as words for bnl-mpi")
    add("--detector", default="500k", help="detector of the simulated set (default 500k)")
    add("--workers", type=int, default=2, help="processes of the archive, workers of the one set (default 2)")
    add("--rounds", type=int, default=3, help="runs of each (default 3)")
    add("--quick", action="store_true", help="few sets, to see that all of it runs")
    add("--work", type=Path, default=Path("benchmarks/data"), help="folder of input and output")
    add("--result", type=Path, default=Path("benchmarks/results/archive.json"))
    chosen = parser.parse_args(arguments)
    sets, rounds = (4, 1) if chosen.quick else (chosen.sets, chosen.rounds)
    frames = [4] if chosen.quick else chosen.frames
    load, rows = machine.load(), []
    try:
        for n in frames:
            short = inputs.simulated(chosen.work, chosen.detector, 16, n)
            rows += measure(short, sets, chosen.settings, chosen.workers, rounds, chosen.work)
    except RunError as error:
        print(f"benchmarks.archive: {error}", file=sys.stderr)
        return 1
    chosen.result.parent.mkdir(parents=True, exist_ok=True)
    record = {"machine": {**machine.describe(), "load_before": load}, "archive": rows}
    chosen.result.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
