"""The report as one picture, by matplotlib, headless."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from ..errors import UsageError
from ..estimate.choose import size_text
from ..spots.losses import CARE, INVISIBLE, KEPT, LOST
from . import pictures
from .gather import Shown
from .page import what_was_done

COLOURS = ("#1667b7", "#d1495b", "#2a9d6f", "#8a93a3")
TONES = {KEPT: "#1d7f4f", LOST: "#b3261e"}


def png(shown: Shown) -> bytes:
    """A page of 16 x 11 inches at 110 dots an inch."""
    figure_class, canvas_class = _matplotlib()
    figure = figure_class(figsize=(16, 11), dpi=110, layout="constrained", facecolor="white")
    canvas_class(figure)
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=[1.1, 5.6, 4.3])
    _head(top, shown)
    _frames(middle, shown)
    axes = bottom.subplots(1, 4)
    for draw, axis in zip((_shells, _scatter, _radial, _sweep), axes, strict=True):
        draw(axis, shown)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _matplotlib() -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("a PNG needs matplotlib: pip install 'bnl-mpi[report]', or give -o a name in .html") from error
    return Figure, FigureCanvasAgg


def _head(part: Any, shown: Shown) -> None:
    losses, plan = shown.losses, shown.plan
    ratio = 2 * plan.n_frames * plan.shape_in[0] * plan.shape_in[1] / max(1, shown.bytes_out)
    part.text(0.01, 0.72, shown.master.rsplit("/", 1)[-1], size=19, weight="bold", va="center")
    part.text(0.01, 0.33, f"from {shown.against.rsplit('/', 1)[-1]}: {what_was_done(shown)}", size=11, va="center")
    sizes = f"{size_text(shown.bytes_in)} to {size_text(shown.bytes_out)}"
    part.text(0.01, 0.05, f"{sizes}, {ratio:.1f} : 1 to 2 bytes a raw pixel", size=11, va="center")
    tone = TONES.get(losses.verdict, "#a96a00")
    part.text(0.99, 0.72, losses.verdict, size=19, weight="bold", ha="right", va="center", color=tone)
    part.text(0.99, 0.05, losses.reason, size=11, ha="right", va="center")


def _frames(part: Any, shown: Shown) -> None:
    view, binning = shown.view, shown.plan.binning
    k = max(1, -(-max(view.exact.shape) // pictures.WIDEST))
    bad = pictures.pooled(view.bad, k, np.minimum)
    clean = [np.where(view.bad != 0, 0, image).astype(np.int64) for image in (view.exact, view.stored)]
    shown_ones = [pictures.pooled(image, k, np.maximum) for image in clean]
    good = shown_ones[0][bad == 0]
    greatest = max(8.0, float(np.percentile(good, 99.9)) if good.size else 8.0)
    colours = np.array([*pictures.COUNTS, pictures.MASK], np.uint8)
    axes = part.subplots(1, 3)
    for axis, image, name in zip(axes, shown_ones, ("before", "after"), strict=False):
        axis.imshow(colours[pictures.logarithmic(image, bad, greatest)])
        _rings(axis, shown, binning * k, image.shape)
        axis.set_title(f"{name}, frames {view.frames.start + 1} to {view.frames.stop}")
    sigmas = (clean[1] - clean[0]) / np.sqrt(np.maximum(clean[0], 1))
    high, low = pictures.pooled(sigmas, k, np.maximum), pictures.pooled(sigmas, k, np.minimum)
    difference = np.where(bad != 0, np.nan, np.where(high > -low, high, low))
    drawn = axes[2].imshow(difference, cmap="coolwarm", vmin=-pictures.SIGMAS, vmax=pictures.SIGMAS)
    axes[2].set_title("after less before, Poisson sigmas")
    part.colorbar(drawn, ax=axes[2], shrink=0.75)
    for axis in axes:
        axis.set_axis_off()


def _rings(axis: Any, shown: Shown, step: float, shape: tuple[int, ...]) -> None:
    if shown.geometry is None:
        return
    for d in (8.0, 4.0, 2.5, 1.8):
        ring = shown.geometry.circle(d) / step
        axis.plot(ring[:, 0], ring[:, 1], color="white", linewidth=0.6, alpha=0.6)
    axis.plot(*(c / step for c in shown.geometry.beam_centre), "+", color="white", markersize=9)
    axis.set_xlim(0, shape[1])
    axis.set_ylim(shape[0], 0)


def _shells(axis: Any, shown: Shown) -> None:
    losses = shown.losses
    for name, rows, colour in (("all", losses.shells, COLOURS[0]), ("weakest third", losses.weak_shells, COLOURS[1])):
        known = [row for row in rows if row.added_noise is not None]
        places = [(row.low or 0) / 2 + (row.high or 0) / 2 for row in known]
        at = [1 / p**2 for p in places] if losses.by == "d" else places
        axis.plot(at, [row.added_noise for row in known], "o-", color=colour, label=name)
    for bound in (INVISIBLE, CARE):
        axis.axhline(bound, color=COLOURS[3], linestyle="--", linewidth=1)
    axis.set_title("added noise by shell")
    axis.set_xlabel("1/d², 1/Å²" if losses.by == "d" else "radius, pixels")
    axis.set_ylabel("Poisson sigmas")
    axis.set_ylim(bottom=0)
    axis.legend()


def _scatter(axis: Any, shown: Shown) -> None:
    pairs = shown.pairs
    good = (pairs.before > 0) & (pairs.after > 0)
    if good.any():
        axis.loglog(pairs.before[good], pairs.after[good], ".", color=COLOURS[0], markersize=2.5, alpha=0.5)
        ends = [float(pairs.before[good].min()), float(pairs.before[good].max())]
        axis.loglog(ends, ends, color=COLOURS[3], linewidth=1)
    axis.set_title("spot intensities, counts")
    axis.set_xlabel("before")
    axis.set_ylabel("after")


def _radial(axis: Any, shown: Shown) -> None:
    radius, before, after = shown.radial
    axis.plot(radius, before, color=COLOURS[3], linewidth=3, label="before")
    axis.plot(radius, after, color=COLOURS[0], label="after")
    axis.set_title("background, counts a raw pixel")
    axis.set_xlabel("distance from the beam, pixels")
    axis.set_ylim(bottom=0)
    axis.legend()


def _sweep(axis: Any, shown: Shown) -> None:
    sweep, plan = shown.sweep, shown.plan
    pixels = plan.shape_in[0] * plan.shape_in[1] / 1e6
    axis.plot(sweep.frames, sweep.before * pixels, color=COLOURS[3], linewidth=3, label="before")
    axis.plot(sweep.frames, sweep.after * pixels, color=COLOURS[0], label="after")
    for frame in sweep.jumps[:20]:
        axis.axvline(frame, color=COLOURS[1], linestyle="--", linewidth=1)
    axis.set_title("million counts a frame")
    axis.set_xlabel("frame")
    axis.set_ylim(bottom=0)
    axis.legend()
