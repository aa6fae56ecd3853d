"""The page's section on many small data sets, of what `benchmarks.archive` measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Found = Mapping[str, Any]

BOUND = 1.3
"""Times the same frames as one set: the aim."""
PARTS = ("facts", "plan", "data file", "masters", "check", "all else", "besides frames", "frames")


def section(rows: Sequence[Found], machine: Found, table: Callable[..., str], figure: Callable[..., str]) -> str:
    """As Markdown; `table` and `figure` as the page makes them elsewhere."""
    return "\n".join(
        [
            "## Many small data sets\n\n`bnl-mpi archive` over sets of the same frames, which differ in names and "
            "dates, against the one set of as many frames on as many workers "
            f"({rows[0]['workers']}); the aim is {BOUND} times. 1-minute load at the start "
            f"{machine['load_before']:.1f}; {machine['date']} UTC. `python -m benchmarks.archive`.\n",
            table(_HEADER, [_cells(row, figure) for row in rows]),
            "Processor milliseconds of one set in one process, part by part: *facts* is what rules and dealing need to "
            "know, *data file* all of it but its images.\n",
            table(
                ["setting", "detector", "frames", *PARTS], [_parts(row) for row in rows if row["how"] == "processes"]
            ),
        ]
    )


HOW = {"processes": "-p", "ranks": "mpiexec"}
_HEADER = (
    "setting",
    "detector",
    "sets",
    "frames a set",
    "by",
    "x one set, s",
    "x one set, CPU s",
    "CPU ms a set more",
    "MB",
    "growth",
)


def _cells(row: Found, figure: Callable[..., str]) -> list[str]:
    growth = max(row["memory_growth"], row["descriptors_growth"])
    return [
        f"`{row['words']}`",
        row["detector"] + ", own angles" * row["angles"],
        str(row["sets"]),
        str(row["frames"]),
        f"`{HOW[row['how']]}`",
        figure(row["ratio"]),
        figure(row["cpu_ratio"]),
        f"{row['cpu_a_set'] * 1e3:.0f}",
        f"{row['memory'] / 1e6:.0f}",
        f"{growth:.2f}",
    ]


def _parts(row: Found) -> list[str]:
    about = [f"`{row['words']}`", row["detector"], str(row["frames"])]
    return [*about, *(f"{row['parts'][p]['median'] * 1e3:.1f}" for p in PARTS)]
