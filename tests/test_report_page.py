"""`bnl-mpi report`: its pictures against their pixels, its pages in a real browser, its words."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from make_cbf import counts, write_series
from PIL import Image
from small_sets import random_frames, random_mask, write_set

from bnl_mpi.cli import main
from bnl_mpi.report import gather, page, pictures, png, svg
from bnl_mpi.report.gather import Shown
from bnl_mpi.report.svg import Axis, Mark, Series
from bnl_mpi.simulate import simulate

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def made(folder: Path, words: str, **settings: Any) -> tuple[Path, Path]:
    """A simulated set and what `words` make of it."""
    raw = simulate(folder / "raw", **settings)
    assert main(["-i", str(raw), *words.split(), "-o", str(folder / "out")]) == 0
    return raw, folder / "out_master.h5"


def reported(folder: Path, raw: Path, out: Path, name: str = "report.html") -> str:
    assert main(["report", str(out), "--against", str(raw), "-o", str(folder / name)]) == 0
    return (folder / name).read_text() if name.endswith(".html") else ""


@pytest.fixture(scope="module")
def rotation(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("rotation")
    raw, out = made(folder, "-b 2 -s 2 -H 16 -c bslz4", frames=24, osc=0.2, resolution=2.2, detector="500k")
    return folder, raw, out


@pytest.fixture(scope="module")
def rotation_page(rotation: tuple[Path, Path, Path]) -> str:
    return reported(*rotation)


# What the page tells


class Seen(HTMLParser):
    """What a page loads, and which pictures have no words."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.pictures = 0
        self.silent: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.loads += [values[name] for name in ("src", "href") if name in values]
        if tag == "img" or (tag == "svg" and values.get("aria-hidden") != "true"):
            self.pictures += 1
            if not (values.get("alt") or values.get("aria-label")):
                self.silent.append(str(values)[:80])


def test_the_page_holds_all_that_it_shows_and_tells_it_in_words(rotation_page: str) -> None:
    seen = Seen()
    seen.feed(rotation_page)
    assert len(rotation_page.encode()) < 1_500_000
    assert all(url.startswith("data:") for url in seen.loads)
    assert "http" not in re.sub(r"http://www\.w3\.org/\S+", "", rotation_page)
    assert seen.pictures >= 15
    assert seen.silent == []


def test_the_page_tells_the_verdict_the_settings_and_the_command(
    rotation_page: str, rotation: tuple[Path, Path, Path]
) -> None:
    text = unescape(re.sub(r"<[^>]+>", " ", rotation_page))
    assert "weak data lost" in text
    assert "2 frames summed into an image, 2 x 2 pixels binned into one, coded by hcompress (16)" in text
    assert "bnl-mpi --infile raw_master.h5" in text
    assert "24 → 12" in text
    assert "plan sha256" in text


def test_its_figures_are_those_of_the_sets(rotation: tuple[Path, Path, Path]) -> None:
    shown = shown_of(*rotation[1:])
    with h5py.File(rotation[0] / "out_000001.h5") as h5:
        images = h5["entry/data/data"][()]
    view = shown.view
    assert np.array_equal(view.stored, images[view.image])
    assert shown.plan.frames_of(view.image) == view.frames
    good = view.bad == 0
    with h5py.File(rotation[0] / "raw_data_000001.h5") as h5:
        frames = h5["entry/data/data"][view.frames.start : view.frames.stop].astype(np.int64).sum(axis=0)
    ny, nx = frames.shape
    padded = np.zeros((-(-ny // 2) * 2, -(-nx // 2) * 2), np.int64)
    padded[:ny, :nx] = frames
    binned = padded.reshape(padded.shape[0] // 2, 2, -1, 2).sum(axis=(1, 3))
    assert np.array_equal(view.exact[good], binned[good])
    k = int(np.flatnonzero(shown.sweep.frames == view.frames.start + 1)[0])
    difference = view.stored[good].astype(float) - view.exact[good]
    assert shown.sweep.rms[k] == pytest.approx(np.sqrt(np.mean(difference**2)))
    assert len(shown.sweep.sizes) == 12
    assert shown.losses.verdict == "weak data lost"


def shown_of(raw: Path, out: Path) -> Shown:
    from bnl_mpi.verify.replaying import checked_words, read_record

    return gather.gather(str(out), str(raw), checked_words(read_record(str(out))[0], str(out), str(raw)))


def test_zooms_are_the_pixels_of_both_sets(rotation: tuple[Path, Path, Path]) -> None:
    shown = shown_of(*rotation[1:])
    assert {one.strong for one in shown.zooms} == {True, False}
    for one in shown.zooms:
        assert one.before.shape == (12, 12)
        assert one.after.shape == (6, 6)
        left, right = pictures.zoom_pair(one)
        for cut, drawn in ((one.before, left), (one.after, right)):
            ElementTree.fromstring(drawn)
            numbers = re.findall(r"<text[^>]*>(\d+)</text>", drawn)
            if cut.max() < 1000:
                assert [int(n) for n in numbers] == cut.ravel().tolist()
            else:
                assert numbers == []


def test_jumps_are_flagged_where_counts_step() -> None:
    calm = 100 + np.random.default_rng(1).normal(0, 1, 60)
    assert gather.steps(calm) == []
    stepped = calm.copy()
    stepped[30:] += 60
    assert gather.steps(stepped) == [30]


# Pictures


def test_palettes_are_read_back_as_they_were_drawn() -> None:
    indices = np.random.default_rng(1).integers(0, 41, (37, 53)).astype(np.uint8)
    palette = [*pictures.COUNTS, pictures.MASK]
    image = Image.open(io.BytesIO(png.encode(indices, palette)))
    assert image.size == (53, 37)
    assert np.array_equal(np.array(image.convert("RGB")), np.array(palette, np.uint8)[indices])


def test_gradients_begin_and_end_as_told() -> None:
    colours = png.gradient(("#000000", "#ff8000"), 5)
    assert colours[0] == (0, 0, 0)
    assert colours[-1] == (255, 128, 0)
    assert colours[2] == (128, 64, 0)


def test_pictures_show_the_greatest_pixel_of_each_square_and_the_mask() -> None:
    image = np.zeros((50, 70), np.int64)
    image[13, 22] = 900
    bad = np.zeros((50, 70), np.uint8)
    bad[:, 40:50] = 1
    view = gather.View(0, range(1), image, image, bad, np.zeros((50, 70), np.uint8))
    frames = pictures.frames_of(view, None, 1, widest=35)
    drawn = np.array(Image.open(io.BytesIO(frames.before)))
    assert drawn.shape == (25, 35)
    assert np.argwhere((drawn > 0) & (drawn < pictures.LEVELS)).tolist() == [[6, 11]]
    assert (drawn[:, 20:25] == pictures.LEVELS).all()
    assert not frames.differs


def test_charts_are_well_formed_whatever_is_drawn() -> None:
    series = [
        Series("a <&> b", [1, 2, float("nan"), 4], [0, -1, 2, float("inf")]),
        Series("", [], [], "s2", "points"),
        Series("steps", [1, 10, 100], [3, 3, 3], "s3", "steps"),
    ]
    for log in (True, False):
        drawn = svg.chart("t", 'says "this"', Axis("x", log=log), Axis("y", log=log), series, [Mark(1.0, "here")])
        root = ElementTree.fromstring(drawn)
        assert root.attrib["aria-label"] == 't: says "this"'
        assert "nan" not in drawn
        assert "inf" not in drawn


@pytest.mark.parametrize(
    ("low", "high", "log"), [(0, 1, False), (0, 97, False), (-3, 4, False), (1, 1e6, True), (2, 70, True)]
)
def test_ticks_are_round_and_inside(low: float, high: float, log: bool) -> None:
    ticks = svg.nice_ticks(low, high, log=log)
    assert 2 <= len(ticks) <= 9
    for tick in ticks:
        assert low * 0.999 <= tick + 1e-12
        assert tick <= high * 1.001
        assert float(svg.number_text(tick)) == pytest.approx(tick, rel=1e-6, abs=1e-9)


# In a browser

CHECK = """
<script>
const errors=[];addEventListener("error",e=>errors.push(String(e.message||e.target.src||e.type).slice(0,200)),true);
addEventListener("load",()=>setTimeout(()=>{
const pictures=[...document.images];const slider=document.querySelector("input[type=range]");
const over=document.querySelector(".over"),bar=document.querySelector(".bar");
const where=()=>[getComputedStyle(over).clipPath,bar.getBoundingClientRect().left];
const told={errors,width:innerWidth,scroll:document.documentElement.scrollWidth,images:pictures.length,
broken:pictures.filter(i=>!i.complete||!i.naturalWidth).length,
charts:[...document.querySelectorAll("svg.chart")].filter(s=>s.getBoundingClientRect().width>200).length,
flat:[...document.querySelectorAll("svg")].filter(s=>s.getBoundingClientRect().height<20).length};
if(slider){told.before=where();slider.value=80;slider.dispatchEvent(new Event("input"));told.after=where()}
told.dark=getComputedStyle(document.body).backgroundColor;
parent.postMessage(JSON.stringify(told),"*")},300));
</script>
"""
HARNESS = """<!DOCTYPE html><meta charset="utf-8"><link rel="icon" href="data:,"><body style="margin:0">
<pre id=out></pre><iframe src="%s" style="width:%dpx;height:3000px;border:0"></iframe>
<script>addEventListener("message",e=>{document.getElementById("out").textContent=e.data})</script>"""
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--enable-logging=stderr",
]


def in_browser(text: str, folder: Path, width: int) -> dict[str, Any]:
    """What a page of that width tells of itself, and the console's errors."""
    if CHROMIUM is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no Chromium, and CI must run this test: install the package chromium")
        pytest.skip("no Chromium here")
    (folder / "copy.html").write_text(text.replace("<title>", CHECK + "<title>", 1))
    (folder / "harness.html").write_text(HARNESS % ("copy.html", width))
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--window-size={max(width, 600)},3200"]
    command += ["--virtual-time-budget=10000", "--dump-dom", f"file://{folder / 'harness.html'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    found = re.search(r"<pre id=\"out\">(.*?)</pre>", done.stdout, re.DOTALL)
    assert found is not None, done.stderr[-2000:]
    assert found[1], done.stderr[-2000:]
    told: dict[str, Any] = json.loads(unescape(found[1]))
    told["console"] = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return told


def check_in_browser(text: str, folder: Path, width: int) -> None:
    told = in_browser(text, folder, width)
    assert told["errors"] == []
    assert told["console"] == []
    assert told["width"] == width
    assert told["scroll"] <= width
    assert told["images"] >= 3
    assert told["broken"] == 0
    assert told["charts"] == 8
    assert told["flat"] == 0
    assert told["before"] != told["after"]
    assert "80%" in told["after"][0]
    assert told["after"][1] > told["before"][1]


@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_draws_everything_and_the_slider_moves(rotation_page: str, tmp_path: Path, width: int) -> None:
    check_in_browser(rotation_page, tmp_path, width)


def grid(folder: Path) -> tuple[Path, Path]:
    """Stills of which few show anything, without wavelength, and with gaps."""
    rng = np.random.default_rng(4)
    frames = rng.poisson(0.4, (30, 130, 170)).astype(np.uint16)
    for _ in range(30):
        y, x = rng.integers(5, 120), rng.integers(5, 160)
        frames[12:15, y : y + 3, x : x + 3] += 30
    raw = write_set(folder, frames, mask=random_mask((130, 170)), osc=0.0)
    with h5py.File(raw, "r+") as h5:
        del h5["entry/instrument/beam"]
    assert main(["-i", str(raw), "-b", "2", "-T", "5", "-c", "htj2k", "-o", str(folder / "out")]) == 0
    return raw, folder / "out_master.h5"


def test_a_grid_scan_without_geometry_is_shown_too(tmp_path: Path) -> None:
    # A path with nowhere to break it must not make the page wider.
    (folder := tmp_path / ("without_geometry" * 5)).mkdir()
    raw, out = grid(folder)
    text = reported(tmp_path, raw, out)
    assert "shells are of the radius in pixels" in text
    assert len(text.encode()) < 1_500_000
    check_in_browser(text, tmp_path, 400)


def test_exact_sums_are_kept_and_no_pixel_differs(tmp_path: Path) -> None:
    raw, out = made(tmp_path, "-c bslz4", frames=3, osc=0.0, detector="500k", resolution=2.5)
    text = reported(tmp_path, raw, out)
    assert "No pixel differs" in text
    assert '<section class="verdict kept"' in text


def test_without_spots_the_background_speaks(tmp_path: Path) -> None:
    raw = write_set(tmp_path, np.random.default_rng(1).poisson(3, (6, 90, 80)).astype(np.uint16))
    assert main(["-i", str(raw), "-s", "2", "-o", str(tmp_path / "out")]) == 0
    text = reported(tmp_path, raw, tmp_path / "out_master.h5")
    assert "no spots were found" in text
    assert "judged by the background alone" in text


def test_a_set_of_a_cbf_series_is_held_against_it(tmp_path: Path) -> None:
    series = write_series(tmp_path, counts(4, (90, 110)))
    assert main(["-i", str(series[0]), "-s", "2", "-b", "2", "-o", str(tmp_path / "out")]) == 0
    words = ["--against", str(tmp_path / "lyso_1_#####.cbf"), "-o", str(tmp_path / "out.html")]
    assert main(["report", str(tmp_path / "out_master.h5"), *words]) == 0
    assert "<svg" in (tmp_path / "out.html").read_text()


@pytest.mark.parametrize("name", ["report.html", "report.png"])
def test_a_wholly_masked_detector_has_a_page_too(tmp_path: Path, name: str) -> None:
    raw = write_set(tmp_path, random_frames(4, (40, 50)), mask=np.ones((40, 50), np.uint32))
    assert main(["-i", str(raw), "-s", "2", "-H", "4", "-o", str(tmp_path / "out")]) == 0
    reported(tmp_path, raw, tmp_path / "out_master.h5", name)
    assert (tmp_path / name).stat().st_size > 10_000


def test_a_poster_is_a_png_of_many_colours(rotation: tuple[Path, Path, Path]) -> None:
    pytest.importorskip("matplotlib")
    folder, raw, out = rotation
    reported(folder, raw, out, "report.png")
    image = Image.open(folder / "report.png")
    assert image.size == (1760, 1210)
    colours = image.convert("RGB").getcolors(1 << 24)
    assert colours is not None
    assert len(colours) > 200


def test_the_page_of_settings_is_drawn_too(rotation: tuple[Path, Path, Path], tmp_path: Path) -> None:
    html = tmp_path / "choices.html"
    tried = "b1s1 b2s2 b2s2H16 b3s2T6 b4s4T8"
    assert main(["estimate", str(rotation[1]), "--try", tried, "--target_ratio", "20", "--html", str(html)]) == 0
    text = html.read_text()
    seen = Seen()
    seen.feed(text)
    assert seen.silent == []
    assert all(url.startswith("data:") for url in seen.loads)
    for name in tried.split():
        assert f"<td>{name}</td>" in text
    assert "bnl-mpi -i" in text
    told = in_browser(text, tmp_path, 400)
    assert (told["errors"], told["console"], told["charts"]) == ([], [], 2)
    assert told["scroll"] <= 400


# What bad input gets


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("{raw} --against {raw} -o r.html", "give a master that bnl-mpi wrote"),
        ("{out} --against {other} -o r.html", "give the set that it was made from"),
        ("{out} --against {raw} -o r.pdf", "ends in .html or .png"),
        ("{out} --against {raw} -o /nowhere/at/all/r.html", "no such folder"),
        ("{out} --against nothing.h5 -o r.html", "nothing.h5"),
        ("{floats} --against {raw} -o r.html", "holds no counts"),
        ("{nothing} --against {raw} -o r.html", "holds no counts"),
    ],
)
def test_wrong_words_are_one_line(words: str, message: str, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    raw = write_set(tmp_path, random_frames(4, (40, 50)))
    other = write_set(tmp_path, random_frames(6, (44, 50)), name="other")
    for name, more in (("out", ["-b", "2"]), ("floats", ["-f", "4", "-L", "2"]), ("nothing", ["-S", "0"])):
        assert main(["-i", str(raw), *more, "-o", str(tmp_path / name)]) == 0
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    places = {"raw": raw, "other": other, **{name: f"{name}_master.h5" for name in ("out", "floats", "nothing")}}
    assert main(["report", *words.format(**places).split()]) != 0
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not list(tmp_path.glob("r.*"))


def test_pages_that_are_too_large_get_narrower_pictures(rotation: tuple[Path, Path, Path], monkeypatch: Any) -> None:
    shown = shown_of(*rotation[1:])
    whole = len(page.report(shown, "", {}).encode())
    monkeypatch.setattr(page, "LARGEST", int(whole * 0.9))
    assert len(page.report(shown, "", {}).encode()) < int(whole * 0.9)
