"""A page's figures in a JSON file beside it: rows that aren't run again stay as they were.

The file holds the records of `bnl_mpi.quality.study` by series, shortened to eight digits; null stands for no figure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from .records import Record, kept, ordered, usable_limit

_LEFT_OUT = ("unpacked_bytes", "cell", "rmsd", "seconds")
"""Of a record, what no page shows."""
_DERIVED = ("kept", "usable")


def beside(page: Path) -> Path:
    """Where the figures of a page lie."""
    return page.with_suffix(".json")


def completed(page: Path, series: str, found: Mapping[str, Record]) -> dict[str, Record]:
    """The records `found` of a series, and those that the page had of the very same series beside them.

    Where none is found, all that the page had.
    """
    before = _read(page).get(series, {})
    raw = found.get("raw")
    same = {name: record for name, record in before.items() if raw is None or _made_alike(record, raw)}
    return ordered({**same, **found}.values())


def _made_alike(record: Record, raw: Record) -> bool:
    return all(record["wish"].get(key) == raw["wish"].get(key) for key in ("version", "series"))


def keep(page: Path, found: Mapping[str, Mapping[str, Record]]) -> None:
    """Write what the page shows of each series; other series that were there stay."""
    every = {**_read(page), **found}
    parts = []
    for series, records in every.items():
        lines = [json.dumps(_shortened(record)) for record in records.values() if not record["error"]]
        parts.append(f"{json.dumps(series)}: [\n" + ",\n".join(lines) + "\n]")
    beside(page).write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def _read(page: Path) -> dict[str, dict[str, Record]]:
    path = beside(page)
    if not path.exists():
        return {}
    told: Mapping[str, Sequence[Record]] = json.loads(path.read_text(encoding="utf-8"))
    return {series: {one["wish"]["name"]: _restored(one) for one in records} for series, records in told.items()}


def _shortened(record: Record) -> dict[str, Any]:
    told = {key: value for key, value in record.items() if key not in _LEFT_OUT}
    # Of figures that aren't told of every shell.
    told |= {"kept": kept(record), "usable": usable_limit(record)}
    return {key: _rounded(value) for key, value in told.items() if not (key in _DERIVED and not isfinite(value))}


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.8g}") if isfinite(value) else None
    return value


def _restored(record: Record) -> Record:
    shells = [{key: float("nan") if value is None else value for key, value in s.items()} for s in record["shells"]]
    return {**record, "shells": shells}
