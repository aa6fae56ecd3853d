"""What the machine gives to several processes that share nothing: the limit of any program's scaling on it."""

from __future__ import annotations

import multiprocessing
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.kernels import KernelBench
from benchmarks.timing import ratio_of

ARITHMETIC, COPY = "arithmetic in the core's own cache", "copy of a frame"
SMALL_BYTES = 16384
"""Half of a common first-level cache."""


def measure(master: Path, processes: int, repeats: int, seconds: float) -> list[dict[str, Any]]:
    """A row for each kind of work: how many times as much `processes` do together as one does alone.

    The kinds are taken in turn, each alone and then together, `seconds` long.
    """
    context = multiprocessing.get_context("spawn")
    pipes, started = [], []
    for _ in range(processes):
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, master), daemon=True)
        process.start()
        pipes.append(here)
        started.append(process)
    try:
        names = pipes[0].recv()
        for pipe in pipes[1:]:
            pipe.recv()
        alone: dict[str, list[float]] = {name: [] for name in names}
        together: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(repeats):
            for name in names:
                alone[name].append(_rate(pipes[:1], name, seconds))
                together[name].append(_rate(pipes, name, seconds))
    finally:
        for process in started:
            process.terminate()
            process.join()
    return [
        {"work": name, "processes": processes, "speed": asdict(ratio_of(together[name], alone[name]))} for name in names
    ]


def _rate(pipes: list[Connection], name: str, seconds: float) -> float:
    for pipe in pipes:
        pipe.send((name, seconds))
    return float(sum(pipe.recv() for pipe in pipes))


def _serve(pipe: Connection, master: Path) -> None:
    """A process: tells its kinds of work, then for each wish how often a second it did that work."""
    works = _works(master)
    for work in works.values():
        work()
    pipe.send(list(works))
    while True:
        name, seconds = pipe.recv()
        begin, n = time.perf_counter(), 0
        while (spent := time.perf_counter() - begin) < seconds:
            works[name]()
            n += 1
        pipe.send(n / spent)


def _works(master: Path) -> dict[str, Callable[[], Any]]:
    kernels, small = KernelBench(master).works(), bytes(SMALL_BYTES)
    chosen = [name for name in kernels if name.startswith(("image of", "hcompress", "bslz4_encode", COPY))]
    return {ARITHMETIC: lambda: [zlib.crc32(small) for _ in range(100)]} | {name: kernels[name][0] for name in chosen}
