"""The speed benchmarks as a whole: sizes, sections, results."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import (
    calls,
    independent,
    inputs,
    keeping,
    kernels,
    machine,
    many_ranks,
    memory,
    reductions,
    scaling,
    starting,
    verifying,
    waiting,
)

WORDS = "-b 2 -s 2 -H 16 -c bslz4"


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    sets: tuple[tuple[str, int], ...]
    """(detector, bits) of the sets that stages are measured on."""
    frames: int
    """Of each of these."""
    detector: str
    """For settings and scaling."""
    detector_frames: int
    copies: int
    """A strong run has this many times `detector_frames`."""
    fill: int
    """Times `detector_frames`, for settings: that two summed frames each fill a data file, as long as by default."""
    repeats: int
    scaling_repeats: int
    workers: tuple[int, ...]
    many: tuple[int, ...]
    """Numbers of workers to look at growth with."""
    block: int
    """Images a data file while scaling."""
    moment: float
    """Seconds for which a kernel is repeated, where processes that share nothing are compared."""
    verified: tuple[tuple[str, int], ...]
    """(detector, frames) of the sets that are verified."""
    short: tuple[tuple[str, int], ...]
    """(detector, frames) of short jobs."""


DETECTORS = ("1M", "4M", "9M", "16M")
_VERIFIED = (("4M", 200), ("9M", 200))
_SHORT = tuple((d, starting.FRAMES) for d in ("500k", "1M", "9M"))
FULL = Sizes(
    tuple((d, b) for d in DETECTORS for b in (16, 32)),
    10,
    "9M",
    40,
    60,
    5,
    5,
    3,
    (1, 2),
    (2, 8, 64),
    25,
    0.5,
    _VERIFIED,
    _SHORT,
)
QUICK = Sizes((("500k", 16),), 4, "500k", 4, 5, 2, 2, 1, (1, 2), (2, 3), 1, 0.02, (("500k", 8),), (("500k", 4),))

Section = Callable[[Sizes, Path], Any]


def _kernels(sizes: Sizes, work: Path) -> Any:
    return kernels.measure(_set(sizes, work), 3 * sizes.repeats)


def _stages(sizes: Sizes, work: Path) -> Any:
    masters = [inputs.simulated(work, detector, bits, sizes.frames) for detector, bits in sizes.sets]
    return [reductions.measure_stages(master, work, sizes.repeats) for master in masters]


def _settings(sizes: Sizes, work: Path) -> Any:
    master = inputs.multiplied(_set(sizes, work), sizes.fill)
    return reductions.measure_settings(master, work, reductions.SETTINGS, sizes.repeats)


def _keeping(sizes: Sizes, work: Path) -> Any:
    return keeping.measure(_set(sizes, work), work, keeping.SETTINGS, sizes.repeats)


def _memory(sizes: Sizes, work: Path) -> Any:
    detector, bits = sizes.sets[-1]
    return memory.measure([inputs.simulated(work, detector, bits, sizes.frames), _set(sizes, work)], sizes.frames, work)


def _scaling(sizes: Sizes, work: Path) -> Any:
    frames = sizes.detector_frames * sizes.copies
    master = inputs.multiplied(_set(sizes, work), sizes.copies)
    scale = scaling.Scale(master, frames, sizes.block)
    found = scaling.measure(scale, sizes.workers, sizes.scaling_repeats, work)
    repeats = 3 * sizes.scaling_repeats
    alone = independent.measure(_set(sizes, work), max(sizes.workers), repeats, sizes.moment)
    return {**found, "independent": alone}


def _starting(sizes: Sizes, work: Path) -> Any:
    masters = [(inputs.simulated(work, d, 16, n), n) for d, n in sizes.short]
    return starting.measure(masters, WORDS, 2 * sizes.repeats, work)


def _waiting(sizes: Sizes, work: Path) -> Any:
    return waiting.measure(_set(sizes, work), work, max(2, sizes.repeats // 2))


def _verifying(sizes: Sizes, work: Path) -> Any:
    stored = [(inputs.simulated(work, detector, 16, sizes.frames), n) for detector, n in sizes.verified]
    masters = [(inputs.multiplied(master, n // sizes.frames), n) for master, n in stored]
    return verifying.measure(masters, work, sizes.repeats)


def _small(sizes: Sizes, work: Path) -> Path:
    """A set of many small files."""
    return inputs.multiplied(inputs.simulated(work, "500k", 16, 4), max(20, *sizes.many))


def _calls(sizes: Sizes, work: Path) -> Any:
    return calls.measure(_small(sizes, work), WORDS, work) if calls.available() else None


def _many_ranks(sizes: Sizes, work: Path) -> Any:
    return many_ranks.measure(_small(sizes, work), sizes.many, work, WORDS)


def _set(sizes: Sizes, work: Path) -> Path:
    return inputs.simulated(work, sizes.detector, 16, sizes.detector_frames)


SECTIONS: dict[str, Section] = {
    "kernels": _kernels,
    "stages": _stages,
    "settings": _settings,
    "keeping": _keeping,
    "memory": _memory,
    "scaling": _scaling,
    "starting": _starting,
    "waiting": _waiting,
    "verifying": _verifying,
    "calls": _calls,
    "many_ranks": _many_ranks,
}


def measure(sizes: Sizes, work: Path, results: Path, wanted: list[str]) -> None:
    """Measure the `wanted` sections and write results/SECTION.json for each, as soon as it is done."""
    work.mkdir(parents=True, exist_ok=True)
    results.mkdir(parents=True, exist_ok=True)
    machine.compile_modules()
    for name in wanted:
        before = machine.load()
        print(f"benchmarks: {name} (load {before:.1f})", file=sys.stderr, flush=True)
        found = SECTIONS[name](sizes, work)
        record = {"machine": {**machine.describe(), "load_before": before}, name: found}
        (results / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")


ALONE = ("node", "archive", "original")
"""Measured by commands of their own, where and when these are run."""


def read_results(results: Path) -> dict[str, Any]:
    """What the sections found, by name, and under "machine" that of each; only what was run."""
    found: dict[str, Any] = {"machine": {}}
    for name in (*SECTIONS, *ALONE):
        path = results / f"{name}.json"
        if path.exists():
            record = json.loads(path.read_text())
            found[name], found["machine"][name] = record[name], record["machine"]
    return found
