"""What an archive has done and what is left: for a terminal, other programs, a spreadsheet and a browser."""

from __future__ import annotations

import csv
import html
import io
import json
import os
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import BnlError
from ..output.places import certificate_paths
from .state import AT_WORK, DONE, FAILED, SKIPPED, STAGES, Entry

COLUMNS = (
    "stem",
    "stage",
    "rule",
    "frames",
    "images",
    "bytes_in",
    "bytes_out",
    "ratio",
    "seconds",
    "verified",
    "reason",
)


def ratio(entry: Entry) -> float | None:
    """Raw files over the new data files; None where nothing is made yet."""
    return entry.bytes_in / entry.bytes_out if entry.stage == DONE and entry.bytes_out else None


def totals(entries: Mapping[str, Entry]) -> dict[str, Any]:
    """The figures over all sets."""
    done = [e for e in entries.values() if e.stage == DONE]
    left = [e for e in entries.values() if e.stage not in (DONE, SKIPPED, FAILED)]
    bytes_in, bytes_out = sum(e.bytes_in for e in done), sum(e.bytes_out for e in done)
    rate = _rate(done)
    bytes_left = sum(e.bytes_in for e in left)
    return {
        "stages": {stage: n for stage in STAGES if (n := sum(e.stage == stage for e in entries.values()))},
        "sets": len(entries),
        "verified": sum(e.verified for e in done),
        "bytes_in": bytes_in,
        "bytes_out": bytes_out,
        "ratio": bytes_in / bytes_out if bytes_out else None,
        "bytes_left": bytes_left,
        "bytes_per_second": rate,
        "seconds_left": bytes_left / rate if rate and left else None,
    }


def _rate(done: Sequence[Entry]) -> float | None:
    """Raw bytes a second over all workers, of the last hour in which sets were done."""
    if not done:
        return None
    last = max(e.updated for e in done)
    recent = [e for e in done if e.updated > last - 3600]
    began = min(e.updated - e.seconds for e in recent)
    return sum(e.bytes_in for e in recent) / max(last - began, 1e-3)


def reasons(entries: Mapping[str, Entry]) -> list[tuple[str, list[Entry]]]:
    """Failures by reason, the most frequent first; what differs from set to set (paths, numbers) left out of it."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries.values():
        if entry.stage == FAILED:
            groups.setdefault(_general(entry), []).append(entry)
    return sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))


def _general(entry: Entry) -> str:
    text = entry.reason.replace(entry.master, "MASTER")
    text = re.sub(r"(?<!\w)(/[^\s:;,]+)+", "FILE", text)
    return re.sub(r"\b\d+\b", "N", text)


def size(n_bytes: float) -> str:
    """Bytes as a person reads them, in powers of ten."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n_bytes < 999.5 or unit == "TB":
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return ""


def duration(seconds: float) -> str:
    """As 3 d 4 h, 2 h 10 min, 5 min, 12 s."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def lines(entries: Mapping[str, Entry], *, every: bool = False) -> list[str]:
    """The table for a terminal: totals, who is at work, failures by reason; all sets if `every`."""
    told = totals(entries)
    out = [f"{n:6d} {stage}" for stage, n in told["stages"].items()]
    out.append(f"{told['sets']:6d} in all, {told['verified']} verified against their raw data")
    if told["ratio"]:
        out.append(
            f"{size(told['bytes_in'])} -> {size(told['bytes_out'])}, {told['ratio']:.1f}:1; "
            f"{size(told['bytes_per_second'])} of raw files a second"
        )
    if told["bytes_left"]:
        left = f", about {duration(told['seconds_left'])}" if told["seconds_left"] else ""
        out.append(f"{size(told['bytes_left'])} left{left}")
    now = time.time()
    out += [f"  {e.stage} {e.stem} since {duration(now - e.updated)}" for e in entries.values() if e.stage in AT_WORK]
    for _, failed in reasons(entries):
        out.append(f"{len(failed)} failed: {failed[0].reason}")
        out += [f"    {e.stem}" for e in failed[:5]] + ([f"    and {len(failed) - 5} more"] if len(failed) > 5 else [])
    if every:
        out += [_row(e) for e in entries.values()]
    return out


def _row(entry: Entry) -> str:
    shown = ratio(entry)
    made = f"{size(entry.bytes_in)} -> {size(entry.bytes_out)} {shown:.1f}:1" if shown else size(entry.bytes_in)
    return f"{entry.stage:9s} {made:28s} {entry.stem}" + (f"  ({entry.reason})" if entry.reason else "")


def _cells(entry: Entry) -> list[Any]:
    shown = ratio(entry)
    values = {**entry.as_json(), "ratio": None if shown is None else round(shown, 3)}
    return [values[name] for name in COLUMNS]


def as_json(entries: Mapping[str, Entry]) -> str:
    """Totals and every set, for other programs."""
    return json.dumps({"totals": totals(entries), "sets": [e.as_json() for e in entries.values()]}, indent=1)


def as_csv(entries: Mapping[str, Entry]) -> str:
    """A row a set."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_cells(e) for e in entries.values())
    return out.getvalue()


STYLE = """
:root { color-scheme: light dark; --line: #8884; --bad: #c33; --good: #2a7; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 90rem; padding: 0 1rem; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; margin: 1rem 0; }
.figures b { display: block; font-size: 1.5rem; font-weight: 600; }
input { font: inherit; padding: .4rem .6rem; width: 100%; max-width: 30rem; box-sizing: border-box; }
.table { overflow-x: auto; } table { border-collapse: collapse; width: 100%; margin-top: 1rem; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th button { font: inherit; font-weight: 600; background: none; border: 0; padding: 0; cursor: pointer; color: inherit; }
td img { display: block; image-rendering: pixelated; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.failed { color: var(--bad); } .done { color: var(--good); }
td.reason { overflow-wrap: anywhere; min-width: 9rem; }
"""

SCRIPT = """
const body = document.querySelector('tbody'), rows = [...body.rows];
document.querySelector('input').addEventListener('input', e => {
  const wanted = e.target.value.toLowerCase();
  for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
});
document.querySelectorAll('th button').forEach((button, column) => button.addEventListener('click', () => {
  const way = button.dataset.way = button.dataset.way === '1' ? '-1' : '1';
  const key = row => row.cells[column].dataset.key ?? row.cells[column].textContent;
  const number = rows.every(row => key(row) === '' || !isNaN(key(row)));
  rows.sort((a, b) => way * (number ? key(a) - key(b) : key(a).localeCompare(key(b))));
  body.append(...rows);
}));
"""


def as_html(entries: Mapping[str, Entry], title: str, pictures: Mapping[str, str] | None = None, note: str = "") -> str:
    """One page with everything in it: figures, a `note`, and a table that can be sorted and filtered.

    `pictures` has by stem what an `img` takes.
    """
    shown_of = pictures or {}
    told = totals(entries)
    figures = [
        (str(told["sets"]), "data sets"),
        (str(told["stages"].get(DONE, 0)), "done"),
        (str(told["verified"]), "verified"),
        (str(told["stages"].get(FAILED, 0)), "failed"),
        (size(told["bytes_in"]), "raw files of the done"),
        (size(told["bytes_out"]), "new files"),
        (f"{told['ratio']:.1f}:1" if told["ratio"] else "-", "ratio"),
        (duration(told["seconds_left"]) if told["seconds_left"] else "-", "left"),
    ]
    shown = "".join(f"<div><b>{html.escape(value)}</b>{html.escape(name)}</div>" for value, name in figures)
    head = "".join(f"<th><button type='button'>{name.replace('_', ' ')}</button></th>" for name in COLUMNS)
    head += "<th>first image</th>" if shown_of else ""
    rows = "\n".join(_html_row(e, shown_of) for e in entries.values())
    groups = Counter({why: len(failed) for why, failed in reasons(entries)})
    failures = "".join(f"<li>{n}: {html.escape(why)}</li>" for why, n in groups.most_common())
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style><h1>{html.escape(title)}</h1>"
        f"<div class='figures'>{shown}</div>"
        + (f"<h2>Failures</h2><ul>{failures}</ul>" if failures else "")
        + (f"<p>{html.escape(note)}</p>" if note else "")
        + "<input type='search' placeholder='filter' aria-label='filter the table'>"
        f"<div class='table'><table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table></div>"
        f"<script>{SCRIPT}</script></html>\n"
    )


def _html_row(entry: Entry, pictures: Mapping[str, str]) -> str:
    cells = []
    for name, value in zip(COLUMNS, _cells(entry), strict=True):
        if isinstance(value, bool):
            cells.append(f"<td>{'yes' if value else ''}</td>")
        elif isinstance(value, (int, float)) or value is None:
            number = f"{value:.4g}" if isinstance(value, float) else str(value)
            text = "" if value is None else size(value) if name.startswith("bytes") else number
            cells.append(f"<td class='number' data-key='{'' if value is None else value}'>{text}</td>")
        else:
            kind = {"stage": f" class='{html.escape(str(value))}'", "reason": " class='reason'"}.get(name, "")
            # The row's own name needn't be told again.
            cells.append(f"<td{kind}>{html.escape(str(value).removeprefix(f'{entry.master}: '))}</td>")
    if pictures:
        url = pictures.get(entry.stem)
        cells.append(
            f"<td><img src='{url}' alt='first image of {html.escape(entry.stem)}'></td>" if url else "<td></td>"
        )
    return f"<tr>{''.join(cells)}</tr>"


def failed_paths(entries: Mapping[str, Entry]) -> list[str]:
    """Masters of the failed sets, for the next `archive -`."""
    return [e.master for e in entries.values() if e.stage == FAILED]


def deletable(entries: Mapping[str, Entry], folder: str) -> tuple[list[str], list[str]]:
    """Raw files of sets that are done and verified against them, by their certificates; and why others have none.

    Not those that another set, which isn't verified, is of too.
    """
    paths, needed, refused = list[str](), set[str](), list[str]()
    for entry in entries.values():
        if entry.stage == DONE and entry.verified:
            found, why_not = _of_certificate(certificate_paths(os.path.join(folder, entry.stem))[1])
            paths += found
            refused += [f"{entry.stem}: none of its raw files: {why_not}"] if why_not else []
        else:
            needed.update(entry.files)
    return [path for path in dict.fromkeys(paths) if path not in needed], refused


def _of_certificate(path: str) -> tuple[list[str], str]:
    from ..verify import certified

    try:
        return certified.deletable(certified.read(path))
    except BnlError as error:
        return [], str(error)
