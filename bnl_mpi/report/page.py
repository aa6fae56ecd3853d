"""The report as one page of HTML, with nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from ..estimate.choose import size_text
from ..estimate.show import number
from ..spots.losses import CARE, INVISIBLE, KEPT, LOST, Losses
from . import pictures, png
from .gather import Shown
from .pictures import Frames
from .style import CSS, SCRIPT

TONES = {KEPT: "kept", LOST: "lost"}
LARGEST = 1_500_000
NARROWEST = 360
MOST_TWICE = 450_000


def html(title: str, body: Sequence[str], script: str = SCRIPT) -> str:
    """A whole page."""
    return "\n".join(
        [
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            # An icon of its own, or browsers ask the server for one.
            f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{CSS}</style></head><body><main>',
            *body,
            f"</main><script>{script}</script></body></html>\n",
        ]
    )


def report(shown: Shown, replay: str, provenance: Mapping[str, str]) -> str:
    """The page; pictures get narrower until it is below 1.5 MB."""
    widest = pictures.WIDEST
    while True:
        frames = pictures.frames_of(shown.view, shown.geometry, shown.plan.binning, widest)
        page = _page(shown, frames, replay, provenance)
        if len(page.encode()) < LARGEST or widest <= NARROWEST:
            return page
        widest = int(widest * 0.8)


def _page(shown: Shown, frames: Frames, replay: str, provenance: Mapping[str, str]) -> str:
    name = shown.master.rsplit("/", 1)[-1]
    body = [
        f"<header><p class=soft>bnl-mpi report</p><h1>{escape(name)}</h1>",
        f"<p>Made from <b>{escape(shown.against.rsplit('/', 1)[-1])}</b>: {escape(what_was_done(shown))}</p></header>",
        verdict(shown.losses),
        tiles(shown),
        *(f"<p class=soft>{escape(note)}</p>" for note in shown.notes),
        *_frames(shown, frames),
        *_zooms(shown),
        "<h2>What spots lose</h2>",
        f"<p>{shown.pairs.n} spots were summed over their shoeboxes with the background around each, in the raw frames "
        "and in the images of the same frames. <i>Added noise</i> is the rms change over the Poisson sigma of the sum: "
        "0.1 is invisible, 1 doubles the variance, as if half of the photons were gone.</p>",
        _grid([pictures.shells_chart(shown.losses), pictures.correlation_chart(shown.losses)]),
        table(shown.losses),
        "<p class=soft>Spots were found in the raw frames; those too weak to be found fare worse, at most by what the "
        "background's variance tells.</p>"
        if not shown.losses.predicted
        else "",
        "<h2>Intensities and background</h2>",
        _grid(
            [
                pictures.scatter_chart(shown),
                pictures.radial_chart(shown),
                pictures.histogram_chart(shown),
                pictures.sweep_chart(shown),
                pictures.sizes_chart(shown),
                pictures.errors_chart(shown),
            ]
        ),
        "<h2>How it was made</h2>",
        "<p>This command makes the same set again:</p>",
        f"<pre>{escape(replay)}</pre>",
        _list(provenance),
    ]
    return html(f"{name}: {shown.losses.verdict}", body)


def what_was_done(shown: Shown) -> str:
    """The settings in words."""
    plan, options = shown.plan, shown.options
    parts = []
    if plan.sum > 1:
        parts.append(f"{plan.sum} frames summed into an image")
    if plan.binning > 1:
        parts.append(f"{plan.binning} x {plan.binning} pixels binned into one")
    if options.codec is not None:
        target = f"{options.codec_level:g}" if options.error_target is None else "{} {:g}".format(*options.error_target)
        parts.append(f"coded by {options.codec} ({target})")
    else:
        parts.append("no lossy codec")
    return ", ".join([*parts, f"stored with {options.compression}"]) + "."


def verdict(losses: Losses) -> str:
    """The word, and why."""
    tone = TONES.get(losses.verdict, "care")
    return (
        f'<section class="verdict {tone}" aria-label="Verdict"><strong>{escape(losses.verdict)}</strong>'
        f"{escape(losses.reason)}.</section>"
    )


def tiles(shown: Shown) -> str:
    """The figures that come first."""
    plan, losses = shown.plan, shown.losses
    ratio = 2 * plan.n_frames * plan.shape_in[0] * plan.shape_in[1] / max(1, shown.bytes_out)
    oy, ox = plan.shape_out
    cells = (
        (f"{ratio:.1f} : 1", "ratio to 2 bytes a raw pixel"),
        (f"{size_text(shown.bytes_in)} → {size_text(shown.bytes_out)}", "files before and after"),
        (f"{plan.n_frames} → {plan.n_images}", f"frames to images of {ox} x {oy}"),
        (number(losses.outer_noise), "added noise, outer shells"),
        (number(losses.weak.added_noise), "added noise, weakest third"),
        (number(losses.kept, 3), "least correlation of a shell"),
        (f"{losses.background.bias:+.3f}", "background bias, counts"),
        (number(losses.background.variance), "background variance / Poisson"),
    )
    return '<ul class="tiles">' + "".join(f"<li><b>{escape(v)}</b>{escape(t)}</li>" for v, t in cells) + "</ul>"


def _frames(shown: Shown, frames: Frames) -> list[str]:
    view, binning = shown.view, shown.plan.binning
    told = (
        f"frames {view.frames.start + 1} to {view.frames.stop}"
        if len(view.frames) > 1
        else (f"frame {view.frames.start + 1}")
    )
    pixel = f"pixels of {binning} x {binning}" if binning > 1 else "raw pixels"
    pool = f", the greatest of {frames.pool} x {frames.pool} shown as one" if frames.pool > 1 else ""
    size = f'width="{frames.width}" height="{frames.height}"'
    before, after, difference = (png.data_url(p) for p in (frames.before, frames.after, frames.difference))
    bar = ",".join(f"rgb{c}" for c in pictures.COUNTS)
    signs = ",".join(f"rgb{c}" for c in pictures.SIGNED)
    masked = '<i class="masked"></i> masked, invalid or saturated'
    differs = (
        "Blue has fewer counts after, red more." if frames.differs else "No pixel differs: the images are exact sums."
    )
    return [
        f"<h2>{told.capitalize()}, before and after</h2>",
        '<div class="pictures"><figure><div class="frame" id="f1">',
        f'<img src="{before}" {size} alt="Diffraction image of {told} before, logarithmic colours">',
        f'<img class="over" src="{after}" {size} alt="The same image after, as it is stored">',
        frames.overlay,
        '<span class="bar"></span><span class="tag left">before</span><span class="tag right">after</span></div>',
        '<input type="range" min="0" max="100" value="50" step="0.1" data-frame="f1" '
        'aria-label="Slide between the image before and after">',
        f'<div class="scale">0 <i style="background:linear-gradient(90deg,{bar})"></i> {frames.greatest} counts, '
        f"logarithmic {masked}</div>",
        f"<figcaption>Both sum {told} in {pixel}{pool}. Rings tell the resolution, the cross where the beam "
        "goes.</figcaption></figure>",
        "<div>",
        _side(before, after, size),
        f'<figure><img src="{difference}" {size} class="whole" '
        f'alt="Difference after less before in units of the Poisson sigma">',
        f'<div class="scale">-{pictures.SIGMAS:g} <i style="background:linear-gradient(90deg,{signs})"></i> '
        f"+{pictures.SIGMAS:g} sigma {masked}</div>",
        f"<figcaption>After less before, in Poisson sigmas of the counts before{pool}. {differs}</figcaption></figure>"
        "</div></div>",
    ]


def _side(before: str, after: str, size: str) -> str:
    """Both once more, whole; left out where they would make the page too large."""
    if len(before) + len(after) > MOST_TWICE:
        return ""
    pictures_of = ((before, "Before, whole"), (after, "After, whole"))
    images = "".join(f'<img src="{url}" {size} class="whole" alt="{told}">' for url, told in pictures_of)
    return f'<figure><div class="side">{images}</div><figcaption>Side by side: before, after.</figcaption></figure>'


def _zooms(shown: Shown) -> list[str]:
    if not shown.zooms:
        return []
    parts = [
        "<h2>Strong and weak spots</h2>",
        "<p>Left the raw pixels, summed over the frames of the image; right the same area as it is stored.</p>",
        '<div class="zooms">',
    ]
    for one in shown.zooms:
        before, after = pictures.zoom_pair(one)
        kind = "strong" if one.strong else "weak"
        parts.append(
            f'<figure><div class="pair">{before}{after}</div>'
            f"<figcaption>A {kind} spot, {escape(one.label)}</figcaption></figure>"
        )
    return [*parts, "</div>"]


def _grid(charts: Sequence[str]) -> str:
    return '<div class="grid">' + "".join(f"<figure>{_titled(chart)}</figure>" for chart in charts) + "</div>"


def _titled(chart: str) -> str:
    title = chart.split("<title>", 1)[1].split("</title>", 1)[0]
    return f"{chart}<figcaption>{title}</figcaption>"


def table(losses: Losses) -> str:
    """Figures by shell."""
    rows = [*losses.shells, losses.weak, losses.every]
    head = ("shell", "spots", "I/sigma", "correlation", "slope", "added noise")
    parts = ['<div class="wide" tabindex="0" role="region" aria-label="Losses by shell"><table><thead><tr>']
    parts += [f"<th>{text}</th>" for text in head]
    parts.append("</tr></thead><tbody>")
    for row in rows:
        figures = (number(row.i_over_sigma, 1), number(row.correlation, 4), number(row.slope, 3))
        cells = (row.label, str(row.spots), *figures, number(row.added_noise))
        parts.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    parts.append("</tbody></table></div>")
    parts.append(
        f"<p class=soft>Kept: added noise of every shell, and of the weakest third, at most {INVISIBLE:g}; "
        f"weak data lost: above {CARE:g} in one of them.</p>"
    )
    return "".join(parts)


def _list(items: Mapping[str, str]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in items.items()) + "</dl>"
