"""The page's section on one machine of many cores, of what `benchmarks.node` measured there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Found = Mapping[str, Any]


def section(
    found: Found,
    machine: Found,
    table: Callable[[Sequence[str], Sequence[Sequence[str]]], str],
    figure: Callable[..., str],
    laws: Callable[[Found], str],
) -> str:
    """As Markdown; `table`, `figure` and `laws` as the page makes them elsewhere."""
    threads = machine["threads_a_core"]
    shared = f", {threads} of them on each physical core" if threads > 1 else ""
    text = (
        f"## Scaling on {machine['cores']} cores\n\n{machine['processor']}, {machine['cores']} cores{shared}; "
        f"Python {machine['python']}; {machine['date']} UTC; 1-minute load at the end {machine['load_before']:.1f}. "
        f"Rounds of all runs: {found['rounds']}; columns as above. `python -m benchmarks.node`.\n"
    )
    parts = [text]
    for setting in found["settings"]:
        parts += [
            f"`{setting['words']}`, {setting['block']} images a data file:\n",
            table(_HEADER, [_cells(kind, row, figure) for kind in ("strong", "weak") for row in setting[kind]]),
            laws(setting),
        ]
    parts += ["What processes that share nothing get from the machine, in units of one alone:\n"]
    return "\n".join([*parts, _alone(found["independent"], table, figure)])


_HEADER = ("scaling", "workers", "frames", "s", "x one worker", "the same at work", "core ms a frame")


def _cells(kind: str, row: Found, figure: Callable[..., str]) -> list[str]:
    speeds = [figure(row[k]) if k in row else "-" for k in ("speed", "speed_at_work")]
    return [
        kind,
        str(row["workers"]),
        str(row["frames"]),
        figure(row["seconds"]),
        *speeds,
        figure(row["cpu_a_frame"], 1e-3),
    ]


def _alone(rows: Sequence[Found], table: Callable[..., str], figure: Callable[..., str]) -> str:
    numbers = sorted({row["processes"] for row in rows})
    by_key = {(row["work"], row["processes"]): figure(row["speed"]) for row in rows}
    works = list(dict.fromkeys(row["work"] for row in rows))
    return table(["work", *(f"{n} processes" for n in numbers)], [[w, *(by_key[w, n] for n in numbers)] for w in works])
