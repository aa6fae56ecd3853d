"""Kept regions and the level of the rest: against brute force, in both implementations, and what must stay true."""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnl_mpi.pixels import background, background_numpy, fused, kernels
from bnl_mpi.pixels.background import ABSENT, AROUND, KEPT, LEVEL_ONE

Array = np.ndarray[Any, Any]
LIMIT = 60000
NO_DISCS = np.empty((0, 3), np.int32)
LOW = {exact: background.low_level(exact=exact, is_coded=False) for exact in (False, True)}


def picture(shape: tuple[int, int], seed: int, mean: float = 2.0) -> tuple[Array, Array, Array, Array]:
    """Counts, flags, state and discs: a sloping background, unpredicted spots, a gap, overloads and dead pixels."""
    rng = np.random.default_rng(seed)
    ny, nx = shape
    slope = np.linspace(0.3, 1.7, ny)[:, None] * np.linspace(0.6, 1.4, nx)[None, :]
    values = rng.poisson(mean * slope).astype(np.uint16)
    for _ in range(3):
        values[rng.integers(ny), rng.integers(nx)] += 60
    if rng.random() < 0.5:
        values[rng.integers(ny), rng.integers(nx)] = LIMIT
    flags = (rng.random(shape) < 0.005).astype(np.uint8) | 2 * (rng.random(shape) < 0.1).astype(np.uint8)
    state = np.where(rng.random(shape) < 0.02, ABSENT, 0).astype(np.uint8)
    state[:, nx // 3 : nx // 3 + nx // 8] = ABSENT
    state[: ny // 9, : nx // 9] |= KEPT
    n = max(1, ny * nx // 250)
    discs = np.stack([rng.integers(-20, 8 * nx + 20, n), rng.integers(-20, 8 * ny + 20, n), rng.integers(0, 40, n)], 1)
    return values, flags, state, discs.astype(np.int32)


def in_numpy(values: Array, flags: Array, state: Array, discs: Array, binning: int, *, exact: bool) -> tuple[Any, ...]:
    how = background.smoothing(binning)
    size, weights = 1 << how.cell_bits, how.weights.astype(np.int64)
    means = np.zeros((-(-values.shape[0] // size), -(-values.shape[1] // size)), np.uint32)
    around = discs.copy()
    around[:, 2] = 2 * discs[:, 2] + 4
    background_numpy.keep_discs(state, around, AROUND)
    background_numpy.keep_discs(state, discs)
    found = background_numpy.find(values, flags, state, means, how.cell_bits, weights, LIMIT)
    level = background_numpy.levels(means, (values.shape[0], values.shape[1]), how.cell_bits)
    return np.sort(found), level, background_numpy.apply(values, state, level, LIMIT, LOW[exact])


def as_used(
    values: Array, flags: Array, state: Array, discs: Array, binning: int, *, exact: bool = False
) -> tuple[Any, ...]:
    found, of = found_by(values, flags, state, discs, binning)
    return found, of.level(), of.apply(values, LOW[exact])


def found_by(
    values: Array, flags: Array, state: Array, discs: Array, binning: int
) -> tuple[Array, background.Background]:
    """What is found, and what applies it; `state` becomes that of the image."""
    of = background.Background((values.shape[0], values.shape[1]), binning, LIMIT)
    of.begin(values, state, discs)
    found = of.find(values, flags)
    np.copyto(state, of.state(values))
    return found, of


def found_in(values: Array, state: Array, discs: Array, binning: int) -> tuple[Array, Array, background.Background]:
    """What is found without any flag, the level, and what applies it."""
    found, of = found_by(values, np.zeros(values.shape, np.uint8), state, discs, binning)
    return found, of.level(), of


@pytest.mark.skipif(not kernels.COMPILED, reason="the compiled kernels weren't built")
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(1, 70), st.integers(1, 90)),
    st.integers(0, 1000),
    st.sampled_from([1, 2, 3, 4, 5, 8, 16]),
    st.sampled_from([0.02, 0.4, 2.0, 14.0, 300.0, 4000.0]),
    st.booleans(),
)
def test_both_implementations_agree_to_the_bit(
    shape: tuple[int, int], seed: int, binning: int, mean: float, exact: bool
) -> None:
    made = [picture(shape, seed, mean) for _ in range(2)]
    results = [
        in_numpy(*made[0], binning, exact=exact),
        as_used(*made[1], binning, exact=exact),
    ]
    for ours, theirs in zip(results[0][:2], results[1][:2], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    applied = results[1][2]
    assert results[0][2] == (applied.sum_before, applied.sum_after)
    state = made[1][2]
    np.testing.assert_array_equal(applied.kept, np.flatnonzero((state & (KEPT | ABSENT)) == KEPT))
    for ours, theirs in zip(*made, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.skipif(not kernels.COMPILED, reason="the compiled kernels weren't built")
@settings(max_examples=24, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(100, 260), st.integers(300, 700)),
    st.integers(0, 1000),
    st.sampled_from([1, 2, 3, 8]),
    st.sampled_from([0.02, 0.4, 2.0, 14.0, 300.0, 4000.0]),
    st.booleans(),
    st.sampled_from([0, 1, 30]),
)
def test_they_agree_where_little_is_made_anew(
    shape: tuple[int, int], seed: int, binning: int, mean: float, exact: bool, n_spots: int
) -> None:
    """Wide images with few spots, so that most cells and stretches have nothing to do with these; and a wide gap."""
    rng = np.random.default_rng(seed)
    ny, nx = shape
    values = rng.poisson(mean, shape).astype(np.uint16)
    y, x = rng.integers(0, ny, n_spots), rng.integers(0, nx, n_spots)
    for k in range(n_spots):
        # Shoulders that only show when the peak is kept already.
        values[y[k] : y[k] + 7, x[k] : x[k] + 7] += np.uint16(mean + 9)
        values[y[k] : y[k] + 2, x[k] : x[k] + 2] += 3000
    flags, state = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    state[ny // 2 : ny // 2 + int(rng.choice([0, 15, 60])) // binning + 1] = ABSENT
    discs = np.stack([rng.integers(0, 8 * nx, 4), rng.integers(0, 8 * ny, 4), rng.integers(0, 40, 4)], 1)
    made = [(values.copy(), flags, state.copy(), discs.astype(np.int32)) for _ in range(2)]
    ours, theirs = in_numpy(*made[0], binning, exact=exact), as_used(*made[1], binning, exact=exact)
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_array_equal(ours[1], theirs[1])
    assert ours[2] == (theirs[2].sum_before, theirs[2].sum_after)
    for one, other in zip(*made, strict=True):
        np.testing.assert_array_equal(one, other)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.tuples(st.integers(1, 70), st.integers(1, 90)), st.integers(0, 1000), st.sampled_from([KEPT, AROUND]))
def test_discs_are_the_same_in_both_implementations(shape: tuple[int, int], seed: int, bit: int) -> None:
    *_, discs = picture((50, 50), seed)
    ours, theirs = np.full(shape, ABSENT, np.uint8), np.full(shape, ABSENT, np.uint8)
    background.keep_discs(ours, discs, bit)
    background_numpy.keep_discs(theirs, discs, bit)
    np.testing.assert_array_equal(ours, theirs)
    background.keep_discs(ours, discs[:0])
    np.testing.assert_array_equal(ours, theirs)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 1000), st.sampled_from([1, 2, 3]))
def test_what_is_kept_is_what_the_rules_say(seed: int, binning: int) -> None:
    values, flags, state, discs = picture((31, 37), seed)
    before, given_state = values.copy(), state.copy()
    found, _, _ = as_used(values, flags, state, discs, binning)
    kept = (given_state & KEPT) != 0
    for y in range(31):
        for x in range(37):
            for disc_x, disc_y, r in discs / 8:
                kept[y, x] |= math.hypot(x + 0.5 - disc_x, y + 0.5 - disc_y) <= r
    for y, x in np.argwhere(((flags & 1 != 0) | (before >= LIMIT)) & (given_state & ABSENT == 0)):
        kept[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] = True
        assert y * 37 + x in found
    # Beyond that what stands out, with its neighbours: all of `found`.
    for y, x in zip(*np.divmod(found.astype(int), 37), strict=True):
        kept[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] = True
    np.testing.assert_array_equal((state & KEPT) != 0, kept)
    np.testing.assert_array_equal((state & ABSENT) != 0, (given_state & ABSENT != 0) | (flags & 1 != 0))


@pytest.mark.parametrize("compiled", [False, True])
def test_images_leave_nothing_to_those_after_them(monkeypatch: pytest.MonkeyPatch, compiled: bool) -> None:
    """Of a block all begin with the same array; an image may be given up when it has begun."""
    if not compiled:
        monkeypatch.setattr(kernels, "compiled", lambda: None)
    shape = (67, 90)
    always = picture(shape, 0)[2]
    of = background.Background(shape, 2, LIMIT)
    for seed in range(1, 5):
        values, flags, _, discs = picture(shape, seed)
        of.begin(values, always, discs[::-1])
        of.begin(values, always, discs if seed < 4 else NO_DISCS)
        pixels, state = values.copy(), always.copy()
        found, level, applied = as_used(pixels, flags, state, discs if seed < 4 else NO_DISCS, 2)
        np.testing.assert_array_equal(of.find(values, flags), found)
        np.testing.assert_array_equal(of.level(), level)
        np.testing.assert_array_equal(of.state(values), state)
        assert of.apply(values, LOW[False])[:2] == applied[:2]
        np.testing.assert_array_equal(values, pixels)
    of.begin(values, np.zeros(shape, np.uint8), NO_DISCS)
    assert not of.state(values).any()


def test_the_level_is_the_gaussian_mean_of_what_is_not_kept() -> None:
    for binning in (1, 2, 4):
        values, flags, state, discs = picture((70, 80), binning, mean=6.0)
        before = values.astype(float)
        _, level, _ = as_used(values, flags, state, discs, binning)
        use = (state & (KEPT | ABSENT)) == 0
        sigma = 8 / binning
        y, x = np.arange(70), np.arange(80)
        rows = np.exp(-((y[:, None] - y) ** 2) / (2 * sigma**2))
        columns = np.exp(-((x[:, None] - x) ** 2) / (2 * sigma**2))
        total, weight = (rows @ a @ columns for a in (np.where(use, before, 0), use.astype(float)))
        # The mean's own noise is larger than what cells make of a Gaussian.
        difference = (level / LEVEL_ONE - total / weight)[state & ABSENT == 0]
        assert np.sqrt(np.mean(difference**2)) < 0.8 * np.sqrt(6 / (4 * np.pi * sigma**2))
        assert abs(difference.mean()) < 0.01


def test_outliers_are_found_by_the_formula_and_hide_no_others() -> None:
    values = np.full((60, 60), 4, np.uint16)
    # 4 + 5 sqrt(4.5) + 1 = 15.6
    values[10, 10], values[10, 40], values[40, 10] = 15, 16, 5000
    values[43, 13] = 40
    found, level, _ = found_in(values, np.zeros((60, 60), np.uint8), NO_DISCS, 2)
    assert found.tolist() == [10 * 60 + 40, 40 * 60 + 10, 43 * 60 + 13]
    assert (level[50:, 50:] == 4 * LEVEL_ONE).all()


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("mean", [0.05, 0.3, 0.5, 1.0, 2.5, 40.0])
def test_sums_stay_and_what_stands_on_the_background_keeps_its_height(mean: float, exact: bool) -> None:
    """Without any spot, discs are as high on the whole as the level about them: no intensity is made or lost."""
    values, flags, state, discs = picture((400, 400), 5, mean)
    values[values >= LIMIT] = 0
    values[values > mean + 6 * math.sqrt(mean) + 3] = 0
    state &= ABSENT
    discs = discs[::8]
    discs[:, 2] = 24
    before = values.copy()
    _, level, applied = as_used(values, flags, state, discs, 2, exact=exact)
    valid, kept = (state & ABSENT) == 0, (state & (KEPT | ABSENT)) == KEPT
    assert applied.sum_before == before[valid].sum()
    assert applied.sum_after == values[valid].sum()
    assert len(applied.kept) == np.count_nonzero(kept)
    # Pixels of one level are all rounded alike.
    alike = np.count_nonzero(valid & ~kept) / 4096
    assert abs(applied.sum_after - applied.sum_before) < max(0.001 * applied.sum_before, alike)
    assert np.abs(values.astype(int) - before)[kept].max() <= (0 if exact else 1)
    around = ((state & AROUND) != 0) & valid & ~kept
    true = level / LEVEL_ONE
    height = (values - true)[kept].mean() - (values - true)[around].mean()
    assert abs(height - (before - true)[kept].mean()) < 0.04


def test_exact_pixels_stay_as_they_are() -> None:
    values, flags, state, discs = picture((90, 80), 3)
    before = values.copy()
    as_used(values, flags, state, discs, 2, exact=True)
    np.testing.assert_array_equal(values[state & 3 == KEPT], before[state & 3 == KEPT])
    assert np.ptp(values[state & 3 == 0]) < np.ptp(before[state & 3 == 0])


def test_saturated_pixels_stay_so_and_none_is_made() -> None:
    values = np.full((40, 40), 30, np.uint16)
    values[::2] += 1
    values[20, 20], values[20, 21], values[21, 20] = LIMIT, LIMIT - 1, LIMIT
    state = np.zeros((40, 40), np.uint8)
    _, _, of = found_in(values, state, np.array([[164, 164, 40]], np.int32), 2)
    of.apply(values, 0)
    assert values[20, 20] == values[21, 20] == LIMIT
    assert LIMIT - 2 <= values[20, 21] <= LIMIT


def test_levels_come_from_further_where_nothing_is_near() -> None:
    values = np.full((200, 300), 7, np.uint16)
    state = np.full((200, 300), ABSENT, np.uint8)
    state[:, :30] = 0
    _, level, _ = found_in(values, state, NO_DISCS, 1)
    assert (level == 7 * LEVEL_ONE).all()
    nothing = np.full((20, 30), ABSENT, np.uint8)
    some = np.full((20, 30), 9, np.uint16)
    _, level, _ = found_in(some, nothing, NO_DISCS, 1)
    assert (level == 0).all()


def test_what_a_lossy_codec_takes_holds_its_spots_untouched() -> None:
    assert background.low_level(exact=False, is_coded=True) == background.low_level(exact=True, is_coded=False)
    assert background.low_level(exact=False, is_coded=False) == LEVEL_ONE // 2


def scene(expected: Array, discs: Array, seed: int = 1) -> tuple[Array, Array, Array, Array, Array]:
    """Counts before and after, state, level and what was found of an image binned by 2 without a flaw."""
    before = np.random.default_rng(seed).poisson(expected).astype(np.uint16)
    values, flags, state = before.copy(), np.zeros(before.shape, np.uint8), np.zeros(before.shape, np.uint8)
    found, level, _ = as_used(values, flags, state, discs, 2)
    return before, values, state, level / LEVEL_ONE, found


def test_strong_spots_of_a_second_lattice_survive() -> None:
    """Nobody predicted them: each stays with its neighbours, on its background."""
    y, x = np.mgrid[:240, :240]
    at = np.stack(np.meshgrid(np.arange(15, 230, 17), np.arange(12, 230, 19)), -1).reshape(-1, 2)
    expected = np.full((240, 240), 2.0)
    for px, py in at:
        expected += 40 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / 2)
    discs = np.stack([8 * at[:, 0] + 70, 8 * at[:, 1] + 70, np.full(len(at), 20)], 1).astype(np.int32)
    before, values, state, _, _ = scene(expected, discs)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            assert (state[at[:, 1] + dy, at[:, 0] + dx] & KEPT).all()
    near = np.zeros(values.shape, bool)
    near[np.ix_(np.unique(at[:, 1]), np.unique(at[:, 0]))] = True
    assert np.abs(values[near].astype(int) - before[near]).max() <= 1
    assert np.mean(state & KEPT) < 0.25


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_predicted_spots_of_any_size_keep_their_intensity(sigma: float) -> None:
    """Summed over their pixels less what surrounds them: no more off than in the plain image, and not to one side."""
    y, x = np.mgrid[:300, :300] + 0.5
    grid = np.stack(np.meshgrid(np.arange(20, 285, 20), np.arange(20, 285, 20)), -1).reshape(-1, 2)
    at = grid + np.random.default_rng(4).uniform(0, 1, grid.shape)
    expected = np.full((300, 300), 3.0)
    for px, py in at:
        expected += 5 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / 2 / sigma**2)
    reach = 3 * sigma + 1
    discs = np.rint(8 * np.column_stack([at, np.full(len(at), reach)])).astype(np.int32)
    before, values, _, _, _ = scene(expected, discs)
    off: dict[str, list[float]] = {"plain": [], "kept": []}
    for px, py in at:
        distance = np.hypot(x - px, y - py)
        inside, around = distance <= reach - 0.5, (distance > reach + 0.5) & (distance < reach + 4)
        true = before[inside].sum() - 3.0 * inside.sum()
        for name, image in (("plain", before), ("kept", values)):
            found = image[inside].sum() - image[around].mean() * inside.sum()
            off[name].append(float((found - true) / np.sqrt(before[inside].sum())))
    assert abs(np.mean(off["kept"])) < 0.15
    assert np.std(off["kept"]) < np.std(off["plain"])


def test_an_ice_ring_is_background_and_not_spots() -> None:
    y, x = np.mgrid[:300, :300]
    radius = np.hypot(x - 150, y - 150)
    expected = 2 + 20 * np.exp(-((radius - 100) ** 2) / (2 * 8.0**2))
    before, values, _, level, found = scene(expected, NO_DISCS)
    assert len(found) < 0.001 * values.size
    ring = np.abs(radius - 100) < 1
    assert level[ring].mean() > 0.85 * expected[ring].mean()
    assert abs(level[radius < 60].mean() - 2) < 0.1
    assert abs(int(values.sum()) - int(before.sum())) < 0.001 * before.sum()


def test_a_shadow_that_no_mask_tells_makes_no_spots_and_spoils_none() -> None:
    expected = np.full((200, 200), 10.0)
    expected[80:120, :110] = 0.1
    discs = np.array([[8 * 60, 8 * 80, 24], [8 * 60, 8 * 150, 24]], np.int32)
    before, values, state, level, found = scene(expected, discs)
    assert len(found) < 0.002 * values.size
    kept = (state & KEPT) != 0
    assert np.abs(values[kept].astype(int) - before[kept]).max() <= 1
    assert abs(level[98:102, 20:80].mean() - 0.1) < 0.05
    assert abs(level[150:190].mean() - 10) < 0.2


def test_spots_that_touch_leave_the_level_to_what_is_around_them() -> None:
    """Six pixels of a frame apart: every pixel between them is kept, and the level comes from further away."""
    at = np.stack(np.meshgrid(np.arange(80, 121, 3), np.arange(80, 121, 3)), -1).reshape(-1, 2)
    expected = np.full((200, 200), 3.0)
    expected[at[:, 1], at[:, 0]] += 30
    discs = np.stack([8 * at[:, 0] + 4, 8 * at[:, 1] + 4, np.full(len(at), 20)], 1).astype(np.int32)
    before, values, state, level, _ = scene(expected, discs)
    inside = (slice(80, 121), slice(80, 121))
    assert (state[inside] & KEPT).all()
    assert np.abs(values[inside].astype(int) - before[inside]).max() <= 1
    assert np.abs(level[inside] - 3).max() < 0.6


@pytest.mark.skipif(not fused.have_images(), reason="the compiled kernels weren't built, or have no checksum")
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(1, 90), st.integers(1, 300)),
    st.integers(0, 1000),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([0.02, 2.0, 300.0]),
    st.booleans(),
)
def test_a_chunk_is_that_of_the_image_with_marks(
    shape: tuple[int, int], seed: int, binning: int, mean: float, exact: bool
) -> None:
    values, flags, state, discs = picture(shape, seed, mean)
    whole, (_, of) = values.copy(), found_by(values, flags, state, discs, binning)
    made = of.chunk(values, LOW[exact], 0xFFFF)
    np.testing.assert_array_equal(values, whole)
    applied = of.apply(whole, LOW[exact])
    whole[(state & ABSENT) != 0] = 0xFFFF
    decoded = np.empty(shape, np.uint16)
    kernels.bslz4_decode(made.chunk, decoded)
    np.testing.assert_array_equal(decoded, whole)
    assert bytes(made.chunk) == bytes(kernels.bslz4_encode(whole))
    assert made.crc32 == zlib.crc32(whole.tobytes())
    assert made[:2] == applied[:2]
    assert made.n_kept == len(applied.kept)


@pytest.mark.skipif(not kernels.HAVE_BSLZ4, reason="the compiled kernels weren't built")
@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("binning", [1, 2, 3, 8])
def test_what_is_pooled_while_an_image_is_made_is_found_as_later(binning: int, before: int) -> None:
    """Of frames that are all there are, and of the last ones; with a mask, overloads and saturated pixels."""
    rng = np.random.default_rng(binning)
    frames = rng.poisson(2, (2 + before, 190, 150)).astype(np.uint16)
    frames[:, 20:40, 30:60] += 4000
    frames[1, 100:103, 10:14], frames[0, 60, 70] = 0xFFFF, 59999
    shape = (-(-190 // binning), -(-150 // binning))
    mask = rng.random(frames.shape[1:]) < 0.01
    packed = kernels.pack_mask(mask.astype(np.uint8), binning, (190, 150), np.dtype("u2"))
    blank = (rng.random(shape) < 0.03).astype(np.uint8)
    discs = np.array([[8 * 45 // binning, 8 * 30 // binning, 60], [400, 200, 20]], np.int32)
    results = []
    for pools in (False, True):
        of = background.Background(shape, binning, LIMIT)
        total, flags, values = np.zeros(shape, np.uint32), np.zeros(shape, np.uint8), np.zeros(shape, np.uint16)
        sums = fused.Sums(packed, binning, total, flags, 59000, first=not before)
        ending = kernels.Ending(blank, None, 1.0, LIMIT, True, values, 0)
        chunks = [bytes(kernels.bslz4_encode(frame)) for frame in frames]
        if before:
            fused.bslz4_reduce(chunks[:before], (190, 150), np.dtype("u2"), sums._replace(first=True))
        of.begin(values, np.where(blank, ABSENT, 0).astype(np.uint8), discs)
        pooling = of.pooling(values) if pools else None
        fused.bslz4_reduce(chunks[before:], (190, 150), np.dtype("u2"), sums, ending, pooling)
        assert pooling is None or pooling.noted
        found = of.find(values, flags, pooling)
        results.append([values.copy(), found, of.state(values), of.level(), *of.apply(values, LOW[False])])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.skipif(not kernels.COMPILED, reason="the compiled kernels weren't built")
def test_wrong_arrays_are_refused() -> None:
    u1, u2, u4, short = (np.zeros((8, 9), "u1"), np.zeros((8, 9), "u2"), np.zeros((4, 5), "u4"), np.zeros(71, "u4"))
    weights, indices, discs = np.array([256], "u4"), np.zeros(72, "u4"), np.zeros((1, 3), "i4")
    compiled: Any = kernels.compiled()
    room = np.zeros(-(-compiled.background_room(8, 9, 1) // 8))
    words = (u2, u4, indices, room, 1, 9)
    begin, find, apply = (words, u1.copy(), True, discs), (words, u1, weights, -1), (words, 0, 0)
    assert compiled.background_begin(*begin) is None
    assert compiled.background_state(words, u1.copy()) is None
    assert compiled.background_find(*find) == (0, 0)
    assert compiled.background_apply(*apply) == (0, 0, 0)
    for k, wrong in (
        (0, u4),
        (1, u2),
        (1, u4[:3].copy()),
        (2, short),
        (3, room[:-1].copy()),
        (3, u4),
        (4, 4),
        (5, 65536),
    ):
        given = tuple(wrong if j == k else a for j, a in enumerate(words))
        for call, rest in (("begin", begin[1:]), ("find", find[1:]), ("apply", apply[1:])):
            with pytest.raises((TypeError, ValueError)):
                getattr(compiled, f"background_{call}")(given, *rest)
    for k, wrong in (
        (1, u1[:4].copy()),
        (2, np.array([1, 255], "u4")),
        (2, np.array([255], "u4")),
        (2, np.array([56, 0, 200], "u4")),
        (3, 73),
    ):
        with pytest.raises((TypeError, ValueError)):
            compiled.background_find(*(wrong if j == k else a for j, a in enumerate(find)))
    for k, wrong in ((1, u1[:4].copy()), (1, u2), (3, discs[:, :2].copy()), (3, discs.astype("i8"))):
        with pytest.raises((TypeError, ValueError)):
            compiled.background_begin(*(wrong if j == k else a for j, a in enumerate(begin)))
    for means, level in ((u4, u2), (u4[:3].copy(), np.zeros((8, 9), "u4")), (u2, np.zeros((8, 9), "u4"))):
        with pytest.raises((TypeError, ValueError)):
            compiled.background_levels(means, 1, level)
    with pytest.raises(ValueError, match="cells are of"):
        compiled.background_levels(u4, 4, np.zeros((8, 9), "u4"))


@pytest.mark.skipif(not fused.have_images(), reason="the compiled kernels weren't built, or have no checksum")
def test_a_chunk_needs_its_room() -> None:
    compiled: Any = kernels.compiled()
    made = -(-compiled.background_room(8, 9, 1) // 8)
    words = (np.zeros((8, 9), "u2"), np.zeros((4, 5), "u4"), np.zeros(72, "u4"), np.zeros(made), 1, 9)
    stage, room = np.zeros(4 * 4096 + 9, "u2"), kernels.bslz4_room(72, 2)
    assert compiled.background_chunk(words, 0, 0, 7, stage, room)[:3] == (0, 0, 0)
    for wrong in ((stage[:-1], room), (stage.astype("u4"), room), (stage, room[:-1]), (stage, stage)):
        with pytest.raises((TypeError, ValueError)):
            compiled.background_chunk(words, 0, 0, 7, *wrong)
