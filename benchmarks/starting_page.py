"""The page's section on short jobs, of what `benchmarks.starting` measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Found = Mapping[str, Any]

BOUND = 0.5
"""Seconds from the start of one process to its first frame."""
_HEADER = ("set", "started", "first frame, s", "whole job, s", "CPU s")
_WAYS = {"alone": "alone", "mpiexec": "mpiexec, one worker"}


def bounds(found: Found, figure: Callable[..., str]) -> list[tuple[str, str, str, bool]]:
    """A line for each set: figure, bound, what was measured, whether it is met."""
    rows = []
    for row in found["sets"]:
        first = row["alone"]["first_frame"]
        text = f"one process, from its start to the first frame read, {_set_name(row)}"
        rows.append((text, f"at most {BOUND} s", figure(first), first["median"] <= BOUND))
    return rows


def section(found: Found, table: Callable[..., str], figure: Callable[..., str]) -> str:
    """As Markdown; `table` and `figure` as the page makes them elsewhere."""
    imports = found["imports"]
    rows = [
        [_set_name(row), words, *(figure(row[way][name]) for name in ("first_frame", "wall", "cpu"))]
        for row in found["sets"]
        for way, words in _WAYS.items()
    ]
    frames = found["sets"][0]["frames"]
    return "\n".join(
        [
            f"## Short jobs\n\n`{found['words']}` over {frames} frames: whole programs, from before the first process "
            "starts to the end of the last; *CPU s* is the time for which all of them had a core. Python with "
            f"`{imports['statement']}`, and nothing else, takes {figure(imports['wall'])} s, "
            f"{figure(imports['cpu'])} s of a core.\n",
            table(_HEADER, rows),
        ]
    )


def _set_name(row: Found) -> str:
    _, detector, bits, *_ = row["set"].split("_")
    return f"{detector}, {bits} bit"
