"""What the records of `bnl_mpi.quality.study` tell, and tables of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]
Shell = Mapping[str, Any]
Column = tuple[str, Callable[[Record], str]]

# A correlation with the truth of 0.68 is what a CC1/2 of 0.3, the customary limit, amounts to if errors are
# random: CC* = sqrt(2 CC1/2 / (1 + CC1/2)).
USABLE = 0.68

USUAL_FILTER = "bslz4"
"""What images are stored with where the options don't say another: XDS reads it."""


def read_records(folder: Path) -> dict[str, Record]:
    """The records of a series by setting's name, the unreduced data first, then by rising ratio."""
    return ordered(json.loads(path.read_text()) for path in sorted(folder.glob("result_*.json")))


def ordered(records: Iterable[Record]) -> dict[str, Record]:
    """By setting's name, the unreduced data first, then by rising ratio."""
    by_ratio = sorted(records, key=lambda one: (one["wish"]["name"] != "raw", one.get("ratio", float("inf"))))
    return {record["wish"]["name"]: record for record in by_ratio}


def overall(record: Record) -> Shell:
    """All shells together."""
    return dict(record["shells"][0])


def middle(record: Record) -> Shell:
    """The shell half-way to the outer one."""
    shells = record["shells"][1:]
    return dict(shells[len(shells) // 2])


def outer(record: Record) -> Shell:
    """The shell of the highest resolution."""
    return dict(record["shells"][-1])


def kept(record: Record) -> float:
    """How much of the diffraction is left: the correlation with the reference, averaged over the shells."""
    if "kept" in record:
        return float(record["kept"])
    correlations = [shell["cc_reference"] for shell in record["shells"][1:]]
    return float(sum(correlations) / len(correlations))


def usable_limit(record: Record) -> float:
    """The resolution, Angstrom, down to which every shell's correlation with the reference is usable.

    Infinite where already the first shell isn't.
    """
    if "usable" in record:
        return float(record["usable"])
    limit = float("inf")
    for shell in record["shells"][1:]:
        if not shell["cc_reference"] >= USABLE:
            break
        limit = float(shell["d_min"])
    return limit


def reach(record: Record) -> str:
    """`usable_limit` in words."""
    limit = usable_limit(record)
    return f"{limit:.2f} Angstrom" if isfinite(limit) else "none"


def filter_of(words: str) -> str:
    """The final filter that a setting's options name, with its level where they do; bslz4 where they name none."""
    found = re.search(r"-c (\w+)(?: -l (\d+))?", words)
    return " ".join(part for part in found.groups() if part) if found else USUAL_FILTER


def stored_as(record: Record) -> str:
    """The same of a setting's record."""
    return filter_of(record["wish"]["words"])


def is_codestream(record: Record) -> bool:
    """Whether the stored chunks are HTJ2K codestreams."""
    return stored_as(record) == "htj2k"


def is_usual(record: Record) -> bool:
    """Whether the images are stored with the filter that XDS reads."""
    return stored_as(record) == USUAL_FILTER


def has_codec(record: Record) -> bool:
    """Whether a lossy codec was at work."""
    return without_codec(record["wish"]["words"]) != _without_filter(record["wish"]["words"])


def without_codec(words: str) -> str:
    """The options without the lossy codec's (-H, -J, -K or -T and its value) and without the final filter's."""
    return " ".join(re.sub(r"(^|\s)-[HJKT]\s*[\d.]+", "", _without_filter(words)).split())


def _without_filter(words: str) -> str:
    return " ".join(re.sub(r"(^|\s)-[cl]\s*\w+", "", words).split())


def factors(record: Record) -> tuple[int, int]:
    """The binning factor and the number of frames summed."""
    found = {flag: int(value) for flag, value in re.findall(r"-([bs])\s*(\d+)", record["wish"]["words"])}
    return found.get("b", 1), found.get("s", 1)


def number(value: float | None, form: str) -> str:
    """The value in that form; a dash where there is none."""
    return form.format(value) if value is not None and isfinite(value) else "-"


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; all columns but the first are set flush right."""
    lines = ["| " + " | ".join(titles) + " |", "| --- |" + " ---: |" * (len(titles) - 1)]
    lines.extend("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join(lines) + "\n"


def by_shell(title: str, column: str, records: Mapping[str, Record], form: str) -> str:
    """One figure of every shell, a column a setting."""
    shells = next(iter(records.values()))["shells"][1:]
    rows = [
        [
            f"{shell['d_max']:.2f} - {shell['d_min']:.2f}",
            *(number(record["shells"][k][column], form) for record in records.values()),
        ]
        for k, shell in enumerate(shells, start=1)
    ]
    rows.append(["all", *(number(overall(record)[column], form) for record in records.values())])
    return f"**{title}** by shell\n\n" + table(["d, Angstrom", *(f"`{name}`" for name in records)], rows)


def overview(records: Mapping[str, Record], columns: Sequence[Column]) -> str:
    """A row a setting."""
    rows = [[f"`{name}`", *(cell(record) for _, cell in columns)] for name, record in records.items()]
    return table(["setting", *(title for title, _ in columns)], rows)


def listed(names: Sequence[str]) -> str:
    """The names as they stand in a sentence."""
    return ", ".join(f"`{name}`" for name in names)
