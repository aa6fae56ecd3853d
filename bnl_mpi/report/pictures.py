"""Frames as PNG files, and the figures of a set as charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..estimate.resolution import Geometry
from ..spots.losses import CARE, INVISIBLE, Losses, Row
from . import png, svg
from .gather import Shown, View, Zoom
from .svg import Axis, Mark, Series

Array = NDArray[Any]

WIDEST = 720
"""Pixels of a frame's picture across."""
LEVELS = 40
COUNTS = png.gradient(("#0a0a23", "#35125f", "#7d2482", "#c63d73", "#f4785f", "#fdb977", "#fcf8c5"), LEVELS)
HALF = 16
SIGMAS = 5.0
SIGNED = png.gradient(("#2b6cd4", "#9bbcf2", "#f4f4f4", "#f2ab8f", "#c8341f"), 2 * HALF + 1)
MASK = (96, 108, 122)
RINGS = (8.0, 6.0, 5.0, 4.0, 3.5, 3.0, 2.5, 2.2, 2.0, 1.8, 1.6, 1.4, 1.2, 1.0, 0.9, 0.8)
FEWEST_NUMBERS = 1000
"""A zoom's counts are written out where all are below it."""


@dataclass(frozen=True)
class Frames:
    """The pictures of one image; of one size."""

    before: bytes
    after: bytes
    difference: bytes
    width: int
    height: int
    greatest: int
    """Counts of the lightest colour."""
    pool: int
    """Image pixels a side that a picture's pixel stands for, by the greatest of them."""
    overlay: str
    """SVG: rings and beam centre, in the picture's pixels."""
    differs: bool


def pooled(image: Array, k: int, how: np.ufunc) -> Array:
    """(ceil(ny/k), ceil(nx/k)): `how` over k x k pixels, fewer at the edges."""
    if k == 1:
        return image
    rows = how.reduceat(image, np.arange(0, image.shape[0], k), axis=0)
    return np.asarray(how.reduceat(rows, np.arange(0, image.shape[1], k), axis=1))


def logarithmic(image: Array, bad: Array, greatest: float) -> Array:
    """Indices into COUNTS by the logarithm, and one more for the mask."""
    level = np.log1p(np.clip(image.astype(np.float64), 0, greatest)) / np.log1p(greatest) * (LEVELS - 1)
    return np.where(bad != 0, LEVELS, np.rint(level)).astype(np.uint8)


def frames_of(view: View, geometry: Geometry | None, binning: int, widest: int = WIDEST) -> Frames:
    """Both pictures on one scale, and their difference in Poisson's sigmas of the counts before."""
    k = max(1, -(-max(view.exact.shape) // widest))
    bad = pooled(view.bad, k, np.minimum)
    clean = [np.where(view.bad != 0, 0, image).astype(np.int64) for image in (view.exact, view.stored)]
    before, after = (pooled(image, k, np.maximum) for image in clean)
    good = before[bad == 0]
    greatest = max(8.0, float(np.percentile(good, 99.9)) if good.size else 8.0)
    sigmas = (clean[1] - clean[0]) / np.sqrt(np.maximum(clean[0], 1))
    # Of each sign the farthest; then the farther of the two.
    high, low = pooled(sigmas, k, np.maximum), pooled(sigmas, k, np.minimum)
    difference = np.where(high > -low, high, low)
    signed = np.rint(np.clip(difference, -SIGMAS, SIGMAS) / SIGMAS * HALF) + HALF
    palette = [*COUNTS, MASK]
    height, width = before.shape
    return Frames(
        png.encode(logarithmic(before, bad, greatest), palette),
        png.encode(logarithmic(after, bad, greatest), palette),
        png.encode(np.where(bad != 0, 2 * HALF + 1, signed).astype(np.uint8), [*SIGNED, MASK]),
        width,
        height,
        round(greatest),
        k,
        overlay(geometry, binning * k, width, height),
        bool(np.any(sigmas != 0)),
    )


def overlay(geometry: Geometry | None, step: float, width: int, height: int) -> str:
    """Resolution rings with their d, and a cross in the beam; `step` raw pixels a picture's pixel."""
    head = f'<svg viewBox="0 0 {width} {height}" class="rings" aria-hidden="true">'
    if geometry is None:
        return head + "</svg>"
    x, y = (c / step for c in geometry.beam_centre)
    size = width / 40
    parts = [head, f'<path d="M{x - size:.1f} {y:.1f}h{2 * size:.1f}M{x:.1f} {y - size:.1f}v{2 * size:.1f}"/>']
    shown = [d for d in RINGS if _crosses(geometry.circle(d) / step, width, height)]
    for d in shown[:: max(1, -(-len(shown) // 5))]:
        ring = geometry.circle(d) / step
        points = "L".join(f"{px:.0f} {py:.0f}" for px, py in ring if np.isfinite(px))
        parts.append(f'<path d="M{points}"/>')
        inside = [(px, py) for px, py in ring if 12 < px < width - 50 and 16 < py < height - 8]
        if inside:
            px, py = min(inside, key=lambda p: p[1])
            parts.append(f'<text x="{px + 4:.0f}" y="{py - 4:.0f}" font-size="{width / 46:.0f}">{d:g} &#197;</text>')
    return "".join([*parts, "</svg>"])


def _crosses(ring: Array, width: int, height: int) -> bool:
    inside = (ring[:, 0] > 0) & (ring[:, 0] < width) & (ring[:, 1] > 0) & (ring[:, 1] < height)
    return bool(np.count_nonzero(inside) > 12)


def zoom(cut: Array, greatest: float, told: str) -> str:
    """A cut as squares, with its counts as numbers where all have at most three figures."""
    n = cut.shape[0]
    index = logarithmic(cut, np.zeros(cut.shape), greatest)
    cell = 240 / n
    url = png.data_url(png.encode(index, [*COUNTS, MASK]))
    parts = [
        f'<svg viewBox="0 0 240 240" role="img" aria-label="{told}" class="zoom">',
        f'<image href="{url}" width="240" height="240" preserveAspectRatio="none" class="pixels"/>',
    ]
    if int(cut.max()) < FEWEST_NUMBERS:
        figures = len(str(int(cut.max())))
        size = min(cell * 0.62, 1.5 * cell / max(2, figures))
        for row in range(n):
            for column in range(n):
                light = "d" if index[row, column] > 0.7 * LEVELS else "l"
                at = f'x="{(column + 0.5) * cell:.1f}" y="{(row + 0.5) * cell + size * 0.36:.1f}"'
                parts.append(f'<text {at} class="{light}" font-size="{size:.1f}">{int(cut[row, column])}</text>')
    return "".join([*parts, "</svg>"])


def zoom_pair(one: Zoom) -> tuple[str, str]:
    """Before and after, each on its own scale: a binned pixel has more counts."""
    pictures = []
    for cut, name in ((one.before, "before"), (one.after, "after")):
        kind = "strong" if one.strong else "weak"
        told = f"A {kind} spot {name}, {cut.shape[0]} pixels across, greatest count {int(cut.max())}"
        pictures.append(zoom(cut, max(8.0, float(cut.max())), told))
    return pictures[0], pictures[1]


# Charts


def _places(rows: Sequence[Row], by: str) -> list[float]:
    """Where a shell is drawn: 1/d^2, or the radius."""
    middle = [(((row.low or 1) + (row.high or 1)) / 2) for row in rows]
    return [1 / m**2 for m in middle] if by == "d" else middle


def _shell_axis(losses: Losses) -> Axis:
    if losses.by != "d":
        return Axis("radius, pixels")
    rows = losses.shells
    ticks = [(1 / d**2, f"{d:g}") for d in RINGS]
    places = [1 / (row.high or 1) ** 2 for row in rows]
    shown = [tick for tick in ticks if not places or tick[0] <= max(places)]
    spread: list[tuple[float, str]] = []
    for tick in shown:
        if not spread or tick[0] - spread[-1][0] > (max(places, default=1)) / 9:
            spread.append(tick)
    return Axis("resolution, Å", low=0.0, ticks=spread)


def shells_chart(losses: Losses) -> str:
    """Added noise by shell."""
    strong = [row for row in losses.shells if row.added_noise is not None]
    weak = [row for row in losses.weak_shells if row.added_noise is not None]
    series = [
        Series(name, _places(rows, losses.by), [row.added_noise or 0.0 for row in rows], style)
        for name, rows, style in (("all spots", strong, "s1"), ("weakest third", weak, "s2"))
    ]
    top = max([1.2, *(1.08 * (row.added_noise or 0) for row in [*strong, *weak])])
    told = "; ".join(f"{row.label}: {row.added_noise:.2f}" for row in strong) or "no spots"
    marks = [Mark(INVISIBLE, "kept up to here"), Mark(CARE, "variance doubled")]
    return svg.chart(
        "Added noise by shell", told, _shell_axis(losses), Axis("added noise, sigmas", low=0.0, high=top), series, marks
    )


def correlation_chart(losses: Losses) -> str:
    """Correlation and slope by shell."""
    rows = [row for row in losses.shells if row.correlation is not None and row.slope is not None]
    at = _places(rows, losses.by)
    series = [
        Series("correlation", at, [row.correlation or 0.0 for row in rows], "s1"),
        Series("slope", at, [row.slope or 0.0 for row in rows], "s3"),
    ]
    values = [v for one in series for v in one.y]
    low, high = min([0.9, *values]), max([1.02, *values])
    told = "; ".join(f"{row.label}: {row.correlation:.3f}, {row.slope:.2f}" for row in rows) or "no spots"
    return svg.chart(
        "Correlation and slope by shell",
        told,
        _shell_axis(losses),
        Axis("before with after", low=low - 0.02, high=high + 0.02),
        series,
        [Mark(1.0)],
    )


def scatter_chart(shown: Shown) -> str:
    """Intensities before and after; weak ones in their own colour."""
    pairs = shown.pairs
    ratio = pairs.before / pairs.sigma if pairs.n else np.empty(0)
    limit = float(np.quantile(ratio, 1 / 3)) if pairs.n else 0.0
    weak = ratio <= limit
    values = np.concatenate([pairs.before, pairs.after])
    positive = values[values > 0]
    low, high = (float(np.quantile(positive, 0.01)), float(positive.max())) if positive.size else (1.0, 10.0)
    series = [
        Series("", [low, high], [low, high], "s4"),
        Series("stronger two thirds", pairs.before[~weak].tolist(), pairs.after[~weak].tolist(), "s1", "points"),
        Series("weakest third", pairs.before[weak].tolist(), pairs.after[weak].tolist(), "s2", "points"),
    ]
    told = f"{pairs.n} spots, which lie on the diagonal where nothing is lost"
    x = Axis("counts before", log=True, low=low, high=high)
    return svg.chart(
        "Intensities before and after", told, x, Axis("counts after", log=True, low=low, high=high), series
    )


def radial_chart(shown: Shown) -> str:
    """Background by distance from the beam."""
    radius, before, after = shown.radial
    ticks: list[tuple[float, str]] = []
    label = "distance from the beam, raw pixels"
    if shown.geometry is not None and len(radius):
        label = "resolution, Å"
        x, y = shown.geometry.beam_centre
        for d in RINGS:
            at = float(np.nanmedian(np.hypot(*(shown.geometry.circle(d) - (x, y)).T)))
            if np.isfinite(at) and (not ticks or at - ticks[-1][0] > radius[-1] / 9):
                ticks.append((at, f"{d:g}"))
    series = [
        Series("before", radius.tolist(), before.tolist(), "s4"),
        Series("after", radius.tolist(), after.tolist()),
    ]
    told = f"mean {_mean(before)} counts a pixel before, {_mean(after)} after"
    axis = Axis(label, low=0.0, high=float(radius[-1]) if len(radius) else 1.0, ticks=ticks)
    return svg.chart("Background by resolution", told, axis, Axis("counts a raw pixel", low=0.0), series)


def _mean(values: Array) -> str:
    return f"{values.mean():.3g}" if len(values) else "no"


def sweep_chart(shown: Shown) -> str:
    """Counts over the sweep, jumps flagged."""
    sweep = shown.sweep
    pixels = shown.plan.shape_in[0] * shown.plan.shape_in[1] / 1e6
    series = [
        Series("before", sweep.frames.tolist(), (sweep.before * pixels).tolist(), "s4"),
        Series("after", sweep.frames.tolist(), (sweep.after * pixels).tolist(), "s1"),
    ]
    jumps = [Mark(float(frame), upright=True) for frame in sweep.jumps[:20]]
    told = f"{len(sweep.frames)} images looked at; " + (
        f"jumps at frames {', '.join(map(str, sweep.jumps[:5]))}" if sweep.jumps else "no jumps"
    )
    top = 1.15 * float(max(sweep.before.max(), sweep.after.max(), 1e-9)) * pixels
    y = Axis("million counts a frame", low=0.0, high=top)
    return svg.chart("Counts over the sweep", told, Axis("frame"), y, series, jumps)


def sizes_chart(shown: Shown) -> str:
    """Each image's stored ratio."""
    sweep, plan = shown.sweep, shown.plan
    frames = np.array([len(plan.frames_of(k)) for k in range(plan.n_images)])
    ratio = 2.0 * plan.shape_in[0] * plan.shape_in[1] * frames / np.maximum(sweep.sizes[: plan.n_images], 1)
    every = max(1, len(ratio) // 400)
    series = [Series("", sweep.first_frames[::every].tolist(), ratio[::every].tolist(), "s1", "steps")]
    told = f"from {ratio.min():.1f} to {ratio.max():.1f}"
    y = Axis("ratio to 2 bytes a raw pixel", low=0.0, high=1.1 * float(ratio.max()))
    return svg.chart("Ratio of each image", told, Axis("frame"), y, series)


def errors_chart(shown: Shown) -> str:
    """The codec's error of each image that was looked at."""
    sweep = shown.sweep
    told = f"rms from {sweep.rms.min():.3g} to {sweep.rms.max():.3g} counts"
    y = Axis("rms of the codec, counts", low=0.0, high=max(1.1 * float(sweep.rms.max()), 0.1))
    series = [Series("", sweep.frames.tolist(), sweep.rms.tolist(), "s1")]
    return svg.chart("Error of each image", told, Axis("frame"), y, series)


def histogram_chart(shown: Shown) -> str:
    """How many pixels have how many counts."""
    view = shown.view
    good = view.bad == 0
    exact, stored = (np.clip(image[good].astype(np.int64), 0, None) for image in (view.exact, view.stored))
    top = int(max(exact.max(initial=1), stored.max(initial=1)))
    edges = np.unique(np.concatenate([np.arange(0, 17), np.rint(16 * 1.2 ** np.arange(0, 61))]))
    edges = np.append(edges[edges <= top], top + 1)
    at = (edges[:-1] + 1).tolist()
    series = []
    for name, values, style in (("before", exact, "s4"), ("after", stored, "s1")):
        number = np.histogram(values, edges)[0] / np.diff(edges)
        series.append(Series(name, at, number.tolist(), style, "steps"))
    told = f"image {view.image + 1}, {int(good.sum())} pixels, greatest count {int(stored.max(initial=0))}"
    x = Axis("counts of an image pixel, plus 1", log=True, low=1.0)
    return svg.chart("Histogram of counts", told, x, Axis("pixels a count", log=True), series)
