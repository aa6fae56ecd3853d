"""Scaling on one machine of many cores, without a network: `python -m benchmarks.node --workers 1 2 4 8 15`.

Strong and weak runs of some settings, a round of all of them as often as `--seconds` allow, and beside them what the
machine gives to processes that share nothing; all in one JSON file, which the page takes over as its own section.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import independent, inputs, machine, scaling

SETTINGS = ("-b 2 -s 2 -H 16 -c bslz4", "-b 2 -s 2 -T 14 -c htj2k")
MOMENT = 0.3
"""Seconds for which a kernel is repeated, where processes that share nothing are compared."""
SIMULATED = 40
"""Different frames of the input, taken again and again."""


def measure(
    master: Path, workers: Sequence[int], settings: Sequence[str], frames: int, block: int, seconds: float, folder: Path
) -> dict[str, Any]:
    """Rounds over all settings until one more would pass `seconds`, at least one; then the machine alone."""
    begin = time.monotonic()
    laps = [scaling.Laps(scaling.Scale(master, frames, block, words=tuple(shlex.split(w)))) for w in settings]
    for lap in laps:
        # Files in the cache, libraries loaded once.
        scaling.launch(lap.scale, max(workers), min(frames, 2 * block * max(workers)), folder)
    longest, rounds = 0.0, 0
    while not rounds or time.monotonic() - begin + longest < seconds:
        since = time.monotonic()
        for lap in laps:
            lap.round(workers, folder)
        longest, rounds = max(longest, time.monotonic() - since), rounds + 1
        print(f"benchmarks.node: round {rounds} took {longest:.0f} s", file=sys.stderr, flush=True)
    alone = [row for n in workers if n > 1 for row in independent.measure(master, n, 2, MOMENT)]
    return {"rounds": rounds, "settings": [lap.found(workers) for lap in laps], "independent": alone}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write one JSON file; 0 on success, 1 where a run failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.node", description=__doc__)
    add = parser.add_argument
    add("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 15], help="numbers of workers (default 1 2 4 8 15)")
    add("--settings", nargs="+", default=list(SETTINGS), help="reductions, each as words for bnl-mpi")
    add("--detector", default="9M", help="detector of the simulated set (default 9M)")
    add("--frames", type=int, default=1800, help="frames of a strong run (default 1800)")
    add("--block", type=int, default=15, help="images a data file (default 15)")
    add("--seconds", type=float, default=330, help="begin no round that would end later (default 330)")
    add("--work", type=Path, default=Path("benchmarks/data"), help="folder of input and output")
    add("--result", type=Path, default=Path("benchmarks/results/node.json"))
    chosen = parser.parse_args(arguments)
    machine.compile_modules()
    few = inputs.simulated(chosen.work, chosen.detector, 16, min(SIMULATED, chosen.frames))
    master = inputs.multiplied(few, -(-chosen.frames // min(SIMULATED, chosen.frames)))
    workers = sorted(set(chosen.workers))
    try:
        found = measure(master, workers, chosen.settings, chosen.frames, chosen.block, chosen.seconds, chosen.work)
    except scaling.LaunchError as error:
        print(f"benchmarks.node: {error}", file=sys.stderr)
        return 1
    chosen.result.parent.mkdir(parents=True, exist_ok=True)
    record = {"machine": {**machine.describe(), "load_before": machine.load()}, "node": found}
    chosen.result.write_text(json.dumps(record, indent=1) + "\n")
    for setting in found["settings"]:
        print(setting["words"])
        print(scaling.summary_lines(setting))
    return 0


if __name__ == "__main__":
    sys.exit(main())
