"""What `--keep` leaves: the study's series, seeds and settings, and its page."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..errors import InputError
from . import stored
from .records import Column, Record, by_shell, kept, number, outer, overall, overview, read_records, stored_as, table
from .settings import DRAWN, SIMULATED, place_of

_SEEDS: Mapping[str, Sequence[str]] = {
    "weak": (
        *("b2s2", "b2s2keep:zstd9", "b2s3keep:zstd9", "b2s3keep3:zstd9", "b2s5keep:zstd9"),
        *("b2s3keepauto:zstd9", "b2s2keepexact:zstd9", f"b2s2keep:zstd9{DRAWN}", f"b2s2keepexact:zstd9{DRAWN}"),
    ),
    "anomalous": ("b2s2", "b2s2keep:zstd9", "b2s3keepauto:zstd9"),
    "long": ("b2s2", "b1s2keep:zstd9", "b1s2keepauto:zstd9"),
}
"""Settings that are run with other seeds too, by kind of data."""

# 450 frames: sums by 4 would end in an image of two frames, which spoils the merged intensities by itself.
STUDY: Mapping[str, Sequence[str]] = {
    "weak": (
        *("b2s2", "b3s3T7.6", "b2s1keep", "b2s2keep:htj2k", "b2s2keep:zstd9", "b2s3keep6:zstd9", "b2s3keep:zstd9"),
        *("b2s3keep4:zstd9", "b2s3keep3:zstd9", "b3s2keep:zstd9", "b2s5keep:zstd9", "b2s6keep:zstd9"),
        *("b2s9keep3:zstd9", "b2s2T25keep", "b2s3keepauto:zstd9"),
        *("b2s2keepexact:zstd9", f"b2s2keep:zstd9{DRAWN}", f"b2s2keepexact:zstd9{DRAWN}"),
    ),
    "anomalous": (
        *("b2s2", "b2s2keep:zstd9", "b2s3keep:zstd9", "b2s3keep3:zstd9", "b2s5keep:zstd9"),
        "b2s3keepauto:zstd9",
    ),
    "long": (
        *("b2s2", "b1s2keep:zstd9", "b1s5keep:zstd9", "b2s2keep:zstd9", "b2s3keep:zstd9"),
        "b1s2keepauto:zstd9",
    ),
    **{f"{kind}:{seed}": tried for kind, tried in _SEEDS.items() for seed in (1, 2)},
}
"""Settings by series: ratios near 50 (as XDS reads them), 110, 170, 200, 300 and beyond to 2 bytes a raw pixel."""

_INTRODUCTION = """# What `--keep` leaves of the diffraction

This page is made by `bnl-mpi quality --kept --page docs/kept.md`; don't edit it by hand. `--kept` runs what is told
here, some hours of DIALS; `bnl-mpi quality MASTER --try 'b2s2keep:zstd9 b2s3keep:zstd9'` tells the same of your data.

The series, the commands of DIALS and the columns are those of `docs/quality.md`. Each set keeps what DIALS integrated
of the unreduced data (`keep`), with the radius of that file (5 pixels) or another (`keep3`: `--keep_radius 3`), or the
strong spots alone (`keepauto`); `keepexact` is `--keep_exact`. Sets end in bslz4, which XDS reads, where the options
don't say another filter.
*Kept* is the merged intensities' correlation with the truth, averaged over ten shells of equal volume.
"""


_SEEDS_TEXT = """## Other seeds

Crystal, orientation and noise made anew. *Lost* is what the unreduced data of the same seed keep more, and its standard
deviation over the seeds (sd): two settings differ where their losses are further apart than that.
"""

_DRAWN_TEXT = f"""## A background drawn anew

XDS scales frames by their background, and wants noise there: `bnl-mpi expand --background poisson` draws it from the
level that `--keep` left (`{DRAWN}` above). Merged intensities of that set beside those of others of the weak data;
errors are those of I/sigma.
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
    parts += [_drawn(found.get("weak", {}))]
    parts += [_seeds(found)]
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


def _drawn(done: Mapping[str, Record]) -> str:
    """What a background that was drawn anew does to the intensities of a kept set."""
    rows = [
        [
            f"`{name}`",
            f"`{other}`",
            f"{100 * told['common']:.1f}",
            f"{told['cc']:.4f}",
            f"{told['cc_outer']:.3f}",
            f"{told['sigma']:.2f}",
        ]
        for name, record in done.items()
        for other, told in record.get("beside", {}).items()
    ]
    if not rows:
        return ""
    header = ["set", "beside", "its reflections, %", "intensities, CC", "outer shell", "sigma, ratio"]
    return "\n".join([_DRAWN_TEXT, table(header, rows)])


def _short(record: Record) -> str:
    words = str(record["wish"]["words"]).replace("{predicted}", "FILE")
    return words or "none"


def _seeds(found: Mapping[str, Mapping[str, Record]]) -> str:
    """What differs between crystals of the same kind: each setting's loss against the unreduced data."""
    parts = []
    for kind, settings in _SEEDS.items():
        alike = {name: done for name, done in found.items() if name.partition(":")[0] == kind}
        common = [one for one in settings if sum(one in done for done in alike.values()) > 1]
        if common:
            seeds = ", ".join(name.partition(":")[2] or "0" for name in alike)
            parts.append(f"{SIMULATED[kind].title}; seeds {seeds}:\n\n{_seed_table(alike, common)}")
    return "\n".join([_SEEDS_TEXT, *parts]) if parts else ""


def _seed_table(alike: Mapping[str, Mapping[str, Record]], settings: Sequence[str]) -> str:
    raw = {name: done["raw"] for name, done in alike.items()}
    told: list[tuple[str, Callable[[Record], float]]] = [("kept", kept)]
    if any(record["wish"]["series"]["anomalous"] == "True" for record in raw.values()):
        told.append(("anomalous", lambda record: float(overall(record)["cc_anomalous_reference"])))
    header, rows = ["setting", "ratio"], []
    for title, _ in told:
        header += [f"{title}, by seed", "lost", "sd"]
    for setting in ("raw", *settings):
        records = {name: done[setting] for name, done in alike.items() if setting in done}
        ratios = [record["ratio"] for record in records.values()]
        row = [f"`{setting}`", f"{min(ratios):.0f} to {max(ratios):.0f}"]
        for _, value in told:
            lost = [value(raw[name]) - value(record) for name, record in records.items()]
            row += [
                ", ".join(f"{value(alike[name][setting]):.4f}" if name in records else "-" for name in alike),
                f"{statistics.mean(lost):.4f}",
                f"{statistics.stdev(lost):.4f}" if len(lost) > 1 else "-",
            ]
        rows.append(row)
    return table(header, rows)
