"""Rotation angles: what a scan was set to, out of singles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bnl_mpi.input.angles import Told, restore, setting
from bnl_mpi.pixels.middle import median

NEAR = 1e-6
"""Degrees, over a whole sweep."""

starts = st.integers(-720_000, 3_600_000).map(lambda n: n / 1000)
short_widths = st.integers(1, 20_000).map(lambda n: n / 10_000) | st.sampled_from([1 / 3, 1 / 6, 1 / 7, 1 / 30, 0.0125])
senses = st.sampled_from([1, -1])


def singles(start: float, width: float, n: int) -> np.ndarray:
    return (start + width * np.arange(n)).astype(np.float32)


@settings(deadline=None, max_examples=150)
@given(starts, short_widths, senses, st.integers(2, 4000), st.booleans())
@example(300.0, 0.05, 1, 3600, False)
@example(300.0, 0.05, -1, 3600, True)
def test_a_told_scan_is_what_was_set(start: float, width: float, sense: int, n: int, tell_start: bool) -> None:
    told = Told(float(np.float32(start)) if tell_start else None, float(np.float32(sense * width)))
    angles, widths = restore(singles(start, sense * width, n), told)
    np.testing.assert_allclose(angles, start + sense * width * np.arange(n), rtol=0, atol=NEAR)
    np.testing.assert_allclose(widths, sense * width, rtol=0, atol=NEAR / n)


@settings(deadline=None, max_examples=60)
@given(starts, short_widths, senses, st.integers(3000, 4000))
@example(300.0, 0.05, 1, 3600)
def test_the_angles_alone_tell_a_long_scan(start: float, width: float, sense: int, n: int) -> None:
    angles, _ = restore(singles(start, sense * width, n), Told())
    np.testing.assert_allclose(angles, start + sense * width * np.arange(n), rtol=0, atol=NEAR)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), senses, st.booleans())
def test_any_numbers_are_found_by_the_line_through_all(seed: int, sense: int, tell: bool) -> None:
    """Neither start nor width is a short number, in decimals or in halves; the width, where told, is a single too."""
    n, rng = 3600, np.random.default_rng(seed)
    start, width = rng.uniform(-360, 360), rng.uniform(0.01, 0.2)
    single = float(np.float32(sense * width))
    assume(setting(single) == single)
    told = Told(None, single) if tell else Told()
    stored = singles(start, sense * width, n)
    angles, _ = restore(stored, told)
    # Half of what a single is off; nearly always a tenth.
    near = float(np.spacing(np.abs(stored).max())) / 4
    np.testing.assert_allclose(angles, start + sense * width * np.arange(n), rtol=0, atol=near)


@settings(deadline=None, max_examples=60)
@given(starts.filter(lambda start: abs(start) < 720), short_widths, senses, st.integers(10, 3600))
def test_angles_computed_in_single_precision(start: float, width: float, sense: int, n: int) -> None:
    """As some writers do: start and width are rounded first, and the products again."""
    width *= sense
    stored = np.float32(start) + np.float32(width) * np.arange(n, dtype=np.float32)
    assert stored.dtype == np.float32
    angles, widths = restore(stored, Told(float(np.float32(start)), float(np.float32(width))))
    if not np.isnan(widths).any():
        near = max(NEAR, np.spacing(np.abs(stored).max()) / 2)
        np.testing.assert_allclose(angles, start + width * np.arange(n), rtol=0, atol=near)
    off = np.abs(stored - (start + width * np.arange(n)))
    assert not np.isnan(widths).any() or (off > 1.5 * np.spacing(np.abs(stored))).any()


def test_singles_kept_in_doubles() -> None:
    stored = singles(300.0, 0.05, 3600).astype(np.float64)
    angles, _ = restore(stored, Told())
    np.testing.assert_allclose(angles, 300 + 0.05 * np.arange(3600), rtol=0, atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(starts, st.floats(0.02, 2), st.integers(3, 500), st.integers(0, 2**32 - 1), st.sampled_from(["f4", "f8"]))
def test_irregular_angles_stay_the_input_s(start: float, width: float, n: int, seed: int, dtype: str) -> None:
    """An encoder's, which jitter by a few per cent of a step."""
    rng = np.random.default_rng(seed)
    nominal = start + width * np.arange(n)
    stored = (nominal + np.where(rng.random(n) < 0.5, -1, 1) * max(0.03 * width, 0.003)).astype(dtype)
    angles, _ = restore(stored, Told(start, width))
    ulp = np.spacing(np.abs(stored.astype(np.float32))).astype(float)
    assert (np.abs(angles - stored) <= 2 * ulp).all()
    if n > 20:
        np.testing.assert_array_equal(angles, stored)


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=40))
def test_doubles_are_kept(values: list[float]) -> None:
    stored = np.array(values)
    if (stored == stored.astype("f4")).all():
        stored = stored + 1e-9
    np.testing.assert_array_equal(restore(stored, Told(0.0, 0.1))[0], stored)


def test_each_wedge_is_a_line() -> None:
    wedges = [(300.1, 0.05), (12.3, 0.05), (359.9, 0.05)]
    nominal = np.concatenate([start + width * np.arange(700) for start, width in wedges])
    angles, widths = restore(nominal.astype("f4"), Told(300.1, float(np.float32(0.05))))
    np.testing.assert_allclose(angles, nominal, rtol=0, atol=1e-9)
    np.testing.assert_allclose(widths, 0.05)


def test_an_axis_at_rest() -> None:
    angles, widths = restore(np.full(100, 54.7, "f4"), Told(None, 0.1))
    assert (angles == 54.7).all()
    assert (widths == 0).all()


def test_radians() -> None:
    nominal = 300 + 0.05 * np.arange(3600)
    angles, _ = restore(np.deg2rad(nominal).astype("f4"), Told(), 180 / np.pi)
    np.testing.assert_allclose(angles, nominal, rtol=0, atol=NEAR)


@pytest.mark.parametrize(
    ("value", "meant"),
    [(0.05, 0.05), (300.1, 300.1), (1 / 3, 1 / 3), (1 / 30, 1 / 30), (-0.1, -0.1), (0.0, 0.0), (1e-3, 1e-3)],
)
def test_what_a_single_was_set_to(value: float, meant: float) -> None:
    assert setting(float(np.float32(value))) == pytest.approx(meant, abs=1e-16)


def test_other_numbers_stay() -> None:
    for value in (0.1234321, float(np.float32(0.1234321)), float("inf"), 1e300):
        assert setting(value) == value


@given(
    arrays(st.sampled_from(["f4", "f8", "i4", "u2"]), st.integers(1, 40))
    | arrays("f8", st.integers(2, 9), elements=st.floats(-1e300, 1e300))
)
def test_the_median_is_numpys(values: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        assert repr(median(values)) == repr(float(np.median(values)))
