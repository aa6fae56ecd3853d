"""Strong and weak scaling over workers: `python -m benchmarks.scaling --workers 1 2 4 8`.

Runs the program under a launcher (mpiexec here; `--launcher "srun -n {ranks}"` in a SLURM job), one rank for
the masters and the rest workers, and fits Amdahl's law and the universal scalability law.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import inputs, laws, machine
from benchmarks.instrumented import BEGIN
from benchmarks.timing import Spread, interleaved, ratio_of, spread_of
from bnl_mpi.run.launch import mpiexec_command

WORDS = ("-b", "2", "-s", "2", "-H", "16", "-c", "bslz4")
ROOT = Path(__file__).resolve().parent.parent


class LaunchError(Exception):
    """A run under the launcher failed; the message is its last line."""


@dataclass(frozen=True)
class Scale:
    """What to scale."""

    master: Path
    frames: int
    """Of a strong run.  A worker of a weak run has its share of the greatest number of workers'."""
    block: int
    """Images a data file."""
    launcher: str | None = None
    words: tuple[str, ...] = WORDS


@dataclass(frozen=True)
class Run:
    """One run: the program's own summary, the notes of its ranks, and what the launcher and all below it took."""

    summary: dict[str, Any]
    notes: list[dict[str, Any]]
    wall: float
    cpu: float

    @property
    def seconds(self) -> float:
        return float(self.summary["seconds"])

    @property
    def workers(self) -> list[dict[str, Any]]:
        return [note for note in self.notes if note["rank"] > 0 or len(self.notes) == 1]


def launch(scale: Scale, n_workers: int, frames: int, folder: Path) -> Run:
    """Reduce the first `frames` frames with `n_workers` workers; output and notes lie in `folder` meanwhile."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        work = Path(name)
        words = ["-i", str(scale.master), *scale.words, "-d", str(scale.block), "-N", str(frames)]
        words += ["-o", str(work / "set"), "--json", str(work / "run.json")]
        command, environment = _command(scale, n_workers + 1, [str(work), *words])
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")]).rstrip(":")
        # As where it is installed: the rounds that warm up leave bytecode.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        environment[BEGIN] = repr(time.time())
        before, begin = cpu_of_children(), time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        cpu, wall = cpu_of_children() - before, time.perf_counter() - begin
        if done.returncode:
            last = (done.stderr.strip() or "no message").splitlines()[-1]
            raise LaunchError(f"{shlex.join(command[:4])} ... ended with status {done.returncode}: {last}")
        notes = [json.loads(path.read_text()) for path in sorted(work.glob("rank_*.json"))]
        summary = json.loads((work / "run.json").read_text())
        return Run(summary, sorted(notes, key=lambda n: int(n["rank"])), wall, cpu)


def cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _command(scale: Scale, ranks: int, arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    program = [sys.executable, "-m", "benchmarks.instrumented", *arguments]
    if scale.launcher is not None:
        return [*shlex.split(scale.launcher.format(ranks=ranks)), *program], dict(os.environ)
    command, environment = mpiexec_command(ranks, [])
    return [*command[: command.index(sys.executable)], *program], environment


class Laps:
    """Strong and weak runs of one `scale`, kept by kind and number of workers."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self._runs: dict[tuple[str, int], list[Run]] = {}

    def keys(self, workers: Sequence[int]) -> list[tuple[str, int]]:
        """The runs of one round; with the most workers a weak run is the strong one."""
        return [("strong", n) for n in workers] + [("weak", n) for n in workers if n < max(workers)]

    def run(self, kind: str, n: int, most: int, folder: Path) -> float:
        """One run with `n` workers of at `most` so many; its seconds."""
        frames = self.scale.frames * n // most if kind == "weak" else self.scale.frames
        run = launch(self.scale, n, frames, folder)
        self._runs.setdefault((kind, n), []).append(run)
        return run.seconds

    def round(self, workers: Sequence[int], folder: Path) -> None:
        for kind, n in self.keys(workers):
            self.run(kind, n, max(workers), folder)

    def found(self, workers: Sequence[int], rounds: int = 0) -> dict[str, Any]:
        """What the last `rounds` rounds tell, or all."""
        kept = {key: runs[-rounds:] for key, runs in self._runs.items()}
        kept["weak", max(workers)] = kept["strong", max(workers)]
        return {
            "frames": self.scale.frames,
            "set": self.scale.master.name.removesuffix("_master.h5"),
            "words": shlex.join(self.scale.words),
            "block": self.scale.block,
            "strong": _rows("strong", workers, kept),
            "weak": _rows("weak", workers, kept),
            **_fits(workers, kept),
        }


def measure(scale: Scale, workers: Sequence[int], repeats: int, folder: Path) -> dict[str, Any]:
    """Strong and weak runs, in turn, over all numbers of workers."""
    laps, most = Laps(scale), max(workers)
    works: dict[str, Callable[[], float | None]] = {
        f"{kind} {n}": partial(laps.run, kind, n, most, folder) for kind, n in laps.keys(workers)
    }
    interleaved(works, repeats)
    return laps.found(workers, repeats)


def _rows(kind: str, workers: Sequence[int], kept: Mapping[tuple[str, int], list[Run]]) -> list[dict[str, Any]]:
    return [_row(n, kept[kind, n], kept.get((kind, 1))) for n in workers]


def _row(n: int, runs: Sequence[Run], single: Sequence[Run] | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "workers": n,
        "frames": runs[0].summary["frames"],
        "seconds": asdict(spread_of([run.seconds for run in runs])),
        "peak_bytes_rank_0": max(run.notes[0]["peak_bytes"] for run in runs),
        "peak_bytes_worker": max(note["peak_bytes"] for run in runs for note in run.workers),
        "first_frame": asdict(_over_runs(runs, "first_frame")),
        "cpu_rank_0": asdict(spread_of([run.notes[0]["cpu"] for run in runs])),
        "cpu_a_frame": asdict(spread_of([_cpu(run) / run.summary["frames"] for run in runs])),
        "ranks": _shares(runs),
    }
    if single is not None:
        rates = [run.summary["frames"] / run.seconds for run in runs]
        alone = [run.summary["frames"] / run.seconds for run in single]
        row["speed"] = asdict(ratio_of(rates, alone))
        row["speed_at_work"] = asdict(ratio_of([_at_work(r) for r in runs], [_at_work(r) for r in single]))
    return row


def _at_work(run: Run) -> float:
    """Frames a second while the workers worked: without the planning before and the masters."""
    longest = max(float(rank["busy"]) for rank in run.summary["ranks"])
    return float(run.summary["frames"]) / longest


def _over_runs(runs: Sequence[Run], name: str) -> Spread:
    """The last worker's time in each run."""
    return spread_of([max(note[name] for note in run.workers) for run in runs])


def _cpu(run: Run) -> float:
    """Seconds that the workers had a core, from the start of the program: other work on the machine adds no waits."""
    return float(sum(note["cpu"] for note in run.workers))


def _shares(runs: Sequence[Run]) -> list[dict[str, float]]:
    """Mean seconds of each worker in each stage, at work and idle."""
    by_rank: dict[int, list[dict[str, Any]]] = {}
    for run in runs:
        for rank in run.summary["ranks"]:
            by_rank.setdefault(rank["rank"], []).append(rank)
    return [
        {name: sum(row[name] for row in rows) / len(rows) for name in rows[0] if isinstance(rows[0][name], int | float)}
        for _, rows in sorted(by_rank.items())
    ]


def _fits(workers: Sequence[int], kept: Mapping[tuple[str, int], list[Run]]) -> dict[str, Any]:
    if len(workers) < 2:
        return {"amdahl": None, "scalability": None}
    seconds = {n: spread_of([run.seconds for run in kept["strong", n]]).median for n in workers}
    rates = {n: kept["strong", n][0].summary["frames"] / t for n, t in seconds.items()}
    return {"amdahl": asdict(laws.fit_amdahl(seconds)), "scalability": asdict(laws.fit_scalability(rates))}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write one JSON file; 0 on success, 1 where a run failed."""
    namespace = _parser().parse_args(arguments)
    namespace.work.mkdir(parents=True, exist_ok=True)
    machine.compile_modules()
    master = namespace.input
    per_copy = 50
    if master is None:
        copies = -(-namespace.frames // per_copy)
        master = inputs.multiplied(inputs.simulated(namespace.work, namespace.detector, 16, per_copy), copies)
    scale = Scale(master, namespace.frames, namespace.block, namespace.launcher, tuple(shlex.split(namespace.words)))
    try:
        found = measure(scale, sorted(set(namespace.workers)), namespace.repeats, namespace.work)
    except LaunchError as error:
        print(f"scaling: {error}", file=sys.stderr)
        return 1
    namespace.result.parent.mkdir(parents=True, exist_ok=True)
    record = {"machine": machine.describe(), "scaling": found}
    namespace.result.write_text(json.dumps(record, indent=1) + "\n")
    print(summary_lines(found))
    return 0


def summary_lines(found: Mapping[str, Any]) -> str:
    """A line for each number of workers, and the fits."""
    lines = []
    for kind in ("strong", "weak"):
        for row in found[kind]:
            speed = f", {row['speed']['median']:.2f} x one worker" if "speed" in row else ""
            lines.append(f"{kind} {row['workers']}: {row['seconds']['median']:.2f} s{speed}")
    if found["amdahl"]:
        lines.append(f"serial fraction {found['amdahl']['serial']:.4f}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    add = parser.add_argument
    add("--workers", type=int, nargs="+", default=[1, 2], help="numbers of workers (default 1 2)")
    add("--launcher", help="what starts the ranks, as 'srun -n {ranks}' (default: this machine's mpiexec)")
    add("--input", type=Path, help="master to reduce (default: a simulated one)")
    add("--detector", default="9M", help="detector of the simulated set (default 9M)")
    add("--frames", type=int, default=800, help="frames of a strong run (default 800)")
    add("--block", type=int, default=20, help="images a data file (default 20)")
    add("--words", default=shlex.join(WORDS), help="the reduction, as words for bnl-mpi")
    add("--repeats", type=int, default=5)
    add("--work", type=Path, default=Path("benchmarks/data"), help="folder of input and output")
    add("--result", type=Path, default=Path("benchmarks/results/scaling.json"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
