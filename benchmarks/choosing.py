"""docs/choosing.md and its pictures, made by the commands that it shows: `python -m benchmarks.choosing`."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import tempfile
from pathlib import Path

from bnl_mpi.cli import main
from bnl_mpi.report import pictures, png

DOCS = Path(__file__).resolve().parents[1] / "docs"
FOLDER = "choosing"
SIMULATE = "simulate lyso --frames 120 --osc 0.1 --resolution 1.8 --brightness 150"
ESTIMATE = "estimate lyso_master.h5 --target_ratio 60"
REDUCE = "-i lyso_master.h5 -b 3 -s 2 -c bslz4 -o lyso_b3s2"
COARSE = "-i lyso_master.h5 -b 2 -s 2 -H 16 -c bslz4 -o lyso_h16"
REPORT = "report lyso_h16_master.h5 --against lyso_master.h5 -o lyso_h16.html"


def run(words: str) -> str:
    """What a command prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        status = main(words.split())
    if status:
        raise SystemExit(f"bnl-mpi {words}: ended with {status}")
    return out.getvalue()


def timeless(table: str) -> str:
    """Without what differs from machine to machine: folders, and two columns of times."""
    lines = table.replace(os.getcwd() + "/", "").splitlines()
    return "\n".join(line.rstrip() for line in lines)


def save_pictures(folder: Path) -> tuple[str, str]:
    """The same part of an image before and after HCompress 16, and the two charts; returns verdict and reason."""
    from bnl_mpi.report.gather import gather
    from bnl_mpi.verify.replaying import checked_words, read_record

    master, raw = "lyso_h16_master.h5", "lyso_master.h5"
    shown = gather(master, raw, checked_words(read_record(master)[0], master, raw))
    view = shown.view
    ny, nx = view.exact.shape
    part = (slice(ny // 8, ny // 8 + 150), slice(nx // 2, nx // 2 + 200))
    for name, image in (("before", view.exact), ("after", view.stored)):
        index = pictures.logarithmic(image[part], view.bad[part], 40.0).repeat(2, axis=0).repeat(2, axis=1)
        (folder / f"{name}.png").write_bytes(png.encode(index, [*pictures.COUNTS, pictures.MASK]))
    (folder / "shells.svg").write_text(standing_alone(pictures.shells_chart(shown.losses)))
    return shown.losses.verdict, shown.losses.reason


def standing_alone(chart: str) -> str:
    """A chart with the few rules of the style sheet that it needs."""
    style = (
        "<style>text{font:13px sans-serif;fill:#333}.plot,.grid,.mark,.line,.points,.dots{fill:none}.plot,.grid{"
        "stroke:#ddd}.mark{stroke:#888;stroke-dasharray:4 4}.s1{stroke:#1667b7}.s2{stroke:#d1495b}.s3{stroke:#2a9d6f}"
        ".s4{stroke:#8a93a3}.line{stroke-width:2}.dots,.points{stroke-width:7;stroke-linecap:round}.mid{text-anchor:"
        "middle}.end{text-anchor:end}</style>"
    )
    sized = chart.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" width="560" height="330" ', 1)
    return re.sub(r"(<svg[^>]*>)", r'\1<rect width="100%" height="100%" fill="#fff"/>' + style, sized, count=1) + "\n"


def page(table: str, verdict: str, reason: str, summary: str) -> str:
    return f"""# Choosing a setting

This page is made by `python -m benchmarks.choosing`; don't edit it by hand. It leads through one choice, from the raw
frames to a set that somebody can trust, on a simulated set that anybody can make:

    bnl-mpi {SIMULATE}

## 1. What would settings give, and lose?

    bnl-mpi {ESTIMATE}

{indented(table)}

Every row is one setting, by its short name: `b3s2` is `-b 3 -s 2`, `b2s2H16` adds `-H 16`, `b2s2T6` adds
`-T 6 -c htj2k`. *Size* and *ratio* are those of the whole set, told from a sample of its frames. *Added noise* is what
to look at: spots are summed in the raw frames and in the images made of the same frames, and the change is told in
Poisson sigmas of the sums. At 0.1 nobody can tell; at 1 the variance is doubled, as if half of the photons were gone.
It is told for the outer half of the resolution shells, where data are weak, and for the weakest third of all spots;
the verdict is by the worst of them, never by all spots together. `docs/quality.md` has how it agrees with DIALS.

The advice on `b` and `s` comes from the spots themselves: how wide they are, how near their neighbours lie, and how
many frames they last. `--max_size 2GB` or `--min_kept 0.98` choose by other aims, `--spots FILE` judges reflections
that DIALS or XDS predicted, weak ones included, `--html FILE` draws the table as a page.

## 2. Make it

    bnl-mpi {REDUCE}

{indented(summary)}

## 3. Look at what it did

A coarse codec at about the same size, for comparison:

    bnl-mpi {COARSE}
    bnl-mpi {REPORT}

Verdict: **{verdict}**: {reason}.

| before | after `-H 16` |
| --- | --- |
| ![Part of an image before the codec: noise and spots]({FOLDER}/before.png) | ![The same part after HCompress \
with scale 16: the weak background became flat squares]({FOLDER}/after.png) |

The strong spots are there; the weak ones went with the background into flat squares.

![Added noise by resolution shell after HCompress 16]({FOLDER}/shells.svg)

The report is one page of HTML with a slider between both, zooms on spots with their counts, the difference in Poisson
sigmas, losses by shell, and the command that makes the set again; `-o report.png` makes a poster.

## 4. Keep watch

A sample is a sample. `--guard 0.5` judges some images of every block while they are made, and stores those that lose
more than this with a gentler setting of the same codec:

    bnl-mpi {COARSE} --guard 0.5
"""


def indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.strip().splitlines())


def write(docs: Path) -> None:
    """Make all in a folder of its own, then the page."""
    folder = docs / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as work:
        os.chdir(work)
        try:
            run(SIMULATE)
            table = timeless(run(ESTIMATE))
            summary = timeless(run(REDUCE))
            run(COARSE)
            verdict, reason = save_pictures(folder)
        finally:
            os.chdir(here)
    (docs / "choosing.md").write_text(page(table, verdict, reason, summary))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docs", type=Path, default=DOCS)
    write(parser.parse_args().docs)
