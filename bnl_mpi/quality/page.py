"""The page of tables, written from the records of `bnl_mpi.quality.study`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path

from ..errors import InputError
from . import ranking, sizes, stored
from .records import (
    USABLE,
    Column,
    Record,
    by_shell,
    has_codec,
    is_usual,
    listed,
    middle,
    number,
    outer,
    overall,
    overview,
    reach,
    read_records,
    usable_limit,
    without_codec,
)

# Shares of the unreduced data's correlation in the outer shell, and what is said below each.
VERDICTS = ((0.5, "destroyed"), (0.75, "badly hurt"), (0.97, "weakened"))
KEPT = "kept"
LOST = ("destroyed", "badly hurt")
# An overall CC1/2 that many would call excellent.
FINE = 0.97

_INTRODUCTION = """# What the reductions keep of the diffraction

This page is made by `bnl-mpi quality --series weak anomalous --page docs/quality.md`; don't edit it by hand.
`bnl-mpi quality MASTER --page PAGE` makes such a page of your own data, which is what to trust for your own detector
and crystals. `--try 'b2s2 b2s2H12'` chooses settings, by the same short names as in the tables below.
What `--keep` leaves is told in `docs/kept.md`.

Where `-s` doesn't divide the number of frames (4 and 8 of 450), the last ones are left out (`--drop_partial`): an image
of fewer frames than the others spoils merged intensities, anomalous differences most.

Every set went through the same commands of DIALS (import, find_spots, index, refine, integrate, scale)
with the same resolution limit. Shells have equal volumes in reciprocal space and the same limits for all
sets. CC1/2 and I/sigma are computed here from DIALS's scaled observations, CC1/2 without random halves
(Assmann, Brehm and Diederichs, 2016). I/sigma is of merged intensities; its errors are DIALS's, scaled shell
by shell to the scatter of equivalents, because DIALS's error model differs by factors between sets that hold
the same photons; a dash stands where a codec left a shell flat, with neither counts nor errors. Friedel mates count
as equivalents in both. *Correlation with the reference* is Pearson's, of merged intensities; *intensity recovered* is
their sum over the reference's, as a fraction of the same in the first shell: a codec that wipes out weak spots shows
there below 1, one that leaves false ones above.

Sizes are those of the data files, stored with bslz4 but where the options say `-c htj2k`: a lossy codec's own
stream is smaller, as it is decoded at once and stored again. *Ratio* is against 2 bytes a pixel of the input, *to
stored input* against the input's files as they lie on the disk. *Ratio, bszstd* is that of the same images
stored with the stronger filter bszstd, which XDS can't read.
"""


def write_page(path: Path, folders: Sequence[Path]) -> None:
    """Write the page for the series whose records lie in `folders`, and its figures beside it.

    Rows of the series that the page had stay where the folder has none.  InputError if no series has any.
    """
    found = {folder.name: stored.completed(path, folder.name, read_records(folder)) for folder in folders}
    sections = [section for records in found.values() if (section := _series_section(records))]
    if not sections:
        raise InputError(f"no records in {', '.join(map(str, folders))}: run without --page_only first")
    path.parent.mkdir(parents=True, exist_ok=True)
    stored.keep(path, found)
    page = "\n".join([_INTRODUCTION, *sections])
    ranked = ranking.kept(path.read_text(encoding="utf-8")) if path.exists() else ""
    path.write_text(ranking.with_section(page, ranked) if ranked else page, encoding="utf-8")


def _series_section(records: Mapping[str, Record]) -> str:
    done = {name: record for name, record in records.items() if not record["error"]}
    if not done:
        return ""
    series = next(iter(done.values()))["wish"]["series"]
    usual = {name: record for name, record in done.items() if is_usual(record)}
    parts = [f"## {series['title']}\n", _describe(series, done), _overview(done)]
    if len(usual) < len(done):
        parts.append("By shell, the sets stored with bslz4; others follow.\n")
    parts.append(by_shell("Correlation with the reference", "cc_reference", usual, "{:.3f}"))
    parts.append(by_shell("CC1/2", "cc_half", usual, "{:.3f}"))
    parts.append(by_shell("Intensity recovered, against the first shell,", "recovered", usual, "{:.2f}"))
    parts.append(by_shell("I/sigma", "i_over_sigma", usual, "{:.1f}"))
    if series["anomalous"] == "True":
        title = "Correlation of I(+) - I(-)"
        parts.append(by_shell(f"{title} with the reference's", "cc_anomalous_reference", done, "{:.3f}"))
        parts.append(by_shell(f"{title} between halves of the data", "cc_anomalous", done, "{:.3f}"))
    parts.extend(sizes.sections(done))
    parts.append(_conclusions(series, done))
    parts.extend(f"`{name}` failed: {record['error']}\n" for name, record in records.items() if record["error"])
    return "\n".join(parts)


def _describe(series: Mapping[str, str], done: Mapping[str, Record]) -> str:
    raw = done.get("raw")
    images = f"{raw['images']} images of {raw['image'][1]} x {raw['image'][0]} pixels" if raw else "images"
    if series["simulate"]:
        source = f"`bnl-mpi simulate {series['simulate']}`: {images}. The reference is the simulation's truth."
    else:
        known = "the truth" if "truth" in series else "the unreduced data, merged"
        source = f"{images}. The reference is {known}."
    return f"{source} Integrated to {series['d_min']} Angstrom.\n"


def _overview(done: Mapping[str, Record]) -> str:
    columns: list[Column] = [
        ("options", lambda record: f"`{record['wish']['words']}`" if record["wish"]["words"] else "none"),
        ("size, MB", lambda record: f"{record['bytes'] / 1e6:.2f}"),
        ("ratio", lambda record: f"{record['ratio']:.1f}"),
        ("ratio, bszstd", lambda record: number(record["ratio_strong"], "{:.1f}")),
        ("to stored input", lambda record: f"{record['ratio_stored']:.2f}"),
        ("spots", lambda record: f"{record['spots']}"),
        ("indexed, %", lambda record: f"{100 * record['indexed_fraction']:.1f}"),
        ("cell off by, %", lambda record: number(_percent(record["cell_error"]), "{:.3f}")),
        ("CC1/2", lambda record: number(overall(record)["cc_half"], "{:.4f}")),
        ("mid shell", lambda record: number(middle(record)["cc_half"], "{:.3f}")),
        ("outer shell", lambda record: number(outer(record)["cc_half"], "{:.3f}")),
        ("CC with reference", lambda record: number(overall(record)["cc_reference"], "{:.4f}")),
        ("outer shell", lambda record: number(outer(record)["cc_reference"], "{:.3f}")),
        ("I/sigma, outer", lambda record: number(outer(record)["i_over_sigma"], "{:.1f}")),
    ]
    return overview(done, columns)


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def outer_verdict(record: Record, raw: Record) -> str:
    """What became of the outer shell: "kept", "weakened", "badly hurt" or "destroyed"."""
    share = outer(record)["cc_reference"] / outer(raw)["cc_reference"]
    return next((verdict for limit, verdict in VERDICTS if not share >= limit), KEPT)


def _conclusions(series: Mapping[str, str], done: Mapping[str, Record]) -> str:
    raw = done.get("raw")
    if raw is None or not isfinite(outer(raw)["cc_reference"]):
        return ""
    best = sizes.best_of_tiers(done).values()
    told = {name: record for name, record in done.items() if name in best or is_usual(record)}
    lines = ["### What this says\n"]
    lines.extend(_sentence(name, record, raw) for name, record in told.items() if name != "raw")
    lines.extend(_advice(told, raw))
    if series["anomalous"] == "True":
        lines.extend(_anomalous_advice(done, raw))
    return "\n".join(lines) + "\n"


def _sentence(name: str, record: Record, raw: Record) -> str:
    shell, before, limit = outer(record), outer(raw), usable_limit(record)
    usable = f"usable to {limit:.2f} Angstrom" if isfinite(limit) else "usable at no resolution"
    text = (
        f"- `{name}` ({record['ratio']:.0f}:1): overall CC1/2 {overall(record)['cc_half']:.4f} "
        f"(unreduced {overall(raw)['cc_half']:.4f}). The outer shell, "
        f"{shell['d_max']:.2f} to {shell['d_min']:.2f} Angstrom, is **{outer_verdict(record, raw)}**: "
        f"correlation with the reference {shell['cc_reference']:.3f} (unreduced {before['cc_reference']:.3f}), "
        f"I/sigma {shell['i_over_sigma']:.1f} ({before['i_over_sigma']:.1f}), intensity recovered "
        f"{100 * shell['recovered']:.0f} % ({100 * before['recovered']:.0f} %). "
        f"By the correlation it is {usable}"
    )
    if record["indexed_fraction"] < 0.9:
        text += f"; only {100 * record['indexed_fraction']:.0f} % of its spots were indexed"
    return text + "."


def _advice(done: Mapping[str, Record], raw: Record) -> list[str]:
    """What follows for choosing: the strongest setting that keeps all, and the strongest that keeps most."""
    reduced = {name: record for name, record in done.items() if name != "raw"}
    lines = []
    whole = [name for name, record in reduced.items() if outer_verdict(record, raw) == KEPT]
    if whole:
        best = max(whole, key=lambda name: float(reduced[name]["ratio"]))
        lines.append(
            f"- To keep all of the resolution: `{best}` ({reduced[best]['ratio']:.0f}:1) is the strongest here "
            f"whose outer shell has at least {100 * VERDICTS[-1][0]:.0f} % of the unreduced data's correlation with "
            "the reference."
        )
    else:
        lines.append("- None of these settings keeps the outer shell.")
    fine = {name: overall(record)["cc_half"] for name, record in reduced.items()}
    deceptive = [name for name, cc in fine.items() if cc > FINE and outer_verdict(reduced[name], raw) in LOST]
    if deceptive:
        lines.append(
            "- Don't judge by the overall CC1/2, which strong reflections at low resolution make: "
            f"it stays above {FINE} with {listed(deceptive)}, and yet the outer shell is lost."
        )
    lines.extend(_codec_costs(reduced))
    lines.append(
        "- Usable resolution (correlation above "
        f"{USABLE}, what a CC1/2 of 0.3 amounts to): "
        + ", ".join(f"`{name}` {reach(record)}" for name, record in done.items())
        + "."
    )
    return lines


def _codec_costs(reduced: Mapping[str, Record]) -> list[str]:
    """What each codec saves and costs beside the same sums and bins without it, all stored with bslz4."""
    usual = {name: record for name, record in reduced.items() if is_usual(record)}
    plain = {record["wish"]["words"]: name for name, record in usual.items()}
    lines = []
    for name, record in usual.items():
        other = plain.get(without_codec(record["wish"]["words"]))
        if other is None or not has_codec(record):
            continue
        without = reduced[other]
        lines.append(
            f"- The codec of `{name}` makes the files {_smaller(record, without, 'ratio')} than `{other}` "
            f"alone (with bszstd {_smaller(record, without, 'ratio_strong')}), and {_reach_change(record, without)}."
        )
    return lines


def _reach_change(record: Record, without: Record) -> str:
    before, after = reach(without), reach(record)
    if before == after:
        return f"leaves the usable resolution at {after}"
    return f"takes the usable resolution from {before} to {after}"


def _smaller(record: Record, without: Record, ratio: str) -> str:
    saved = 100 * (1 - without[ratio] / record[ratio])
    return f"{saved:.0f} % smaller" if saved >= 0 else f"{-saved:.0f} % larger"


def _anomalous_advice(done: Mapping[str, Record], raw: Record) -> list[str]:
    before = overall(raw)["cc_anomalous_reference"]
    parts = [
        f"`{name}` {number(overall(record)['cc_anomalous_reference'], '{:.3f}')}"
        for name, record in done.items()
        if name != "raw"
    ]
    return [
        f"- Anomalous differences correlate with the reference's at {before:.3f} in the unreduced data, "
        f"and after reduction: {', '.join(parts)}."
    ]
