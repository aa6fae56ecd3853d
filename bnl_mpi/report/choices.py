"""What `estimate` found, as a page: the table, and size against added noise."""

from __future__ import annotations

from html import escape

from ..estimate.choose import Choice, command, sbatch, size_text
from ..estimate.show import COLUMNS, LEGEND, cells
from ..estimate.study import Estimate, Findings, harm
from ..spots.losses import CARE, INVISIBLE
from . import svg
from .page import html
from .pictures import RINGS
from .svg import Axis, Mark, Series

MOST_CURVES = 4
"""Settings whose shells are drawn: as many as the style sheet has colours."""


def choices(findings: Findings, choice: Choice, workers: int | None, keep: str | None = None) -> str:
    """The page."""
    name = findings.infile.rsplit("/", 1)[-1]
    ny, nx = findings.shape
    body = [
        f"<header><p class=soft>bnl-mpi estimate</p><h1>{escape(name)}</h1>",
        f"<p>{findings.frames} frames of {nx} x {ny}, {size_text(findings.bytes_in)}; {findings.sampled_frames} looked "
        f"at in {len(findings.groups)} groups, {findings.spots} spots found.</p></header>",
        *_recommended(findings, choice, workers, keep),
        "<h2>Size against loss</h2>",
        f'<div class="grid"><figure>{front_chart(findings, choice)}<figcaption>Towards the lower right is better: '
        "red settings are beaten by none in both.</figcaption></figure>"
        f"<figure>{shells_chart(findings, choice)}<figcaption>Added noise by shell.</figcaption></figure></div>",
        "<h2>Settings</h2>",
        _table(findings, choice, workers or 1),
        f"<p class=soft>{escape(' '.join(LEGEND))}</p>",
        "<h2>How far to bin and to sum</h2>",
        *(f"<p>{escape(line)}</p>" for line in findings.sizes.advice() or ["too few spots to tell"]),
        *(f"<p class=soft>{escape(note)}</p>" for note in findings.notes),
    ]
    return html(f"{name}: settings", body)


def _recommended(findings: Findings, choice: Choice, workers: int | None, keep: str | None) -> list[str]:
    chosen = choice.estimate
    if chosen is None:
        return [f'<section class="verdict lost"><strong>none</strong>{escape(choice.reason)}.</section>']
    return [
        f'<section class="verdict kept"><strong>{escape(chosen.name)}</strong>{escape(choice.reason)}; '
        f"{escape(chosen.losses.reason)}.</section>",
        f"<pre>{escape(command(findings, chosen, workers, keep))}</pre>",
        f"<pre>{escape(sbatch(findings, chosen, workers, keep))}</pre>",
    ]


def front_chart(findings: Findings, choice: Choice) -> str:
    """Ratio against added noise; the Pareto front as a line."""
    front = [one for one in findings.estimates if one.front]
    rest = [one for one in findings.estimates if not one.front]

    def series(name: str, some: list[Estimate], style: str, kind: str = "line") -> Series:
        return Series(name, [one.projection.ratio for one in some], [harm(one) for one in some], style, kind)

    chosen = [choice.estimate] if choice.estimate is not None else []
    drawn = [series("front", front, "s2"), series("others", rest, "s4", "points"), series("chosen", chosen, "s1")]
    told = "; ".join(f"{one.name}: {one.projection.ratio:.0f} to 1, {harm(one):.2f}" for one in findings.estimates)
    y = Axis("added noise, outer shells", low=0.0, high=max([1.2, *(1.1 * harm(one) for one in findings.estimates)]))
    marks = [Mark(INVISIBLE, "kept"), Mark(CARE, "variance doubled")]
    return svg.chart("Ratio and added noise", told, Axis("ratio to 2 bytes a raw pixel", log=True), y, drawn, marks)


def shells_chart(findings: Findings, choice: Choice) -> str:
    """Added noise by shell of the chosen setting and of its neighbours on the front."""
    front = [one for one in findings.estimates if one.front or one is choice.estimate]
    at = front.index(choice.estimate) if choice.estimate in front else 0
    begin = max(0, min(at - 1, len(front) - MOST_CURVES))
    some = front[begin : begin + MOST_CURVES]
    by_d = all(one.losses.by == "d" for one in some)
    drawn, places = [], [0.0]
    for k, one in enumerate(some):
        rows = [row for row in one.losses.shells if row.added_noise is not None]
        middle = [(row.low or 0.0) / 2 + (row.high or 0.0) / 2 for row in rows]
        x = [1 / m**2 for m in middle] if by_d else middle
        places += x
        drawn.append(Series(one.name, x, [row.added_noise or 0.0 for row in rows], f"s{k + 1}"))
    ticks = [(1 / d**2, f"{d:g}") for d in (8.0, 4.0, 3.0, 2.5, 2.2, 2.0, 1.8, *RINGS[11:])] if by_d else []
    values = [v for one in drawn for v in one.y]
    axis = Axis("resolution, Å" if by_d else "radius, pixels", low=0.0, high=max(places) or 1.0, ticks=ticks)
    told = "; ".join(f"{one.name}: {min(one.y):.2f} to {max(one.y):.2f}" for one in drawn if one.y) or "no spots"
    y = Axis("added noise, sigmas", low=0.0, high=max([1.2, *(1.1 * v for v in values)]))
    return svg.chart("Added noise by shell", told, axis, y, drawn, [Mark(INVISIBLE, "kept"), Mark(CARE)])


def _table(findings: Findings, choice: Choice, workers: int) -> str:
    parts = ['<div class="wide" tabindex="0" role="region" aria-label="Settings"><table><thead><tr>']
    parts += [f"<th>{escape(name)}</th>" for name, _ in COLUMNS]
    parts.append("</tr></thead><tbody>")
    for one in findings.estimates:
        parts.append('<tr class="chosen">' if one is choice.estimate else "<tr>")
        parts += [f"<td>{escape(cell)}</td>" for cell in cells(findings, one, workers)]
        parts.append("</tr>")
    return "".join([*parts, "</tbody></table></div>"])
