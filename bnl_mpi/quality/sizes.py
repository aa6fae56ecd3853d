"""Settings against each other at equal sizes: sections of the page of `bnl_mpi.quality.page`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .records import (
    Column,
    Record,
    by_shell,
    factors,
    has_codec,
    is_codestream,
    is_usual,
    kept,
    listed,
    middle,
    number,
    outer,
    overall,
    overview,
    reach,
    stored_as,
    table,
    without_codec,
)

TIERS = (50, 110, 200, 500)
"""Ratios to 2 bytes a raw pixel at which settings are compared."""

WITHIN = (0.99, 1.2)
"""Of a tier's ratio: what belongs to it. Larger files would have it easy."""

WIDTH_IN_SIGMAS = 2.355
"""Full width at half height of a normal distribution, in standard deviations."""

_EQUAL_TEXT = """### The same size, as a codestream

A codec's images stored with bslz4 take many times what its codestreams take. `-T R -c htj2k` stores the codestream
itself: for each codec above, the largest such set, with the same binning and sums, that is no larger than its files.
*Kept* is the correlation with the reference, averaged over the shells.
"""

_BEST_TEXT = """### What keeps the most at each size

All settings whose files come to about the same ratio or a little more; what keeps the most is in bold, though a few
thousandths of *kept* are within the scatter of crystals of one kind (`docs/kept.md`). `-c htj2k` sets open with h5py,
dxtbx and DIALS; `bnl-mpi expand` makes an XDS set of them, larger again.
"""

_LIMITS_TEXT = """### How far to bin and sum

What binning and summing may take depends on the crystal and the detector's distance, and can be told from one
unreduced data set: dials.integrate prints *sigma b* and *sigma m*, XDS the same in INTEGRATE.LP as
BEAM_DIVERGENCE_E.S.D. and REFLECTING_RANGE_E.S.D.

- *Spot spacing*, in pixels: wavelength x distance / (longest cell axis x pixel size). After binning, neighbours
  must still be told apart, and the background between them be seen.
- *Rocking width*: 2.35 x sigma m. An image much wider than that adds background without signal, and
  180 degrees x resolution / (pi x longest cell axis) less the rocking width is where spots begin to overlap.
"""


def sections(done: Mapping[str, Record]) -> list[str]:
    """The sections for which there are records: equal sizes, the best at each size, how far to go."""
    parts = [_equal_sizes(done), _best_at_each(done), _limits(done)]
    return [part for part in parts if part]


def partner(record: Record, done: Mapping[str, Record]) -> str | None:
    """The largest codestream setting of the same binning and sums that is no larger than `record`."""
    same = {
        name: other
        for name, other in done.items()
        if is_codestream(other)
        and has_codec(other)
        and without_codec(other["wish"]["words"]) == without_codec(record["wish"]["words"])
        and other["bytes"] <= record["bytes"]
    }
    return max(same, key=lambda name: int(same[name]["bytes"])) if same else None


def _equal_sizes(done: Mapping[str, Record]) -> str:
    coded = {name: record for name, record in done.items() if has_codec(record) and is_usual(record)}
    pairs = {name: other for name, record in coded.items() if (other := partner(record, done))}
    if not pairs:
        return ""
    columns: dict[str, Record] = {}
    for name, other in pairs.items():
        columns |= {name: done[name], other: done[other]}
    lines = [_EQUAL_TEXT]
    lines.extend(_pair_sentence(name, other, done) for name, other in pairs.items())
    lines.append("")
    lines.append(by_shell("Correlation with the reference", "cc_reference", columns, "{:.3f}"))
    lines.append(by_shell("CC1/2", "cc_half", columns, "{:.3f}"))
    return "\n".join(lines)


def _pair_sentence(name: str, other: str, done: Mapping[str, Record]) -> str:
    before, after = done[name], done[other]
    return (
        f"- `{name}`, {before['bytes'] / 1e6:.1f} MB: kept {kept(before):.3f}, usable to {reach(before)}; "
        f"`{other}`, {after['bytes'] / 1e6:.1f} MB: kept {kept(after):.3f}, usable to {reach(after)}."
    )


def of_tier(tier: float, done: Mapping[str, Record]) -> dict[str, Record]:
    """The settings of about that ratio, what keeps most first."""
    near = {
        name: record
        for name, record in done.items()
        if name != "raw" and WITHIN[0] * tier <= record["ratio"] <= WITHIN[1] * tier
    }
    return dict(sorted(near.items(), key=lambda item: -kept(item[1])))


def best_of_tiers(done: Mapping[str, Record]) -> dict[int, str]:
    """The setting that keeps most at each tier where there are two or more to choose from."""
    tiers = {tier: list(of_tier(tier, done)) for tier in TIERS}
    return {tier: names[0] for tier, names in tiers.items() if len(names) > 1}


_COLUMNS: Sequence[Column] = (
    ("ratio", lambda record: f"{record['ratio']:.0f}"),
    ("stored as", lambda record: "codestream" if is_codestream(record) else stored_as(record)),
    ("kept", lambda record: number(kept(record), "{:.3f}")),
    ("CC with reference, all", lambda record: number(overall(record)["cc_reference"], "{:.4f}")),
    ("mid shell", lambda record: number(middle(record)["cc_reference"], "{:.3f}")),
    ("outer shell", lambda record: number(outer(record)["cc_reference"], "{:.3f}")),
    ("CC1/2, mid", lambda record: number(middle(record)["cc_half"], "{:.3f}")),
    ("outer", lambda record: number(outer(record)["cc_half"], "{:.3f}")),
    ("usable to", reach),
    ("indexed, %", lambda record: f"{100 * record['indexed_fraction']:.1f}"),
)


def _best_at_each(done: Mapping[str, Record]) -> str:
    best = best_of_tiers(done)
    if not best:
        return ""
    parts = [_BEST_TEXT]
    for tier, name in best.items():
        rows = overview(of_tier(tier, done), _COLUMNS)
        parts.append(f"About {tier}:1\n\n" + rows.replace(f"| `{name}` |", f"| **`{name}`** |"))
    words = [f"`{done[name]['wish']['words']}` at {tier}:1" for tier, name in best.items()]
    parts.append(f"What keeps the most: {', '.join(words)}.\n")
    parts.append(by_shell("Correlation with the reference", "cc_reference", _with_raw(best.values(), done), "{:.3f}"))
    return "\n".join(parts)


def _with_raw(names: Any, done: Mapping[str, Record]) -> dict[str, Record]:
    return {name: done[name] for name in ("raw", *names) if name in done}


def _limits(done: Mapping[str, Record]) -> str:
    found = done["raw"].get("geometry") if "raw" in done else None
    best = best_of_tiers(done)
    if not found or not best:
        return ""
    rocking = WIDTH_IN_SIGMAS * found["rocking_sigma"]
    rows = []
    for b, s in sorted({factors(record) for name, record in done.items() if name != "raw"}):
        names = [name for name in best.values() if factors(done[name]) == (b, s)]
        alone = [record for record in done.values() if factors(record) == (b, s) and not has_codec(record)]
        rows.append(
            [
                f"-b {b} -s {s}",
                f"{found['spot_spacing'] / b:.1f}",
                f"{s * found['oscillation']:.2f}",
                f"{s * found['oscillation'] / rocking:.1f}",
                number(kept(alone[0]), "{:.3f}") if alone else "-",
                listed(names) or "-",
            ]
        )
    header = ["", "spot spacing, image pixels", "image, degrees", "of the rocking width", "kept without a codec"]
    here = (
        f"Here: spots of {WIDTH_IN_SIGMAS * found['spot_sigma']:.1f} pixels (full width at half height), "
        f"{found['spot_spacing']:.1f} pixels apart along the longest axis of {found['longest_axis']:.1f} Angstrom; a "
        f"rocking width of {rocking:.2f} degrees; frames of {found['oscillation']:.2f} degrees.\n"
    )
    used = [factors(done[name]) for name in best.values()]
    far = _furthest(found["spot_spacing"], found["oscillation"] / rocking, used)
    return "\n".join([_LIMITS_TEXT, here, table([*header, "best at its size"], rows), far])


def _furthest(spacing: float, width: float, used: Sequence[tuple[int, int]]) -> str:
    """How far the best settings went, given the spots' spacing, pixels, and a frame's part of the rocking width."""
    text = (
        f"The best settings above leave at least {spacing / max(b for b, _ in used):.1f} image pixels between spots, "
        f"and make images of at most {width * max(s for _, s in used):.1f} rocking widths"
    )
    taken = [b * b * s for b, s in used]
    if len(taken) > 1 and taken == sorted(taken) and taken[-1] > taken[0]:
        text += ": smaller files are better made by binning and summing more than by a coarser code"
    return text + ". Longer axes, split spots and ice rings, of which this tells nothing, want smaller factors.\n"
