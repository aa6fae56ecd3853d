"""What a study found, as a table for a terminal and as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from .choose import Choice, command, sbatch, size_text
from .study import Estimate, Findings, wall_seconds

COLUMNS = (
    ("", "<"),
    ("setting", "<"),
    ("size", ">"),
    ("ratio", ">"),
    ("95 %", ">"),
    ("XDS", ">"),
    ("ms/frame", ">"),
    ("time", ">"),
    ("added noise", ">"),
    ("weak third", ">"),
    ("kept", ">"),
    ("slope", ">"),
    ("background", ">"),
    ("verdict", "<"),
)

LEGEND = (
    "* smaller than all that add less noise. ratio: to 2 bytes a raw pixel. added noise: rms change of a spot's sum",
    "over its Poisson sigma, in the outer half of the shells; 0.1 is invisible, 1 doubles the variance. kept: least",
    "correlation of a shell's sums before and after; slope: of the outermost. background: variance over Poisson's",
    "(bias in counts). verdict: of the worst shell, inner ones and the weakest third among them: above 0.5 with care,",
    "above 1 lost.",
)


def number(value: float | None, digits: int = 2) -> str:
    """With so many decimals, or a dash."""
    return "-" if value is None else f"{value:.{digits}f}"


def seconds_text(seconds: float) -> str:
    """`45 s`, `12 min`, `3.1 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def cells(findings: Findings, one: Estimate, workers: int) -> tuple[str, ...]:
    """A row of the table."""
    projection, losses = one.projection, one.losses
    slopes = [row.slope for row in losses.shells if row.slope is not None]
    outer = losses.outer_noise if losses.shells else losses.every.added_noise
    return (
        "*" if one.front else "",
        one.name,
        size_text(projection.total),
        f"{projection.ratio:.1f}",
        f"{projection.ratio_low:.1f}-{projection.ratio_high:.1f}",
        "yes" if one.reads_xds else "no",
        f"{one.ms_per_frame:.1f}",
        seconds_text(wall_seconds(one, findings.frames, workers)),
        number(outer),
        number(losses.weak.added_noise),
        number(losses.kept, 3),
        number(slopes[-1] if slopes else losses.every.slope),
        f"{number(losses.background.variance)} ({losses.background.bias:+.2f})",
        losses.verdict,
    )


def lines(findings: Findings, choice: Choice, workers: int | None, keep: str | None = None) -> list[str]:
    """The table, the advice, the recommendation and its commands."""
    ny, nx = findings.shape
    n = workers or 1
    out = [
        f"{findings.infile}: {findings.frames} frames of {nx} x {ny}, {size_text(findings.bytes_in)}; "
        f"{findings.sampled_frames} looked at in {len(findings.groups)} groups, {findings.spots} spots found",
    ]
    rows = [tuple(name for name, _ in COLUMNS), *(cells(findings, one, n) for one in findings.estimates)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(COLUMNS))]
    for row in rows:
        parts = [f"{cell:{side}{width}}" for cell, (_, side), width in zip(row, COLUMNS, widths, strict=True)]
        out.append("  ".join(parts).rstrip())
    out += LEGEND
    out.append(f"time: of the whole set on {n} worker{'s' * (n != 1)} like this one")
    out += findings.sizes.advice()
    out += [f"note: {note}" for note in findings.notes]
    if choice.estimate is None:
        return [*out, f"recommended: none; {choice.reason}"]
    out.append(f"recommended: {choice.estimate.name}, {choice.reason}; {choice.estimate.losses.reason}")
    out.append(f"  {command(findings, choice.estimate, workers, keep)}")
    return [*out, f"  {sbatch(findings, choice.estimate, workers, keep)}"]


def as_json(findings: Findings, choice: Choice, workers: int | None, keep: str | None = None) -> dict[str, Any]:
    """The same with all figures by shell."""
    chosen = choice.estimate
    return {
        "infile": findings.infile,
        "frames": findings.frames,
        "shape": list(findings.shape),
        "sampled": [[g.start + 1, g.stop] for g in findings.groups],
        "spots": findings.spots,
        "bytes_in": findings.bytes_in,
        "spot_sizes": dataclasses.asdict(findings.sizes),
        "advice": findings.sizes.advice(),
        "notes": list(findings.notes),
        "settings": [setting_json(findings, one, workers) for one in findings.estimates],
        "recommended": None if chosen is None else chosen.name,
        "reason": choice.reason,
        "command": None if chosen is None else command(findings, chosen, workers, keep),
        "sbatch": None if chosen is None else sbatch(findings, chosen, workers, keep),
    }


def setting_json(findings: Findings, one: Estimate, workers: int | None) -> dict[str, Any]:
    losses = one.losses
    return {
        "name": one.name,
        "bytes_out": round(one.projection.total),
        "bytes_out_low": round(one.projection.low),
        "bytes_out_high": round(one.projection.high),
        "ratio_to_raw16": one.projection.ratio,
        "ratio_low": one.projection.ratio_low,
        "ratio_high": one.projection.ratio_high,
        "xds": one.reads_xds,
        "ms_per_frame": one.ms_per_frame,
        "seconds": wall_seconds(one, findings.frames, workers or 1),
        "front": one.front,
        "losses": losses_json(losses),
    }


def losses_json(losses: Any) -> dict[str, Any]:
    """`spots.losses.Losses` as JSON can hold it."""
    row = dataclasses.asdict
    return {
        "added_noise": losses.outer_noise,
        "kept": losses.kept,
        "verdict": losses.verdict,
        "reason": losses.reason,
        "by": losses.by,
        "predicted": losses.predicted,
        "shells": [row(one) for one in losses.shells],
        "weak_shells": [row(one) for one in losses.weak_shells],
        "weak": row(losses.weak),
        "all": row(losses.every),
        "background": row(losses.background),
    }
