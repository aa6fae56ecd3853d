"""Resolution, shoeboxes, losses and spot sizes: against brute force and numbers known beforehand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_sets import random_frames, shared_data, write_set

from bnl_mpi import reduce
from bnl_mpi.estimate.resolution import Geometry, read_geometry
from bnl_mpi.simulate import simulate
from bnl_mpi.spots import sizes
from bnl_mpi.spots.finder import Spots
from bnl_mpi.spots.losses import Background, BackgroundSums, Losses, Pairs, joined, judge
from bnl_mpi.spots.shoebox import RING, Boxes, Layer, integrate
from bnl_mpi.spots.whole import grown, hot_note, hot_pixels, with_parts_joined

Array = np.ndarray[Any, Any]


# Resolution


def test_resolution_is_braggs_law_on_a_flat_detector() -> None:
    geometry = Geometry(1.0, np.array([75e-3, 75e-3, 0.1]), np.array([-75e-6, 0, 0]), np.array([0, -75e-6, 0]))
    assert geometry.beam_centre == pytest.approx((1000, 1000))
    assert geometry.distance == pytest.approx(0.1)
    for x in (1100.0, 1900.0):
        theta = np.arctan((x - 1000) * 75e-6 / 0.1) / 2
        assert float(geometry.resolution(x, 1000.0)) == pytest.approx(1 / (2 * np.sin(theta)))
    assert geometry.resolution(1000.0, 1000.0) == np.inf


def test_a_ring_lies_where_its_resolution_is_also_on_a_tilted_detector() -> None:
    tilt = np.deg2rad(20)
    fast = 75e-6 * np.array([-np.cos(tilt), 0, np.sin(tilt)])
    geometry = Geometry(1.2, np.array([0.05, 0.06, 0.15]), fast, np.array([0, -75e-6, 0]))
    ring = geometry.circle(2.5)
    assert np.isfinite(ring).all()
    assert geometry.resolution(ring[:, 0], ring[:, 1]) == pytest.approx(np.full(len(ring), 2.5))
    assert np.isnan(geometry.circle(0.5)).all()


@pytest.mark.parametrize("flavour", ["eiger1", "eiger2"])
def test_geometry_of_both_flavours_is_the_simulations(tmp_path: Path, flavour: str) -> None:
    master = simulate(tmp_path / "in", frames=2, detector="500k", flavour=flavour)
    with h5py.File(master) as h5, h5py.File(tmp_path / "in_truth.h5") as truth:
        geometry, lacking = read_geometry(h5)
        experiment, predictions = truth["experiment"], truth["predictions"]
        told = json.loads(experiment["settings"][()])
        centre, distance = experiment["beam_center"][()], experiment["distance"][()]
        assert told["wavelength"] == 1.0
        assert len(predictions["fast"]) > 0
        crossing = np.stack([predictions["fast"][()], predictions["slow"][()]], axis=1)[:200].astype(float)
        hkl = predictions["hkl"][:200].astype(float)
        a_matrix = experiment["a_matrix"][()]
    assert geometry is not None
    assert not lacking
    assert geometry.beam_centre == pytest.approx(tuple(centre), abs=1e-2)
    assert geometry.distance * 1000 == pytest.approx(distance, rel=1e-6)
    # A reciprocal vector keeps its length as the crystal turns; the sensor's depth moves spots outwards a little.
    d = 1 / np.linalg.norm(hkl @ a_matrix.T, axis=1)
    assert geometry.resolution(crossing[:, 0], crossing[:, 1]) == pytest.approx(d, rel=3e-3)


def test_reduced_sets_and_their_nexus_files_tell_the_same_geometry(tmp_path: Path) -> None:
    master = simulate(tmp_path / "in", frames=2, detector="500k")
    reduce(str(master), out_file=str(tmp_path / "out"), bin=2, compression="bslz4")
    found = []
    for path in (master, tmp_path / "out_master.h5", tmp_path / "out.nxs"):
        with h5py.File(path) as h5:
            found.append(read_geometry(h5)[0])
    raw, reduced, nexus = found
    assert raw is not None
    assert reduced is not None
    assert nexus is not None
    for other in (reduced, nexus):
        assert other.resolution(50.0, 20.0) == pytest.approx(float(raw.resolution(100.0, 40.0)), rel=1e-6)
        assert raw.binned(2).beam_centre == pytest.approx(other.beam_centre)


@pytest.mark.parametrize("name", ["dls_4m_grid_xrc_209_master.h5", "eiger2_nxmx_mx3_master.h5", "ins_8_5.nxs"])
def test_real_masters_have_the_beam_where_they_tell(name: str) -> None:
    folder = shared_data()
    if folder is None:
        pytest.skip("no real masters here")
    with h5py.File(folder / name) as h5:
        geometry, _ = read_geometry(h5)
        detector = h5["entry/instrument/detector"]
        told = [float(np.ravel(detector[f"beam_center_{one}"][()])[0]) for one in "xy"]
        distances = [float(np.ravel(detector[n][()])[0]) for n in ("distance", "detector_distance") if n in detector]
    assert geometry is not None
    assert geometry.beam_centre == pytest.approx(told, abs=2)
    assert geometry.distance == pytest.approx(distances[0], rel=1e-6)


def test_a_master_without_wavelength_or_distance_says_which(tmp_path: Path) -> None:
    master = write_set(tmp_path, random_frames(2, (40, 50)))
    with h5py.File(master, "r+") as h5:
        for name in ("geometry", "detector_distance"):
            del h5[f"entry/instrument/detector/{name}"]
        geometry, lacking = read_geometry(h5)
        assert geometry is None
        assert "distance" in lacking
        del h5["entry/instrument/beam"]
        geometry, lacking = read_geometry(h5)
        assert geometry is None
        assert "incident_wavelength" in lacking


# Shoeboxes


def brute_sums(frames: Array, bad: Array, strong: Array, box: tuple[float, float, int, int], radius: float) -> Any:
    """Foreground less background of one spot, and its sigma, pixel by pixel; None where it isn't whole."""
    x, y, z0, z1 = box
    inside, n_inside, around, n_around = 0.0, 0, 0.0, 0
    for z in range(max(z0, 0), min(z1, len(frames))):
        for j in range(-40, 80):
            for i in range(-40, 80):
                apart = max(abs(i + 0.5 - x), abs(j + 0.5 - y))
                there = 0 <= j < frames.shape[1] and 0 <= i < frames.shape[2]
                if apart < radius + 0.5:
                    if not there or bad[j, i]:
                        return None
                    inside, n_inside = inside + frames[z, j, i], n_inside + 1
                elif apart < radius + RING + 0.5 and there and not bad[j, i] and not strong[z, j, i]:
                    around, n_around = around + frames[z, j, i], n_around + 1
    if n_around < 8:
        return None
    share = n_inside / n_around
    return inside - share * around, max(1.0, np.sqrt(inside + share**2 * around))


@given(seed=st.integers(0, 2**32), x=st.floats(0, 40), y=st.floats(0, 30), z0=st.integers(0, 2), n=st.integers(1, 3))
@settings(max_examples=12, deadline=None)
def test_sums_are_those_of_a_loop_over_pixels(seed: int, x: float, y: float, z0: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    frames = rng.poisson(4, (3, 30, 40)).astype(np.uint16)
    bad = (rng.random((30, 40)) < 0.005).astype(np.uint8)
    strong = (rng.random((3, 30, 40)) < 0.02).astype(np.uint8)
    boxes = Boxes(np.array([x]), np.array([y]), np.array([z0]), np.array([z0 + n]), 2.5)
    layers = [Layer(range(k, k + 1), frames[k], bad, strong[k]) for k in range(3)]
    found = integrate(layers, 1, boxes)
    wanted = brute_sums(frames, bad, strong, (x, y, z0, z0 + n), 2.5)
    assert bool(found.good[0]) == (wanted is not None)
    if wanted is not None:
        assert (found.counts[0], found.sigma[0]) == pytest.approx(wanted)


@given(st.integers(0, 2**32), st.sampled_from([2, 3, 4, 5]), st.floats(14, 46), st.floats(14, 46), st.floats(1.5, 5))
@settings(max_examples=20, deadline=None)
def test_binned_pixels_count_by_the_share_that_a_spot_touches(
    seed: int, binning: int, x: float, y: float, radius: float
) -> None:
    """Each pixel of a frame that the box touches has its bin's mean count; around, every bin that isn't touched."""
    frame = np.random.default_rng(seed).poisson(4, (60, 60)).astype(np.uint16)
    image = frame.reshape(60 // binning, binning, 60 // binning, binning).sum(axis=(1, 3))
    clear = np.zeros(image.shape, np.uint8)
    found = integrate(
        [Layer(range(1), image, clear, clear)],
        binning,
        Boxes(np.array([x]), np.array([y]), np.array([0]), np.array([1]), radius),
    )
    rows, columns = (np.abs(np.arange(60) + 0.5 - at) < radius + 0.5 for at in (y, x))
    touched = rows[:, None] & columns
    spread = image.repeat(binning, 0).repeat(binning, 1) / binning**2
    middle = (np.arange(len(image)) + 0.5) * binning
    reach = radius + max(RING, 2 * binning) + binning / 2
    around = (np.abs(middle - y) < reach)[:, None] & (np.abs(middle - x) < reach)
    around &= touched.reshape(len(image), binning, len(image), binning).sum(axis=(1, 3)) == 0
    wanted = spread[touched].sum() - touched.sum() / binning**2 * image[around].mean()
    assert found.good[0]
    assert found.counts[0] == pytest.approx(wanted)


def test_binned_and_summed_images_give_the_same_counts_of_a_spot() -> None:
    frames = np.full((4, 64, 64), 3, np.uint16)
    frames[1:3, 30:33, 31:34] += 50
    clear = np.zeros((64, 64), np.uint8)
    boxes = Boxes(np.array([32.5]), np.array([31.5]), np.array([1]), np.array([3]), 3.0)
    raw = integrate([Layer(range(k, k + 1), frames[k], clear, clear) for k in range(4)], 1, boxes)
    image = frames.reshape(2, 2, 32, 2, 32, 2).sum(axis=(1, 3, 5))
    small = np.zeros((32, 32), np.uint8)
    layers = [Layer(range(2 * k, 2 * k + 2), image[k] * 3, small, small) for k in range(2)]
    reduced = integrate(layers, 2, boxes, scale=3.0)
    assert raw.good[0]
    assert reduced.good[0]
    assert raw.counts[0] == reduced.counts[0] == 2 * 9 * 50
    assert reduced.sigma[0] > raw.sigma[0]


# Losses

NOTHING = Background(1.0, 0.0, 1.0)


def pairs_with(noise: float, n: int = 3000, gain: float = 1.0) -> Pairs:
    rng = np.random.default_rng(4)
    before = rng.exponential(400, n)
    sigma = np.sqrt(before + 100)
    return Pairs(before, gain * before + noise * sigma * rng.standard_normal(n), sigma, rng.uniform(1.5, 10, n))


@pytest.mark.parametrize("noise", [0.0, 0.1, 1.0])
def test_added_noise_is_what_was_added(noise: float) -> None:
    losses = judge(pairs_with(noise), NOTHING)
    assert losses.outer_noise == pytest.approx(noise, rel=0.05)
    assert losses.weak.added_noise == pytest.approx(noise, rel=0.1)
    assert losses.every.correlation == pytest.approx(1.0, abs=0.02)
    assert losses.every.slope == pytest.approx(1.0, abs=0.02)
    assert losses.verdict == {0.0: "kept", 0.1: "kept", 1.0: losses.verdict}[noise]


def test_a_shell_that_is_lost_is_the_verdict_however_good_the_rest_is() -> None:
    good = pairs_with(0.05)
    outer = good.place < 1.9
    after = np.where(outer, 0.0, good.after)
    losses = judge(good._replace(after=after), NOTHING)
    assert losses.every.correlation is not None
    assert losses.every.correlation > 0.9
    assert losses.verdict == "weak data lost"
    assert losses.shells[-1].low == pytest.approx(1.9, abs=1.5)
    assert losses.shells[-1].label in losses.reason
    assert losses.shells[0].added_noise == pytest.approx(0.05, rel=0.2)


def test_shells_go_outwards_with_equal_numbers_and_the_weak_third_is_weak() -> None:
    losses = judge(pairs_with(0.1), NOTHING)
    assert [row.spots for row in losses.shells] == [500] * 6
    assert [row.spots for row in losses.weak_shells] == [166] * 6
    edges = [row.high for row in losses.shells if row.high is not None]
    assert edges == sorted(edges, reverse=True)
    by_radius = judge(pairs_with(0.1), NOTHING, "radius")
    radii = [row.high for row in by_radius.shells if row.high is not None]
    assert radii == sorted(radii)
    assert "pixels" in by_radius.shells[0].label
    assert losses.weak.i_over_sigma is not None
    assert losses.every.i_over_sigma is not None
    assert losses.weak.i_over_sigma < losses.every.i_over_sigma / 2


def test_slope_tells_of_lost_intensity() -> None:
    assert judge(pairs_with(0.0, gain=0.8), NOTHING).every.slope == pytest.approx(0.8)


def test_without_spots_the_background_is_judged_alone() -> None:
    for background, verdict in ((NOTHING, "kept"), (Background(1.0, 0.4, 0.2), "reduced with care")):
        losses: Losses = judge(joined([]), background)
        assert losses.verdict == verdict
        assert losses.shells == ()
        assert losses.kept is None
        assert losses.outer_noise is None
        assert "no spots" in losses.reason


def test_background_variance_is_poissons_before_and_less_where_it_is_smoothed() -> None:
    rng = np.random.default_rng(2)
    slope = np.linspace(1, 20, 400)
    before = rng.poisson(np.broadcast_to(slope, (300, 400))).astype(np.uint16)
    usable = np.ones(before.shape, bool)
    usable[100:120] = False
    sums = BackgroundSums()
    sums.add(before, before, usable)
    exact = sums.result()
    assert exact.variance == pytest.approx(1.0, abs=0.02)
    assert exact.bias == 0
    assert exact.mean == pytest.approx(before[usable].mean())
    smooth, other = BackgroundSums(), BackgroundSums()
    smooth.add(before, np.broadcast_to(slope + 0.5, before.shape), usable)
    assert smooth.result().bias == pytest.approx((slope + 0.5).mean() - before[usable].mean())
    assert smooth.result().variance == pytest.approx(0.0, abs=0.01)
    other.merge(smooth)
    assert other.result() == smooth.result()
    assert BackgroundSums().result().variance is None


# Sizes


def spots_at(x: Array, y: Array, z: Array) -> Spots:
    n = len(x)
    box = np.stack([x, x + 3, y, y + 3, z, z + 2], axis=1).astype(np.int64)
    return Spots(x + 0.0, y + 0.0, z + 0.5, np.full(n, 1000), np.full(n, 9), box)


def test_nearest_neighbours_are_those_of_the_same_frames() -> None:
    rng = np.random.default_rng(7)
    x, y, z = rng.uniform(0, 300, 400), rng.uniform(0, 300, 400), rng.integers(0, 9, 400)
    spots = spots_at(x, y, z)
    found = sizes.nearest(spots)
    for k in range(0, 400, 37):
        common = np.flatnonzero((np.abs(z - z[k]) < 2) & (np.arange(400) != k))
        assert found[k] == pytest.approx(np.hypot(x[common] - x[k], y[common] - y[k]).min())


@pytest.mark.parametrize("sigma", [0.8, 1.5])
def test_spot_widths_are_those_that_were_drawn(sigma: float) -> None:
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0:400, 0:400] + 0.5
    expected = np.full((400, 400), 1.0)
    places = [(20 + 30 * (k % 12) + rng.random(), 20 + 30 * (k // 12) + rng.random()) for k in range(144)]
    for px, py in places:
        expected += 3000 / (2 * np.pi * sigma**2) * np.exp(-((x - px) ** 2 + (y - py) ** 2) / 2 / sigma**2)
    frame = rng.poisson(expected).astype(np.uint16)
    spots = spots_at(np.array([p[0] for p in places]), np.array([p[1] for p in places]), np.zeros(144, int))
    found = sizes.spot_sigma({0: frame}, spots)
    assert found == pytest.approx(sigma, rel=0.1)


@pytest.mark.parametrize("sigma", [0.6, 1.5])
def test_rocking_width_comes_from_how_alike_frames_are(sigma: float) -> None:
    rng = np.random.default_rng(5)
    z = np.arange(8) + 0.5
    centres = rng.uniform(-5, 13, 4000)
    expected = 900 * np.exp(-((z - centres[:, None]) ** 2) / 2 / sigma**2)
    profiles = rng.poisson(expected + 20) - 20.0
    found = sizes.rocking_width(profiles, expected + 20)
    assert found == pytest.approx(max(1.0, 2.3548 * sigma), rel=0.15)
    assert sizes.rocking_width(profiles[:3], expected[:3]) is None


def test_advice_gives_its_reason() -> None:
    advice = sizes.SpotSizes(1.0, 9.5, 2.2).advice()
    assert (
        advice
        == [
            "spots are 2.4 pixels wide and at least 9 apart: b up to 3",
            "spots last 2.2 frames (at half height): s up to 4",
        ]
        or advice[0] == "spots are 2.4 pixels wide and at least 10 apart: b up to 3"
    )
    assert sizes.SpotSizes(None, None, None).advice() == []


# What isn't one spot


def test_hot_pixels_are_strong_alone_in_nearly_all_frames() -> None:
    shape, n = (40, 50), 8
    always = {(0, 0), (39, 49), (20, 7)}
    # A spot on the axis of rotation lasts as long, on several pixels; another one lasts three frames.
    lasting = {(30, 30), (30, 31), (31, 30)}
    frames = []
    for frame in range(n):
        strong = always | lasting if frame != 3 else lasting
        strong = strong | ({(10, 10)} if frame < 3 else set()) | ({(20, 8)} if frame < 1 else set())
        frames.append(np.array(sorted(y * shape[1] + x for y, x in strong)))
    assert hot_pixels(frames, shape).tolist() == sorted(y * shape[1] + x for y, x in always)
    assert not len(hot_pixels(frames[:3], shape))
    assert not hot_note([np.array([], int)])
    assert "flags them: 3;" in hot_note([np.array([4, 5]), np.array([5, 9])])[0]


@given(st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_spots_last_as_long_as_their_place_is_strong(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames, n = range(5, 17), 30
    strong = rng.random((len(frames), n)) < 0.7
    first = rng.integers(5, 17, n)
    end = np.minimum(first + rng.integers(1, 4, n), 17)
    begin, stop = grown(first, end, strong, frames)
    for k in range(n):
        a, b = int(first[k]), int(end[k])
        while a > 5 and strong[a - 6, k]:
            a -= 1
        while b < 17 and strong[b - 5, k]:
            b += 1
        assert (begin[k], stop[k]) == (a, b)


@given(st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_parts_of_a_spot_are_joined_and_nothing_else(seed: int) -> None:
    """Against the definition: each pair that is near and touches in time belongs together, and so do theirs."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 40))
    x, y, z = rng.uniform(0, 12, n), rng.uniform(0, 12, n), rng.integers(0, 20, n)
    spots, first, end = spots_at(x, y, z), z, z + rng.integers(1, 4, n)
    together = [{k} for k in range(n)]
    for a in range(n):
        for b in range(n):
            near = abs(x[a] - x[b]) <= 2 and abs(y[a] - y[b]) <= 2 and first[a] <= end[b] and first[b] <= end[a]
            if near and together[a] is not together[b]:
                together[a] |= together[b]
                for k in together[a]:
                    together[k] = together[a]
    wanted = {frozenset(one) for one in together}
    joined_spots, begin, stop = with_parts_joined(spots, first, end)
    assert len(joined_spots) == len(begin) == len(stop) == len(wanted)
    found = sorted(zip(joined_spots.counts, begin, stop, np.round(joined_spots.x, 6), strict=True))
    told = [sorted(one) for one in wanted]
    assert found == sorted(
        (1000 * len(one), first[one].min(), end[one].max(), np.round(x[one].mean(), 6)) for one in told
    )
    assert joined_spots.pixels.sum() == spots.pixels.sum()
    assert joined_spots.box[:, 4].min() == z.min()
    assert joined_spots.box[:, 5].max() == z.max() + 2
