"""What `--keep` leaves: the study's series, seeds and settings, and its page."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import InputError
from . import stored
from .records import Column, Record, by_shell, kept, number, outer, overall, overview, read_records, stored_as, table
from .settings import place_of

_SEEDS = ("b2s2keep:zstd9", "b2s3keep:zstd9", "b2s3keep3:zstd9", "b2s5keep:zstd9")

# 450 frames: sums by 4 would end in an image of two frames, which spoils the merged intensities by itself.
STUDY: Mapping[str, Sequence[str]] = {
    "weak": (
        *("b2s2", "b3s3T7.6", "b2s1keep", "b2s2keep:htj2k", "b2s2keep:zstd9", "b2s3keep6:zstd9", "b2s3keep:zstd9"),
        *("b2s3keep4:zstd9", "b2s3keep3:zstd9", "b3s2keep:zstd9", "b2s5keep:zstd9", "b2s6keep:zstd9"),
        *("b2s2T25keep", "b2s3keepauto:zstd9"),
    ),
    "weak:1": _SEEDS,
    "weak:2": _SEEDS,
    "anomalous": (*("b2s2", "b2s2keep:zstd9", "b2s3keep:zstd9", "b2s3keep3:zstd9", "b2s5keep:zstd9"),),
    "long": ("b2s2", "b1s2keep:zstd9", "b1s5keep:zstd9", "b2s2keep:zstd9", "b2s3keep:zstd9"),
}
"""Settings by series: ratios near 50 (as XDS reads them), 110, 170, 200, 300 and beyond to 2 bytes a raw pixel."""

_INTRODUCTION = """# What `--keep` leaves of the diffraction

This page is made by `bnl-mpi quality --kept --page docs/kept.md`; don't edit it by hand. `--kept` runs what is told
here, some hours of DIALS; `bnl-mpi quality MASTER --try 'b2s2keep:zstd9 b2s3keep:zstd9'` tells the same of your data.

The series, the commands of DIALS and the columns are those of `docs/quality.md`. Each set keeps what DIALS integrated
of the unreduced data (`keep`), with the radius of that file (5 pixels) or another (`keep3`: `--keep_radius 3`), or the
strong spots alone (`keepauto`). Sets end in bslz4, which XDS reads, where the options don't say another filter.
*Kept* is the merged intensities' correlation with the truth, averaged over ten shells of equal volume.
"""


def write_page(path: Path, work: Path) -> None:
    """Write the page of the study's records in `work`, and its figures beside it; InputError if there are none.

    Rows that the page had stay where `work` has none.
    """
    every = {name: stored.completed(path, place_of(name), read_records(work / place_of(name))) for name in STUDY}
    found = {name: _done(records, STUDY[name]) for name, records in every.items()}
    found = {name: done for name, done in found.items() if "raw" in done}
    if not found:
        raise InputError(f"no records in {work}: run without --page_only first")
    parts = [_INTRODUCTION]
    parts += [_section(done) for name, done in found.items() if ":" not in name]
    parts += [_seeds({name: done for name, done in found.items() if name.partition(":")[0] == "weak"})]
    path.parent.mkdir(parents=True, exist_ok=True)
    stored.keep(path, {place_of(name): done for name, done in found.items()})
    path.write_text("\n".join(part for part in parts if part), encoding="utf-8")


def _done(records: Mapping[str, Record], settings: Sequence[str]) -> dict[str, Record]:
    return {name: one for name, one in records.items() if not one["error"] and name in ("raw", *settings)}


def _section(done: Mapping[str, Record]) -> str:
    series = done["raw"]["wish"]["series"]
    columns: list[Column] = [
        ("options", lambda record: f"`{_short(record)}`"),
        ("stored as", stored_as),
        ("ratio", lambda record: f"{record['ratio']:.0f}"),
        ("kept", lambda record: number(kept(record), "{:.4f}")),
        ("outer shell", lambda record: number(outer(record)["cc_reference"], "{:.3f}")),
        ("CC1/2, outer", lambda record: number(outer(record)["cc_half"], "{:.3f}")),
        ("I/sigma, outer", lambda record: number(outer(record)["i_over_sigma"], "{:.1f}")),
        ("indexed, %", lambda record: f"{100 * record['indexed_fraction']:.1f}"),
    ]
    by = [by_shell("Correlation with the truth", "cc_reference", done, "{:.3f}")]
    if series["anomalous"] == "True":
        column = "cc_anomalous_reference"
        columns.insert(5, ("anomalous", lambda record: number(overall(record)[column], "{:.3f}")))
        by.append(by_shell("Correlation of I(+) - I(-) with the truth's", column, done, "{:.3f}"))
    source = f"`bnl-mpi simulate {series['simulate']}`, integrated to {series['d_min']} Angstrom.\n"
    return "\n".join([f"## {series['title']}\n", source, overview(done, columns), *by])


def _short(record: Record) -> str:
    words = str(record["wish"]["words"]).replace("{predicted}", "FILE")
    return words or "none"


def _seeds(found: Mapping[str, Mapping[str, Record]]) -> str:
    """What differs between crystals of the same kind: each setting's loss against the unreduced data."""
    common = [name for name in _SEEDS if sum(name in done for done in found.values()) > 1]
    if not common:
        return ""
    rows = []
    for setting in ("raw", *common):
        records = {name: done[setting] for name, done in found.items() if setting in done}
        lost = [kept(found[name]["raw"]) - kept(record) for name, record in records.items()]
        ratios = [record["ratio"] for record in records.values()]
        rows.append(
            [
                f"`{setting}`",
                f"{min(ratios):.0f} to {max(ratios):.0f}",
                ", ".join(f"{kept(record):.4f}" for record in records.values()),
                ", ".join(f"{outer(record)['cc_reference']:.3f}" for record in records.values()),
                f"{statistics.mean(lost):.4f}",
                f"{statistics.stdev(lost):.4f}" if len(lost) > 1 else "-",
            ]
        )
    text = (
        "## Other seeds\n\nCrystal, orientation and noise of the weak data made anew: "
        f"seeds {', '.join(name.partition(':')[2] or '0' for name in found)}. *Lost* is what the unreduced data of the "
        "same seed keep more, and its standard deviation over the seeds.\n"
    )
    return "\n".join([text, table(["setting", "ratio", "kept, by seed", "outer shell, by seed", "lost", "sd"], rows)])
