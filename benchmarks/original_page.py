"""The page's section on the program that this is made after, of what `benchmarks.original` measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Found = Mapping[str, Any]

BOUND = 15
"""Times that the original takes as long: 9M, H16."""
WAYS = {"wall": "in one process", "worker": "under mpiexec with one worker"}
_HEADER = (
    "set",
    "setting",
    "original, s",
    "alone, s",
    "one worker, s",
    "x alone",
    "x alone, CPU",
    "x one worker",
    "pixels that differ",
)


def bounds(found: Sequence[Found], figure: Callable[..., str]) -> list[tuple[str, str, str, bool]]:
    """Of each version: figure, bound, what was measured, whether it is met; nothing where that set wasn't measured."""
    rows = []
    for one in found:
        for row in one["rows"]:
            if row["set"].startswith("in_9M") and " -H 16 " in row["words"]:
                for key, how in WAYS.items():
                    times = row["times"][key]
                    text = f"the original, {_version(one)}, over ours {how}, {_set_name(row)}, `{row['words']}`"
                    rows.append((text, f"at least {BOUND}", figure(times), times["median"] >= BOUND))
    return rows


def section(found: Sequence[Found], machine: Found, table: Callable[..., str], figure: Callable[..., str]) -> str:
    """As Markdown; `table` and `figure` as the page makes them elsewhere."""
    frames = found[0]["rows"][0]["frames"]
    text = (
        f"## Beside the original\n\n`l_bnl_compress.py` and ours in turn: whole programs over {frames} frames. *x* is "
        "the original's time over ours, in one process and under mpiexec with a worker and rank 0. Pixels are compared "
        "where ours aren't marked as invalid. Early "
        "versions code an image in one piece (`-H`) and one layer (`-J`), and what comes out below 0 wraps around; "
        "1.1.4 codes in tiles and layers, as ours does. "
        f"1-minute load at the start {machine['load_before']:.1f}; {machine['date']} UTC. "
        "`python -m benchmarks.original PATH/l_bnl_compress.py`.\n"
    )
    parts = [text]
    for one in found:
        parts += [f"{_version(one)[:1].upper()}{_version(one)[1:]}, SHA-256 {one['sha256']}:\n"]
        parts += [table(_HEADER, [_cells(row, figure) for row in one["rows"]])]
    return "\n".join(parts)


def _version(one: Found) -> str:
    return str(one["version"] or "a version that doesn't tell its number")


def _cells(row: Found, figure: Callable[..., str]) -> list[str]:
    pixels = row["pixels"]
    differ = f"{pixels['differ'] / pixels['valid']:.2%}, by at most {pixels['most']}" if pixels["differ"] else "none"
    walls = [figure(row[name]["wall"]) for name in ("original", "alone", "mpiexec")]
    return [
        _set_name(row),
        f"`{row['words']}`",
        *walls,
        *(figure(row["times"][k]) for k in ("wall", "cpu", "worker")),
        differ,
    ]


def _set_name(row: Found) -> str:
    _, detector, bits, *_ = row["set"].split("_")
    return f"{detector}, {bits} bit"
