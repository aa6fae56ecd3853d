"""`--fill_gaps`' interpolation by a plain loop, and the final filters' chunks by HDF5 itself."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import bnl
from small_sets import random_frames, random_mask, write_set

from bnl_mpi.output.filters import Filter
from bnl_mpi.pixels import kernels
from bnl_mpi.pixels.gaps import Filler, GapFiller


def filled(values: np.ndarray[Any, Any], invalid: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The mean of the nearest valid pixels in four directions, by inverse distance; pixel by pixel."""
    result = values.astype(float)
    ny, nx = values.shape
    for y, x in zip(*np.nonzero(invalid), strict=True):
        total = weight = 0.0
        for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            for step in range(1, max(ny, nx)):
                j, i = y + dy * step, x + dx * step
                if not (0 <= j < ny and 0 <= i < nx):
                    break
                if not invalid[j, i]:
                    total += values[j, i] / step
                    weight += 1 / step
                    break
        result[y, x] = total / weight if weight else 0
    return result


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 14), st.integers(1, 14), st.floats(0, 1), st.integers(0, 99))
def test_filling_against_a_plain_loop(ny: int, nx: int, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 1000, (ny, nx)).astype(np.int32)
    invalid = (rng.random((ny, nx)) < share).astype(np.uint8)
    expected = filled(values, invalid)
    as_float = values.astype(float)
    Filler(invalid).fill(as_float)
    np.testing.assert_allclose(as_float, expected)
    Filler(invalid).fill(values)
    assert np.abs(values - expected).max() <= 0.5 + 1e-9


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.sampled_from(["u2", "i4"]), st.integers(0, 99))
def test_compiled_filling_rounds_as_numpy(ny: int, nx: int, share: float, dtype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Small even and odd counts: halves are many.
    values = rng.integers(0, rng.choice([3, 100, 65536]), (ny, nx)).astype(dtype)
    filler = Filler((rng.random((ny, nx)) < share).astype(np.uint8))
    twin = values.copy()
    with kernels.by_numpy():
        filler.fill(twin)
    filler.fill(values)
    np.testing.assert_array_equal(values, twin)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([0.0, 0.01, 0.5, 0.97, 1.0]), st.integers(0, 99))
def test_compiled_code_looks_where_numpy_does(ny: int, nx: int, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    invalid = (rng.random((ny, nx)) < share).astype(np.uint8)
    invalid[:, nx // 3 : nx // 2] = 7
    invalid[ny // 2 :] |= rng.random() < 0.3
    ours = Filler(invalid)
    with kernels.by_numpy():
        theirs = Filler(invalid)
    for name in ("pixels", "distances"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


@pytest.mark.skipif(not kernels.COMPILED, reason="needs the compiled kernels")
def test_filling_never_leaves_the_image() -> None:
    fill = kernels.compiled().fill_gaps  # type: ignore[union-attr]
    values, pixels = np.zeros((3, 4), np.uint16), np.array([5], np.uint32)
    distances = np.array([[1, 1, 5, 6]], np.uint16)
    fill(values, pixels, distances)
    for wrong in (
        (values, np.array([12], np.uint32), distances * np.uint16(0)),
        *((values, pixels, distances + more) for more in np.eye(4, dtype=np.uint16)),
        (values, pixels, distances[:, :3].copy()),
        (values, np.array([5, 5], np.uint32), distances),
    ):
        with pytest.raises(ValueError):
            fill(*wrong)
    look = kernels.compiled().gap_distances  # type: ignore[union-attr]
    for invalid in (np.ones((3, 4), np.uint8), np.eye(1, 65536, dtype=np.uint8)):
        with pytest.raises(ValueError):
            look(invalid, distances)
    for dtype in (np.int16, np.uint32, float):
        with pytest.raises(TypeError):
            fill(values.astype(dtype), pixels, distances)


def test_images_too_long_for_the_compiled_code_are_filled_too() -> None:
    values = np.arange(65540, dtype=np.uint16).reshape(1, -1) // np.uint16(7)
    invalid = np.zeros(values.shape, np.uint8)
    invalid[0, [5, 6, 7, 65538]] = 1
    expected = filled(values[:, :20], invalid[:, :20])
    Filler(invalid).fill(values)
    np.testing.assert_array_equal(values[:, :20], np.rint(expected))


def test_pixels_invalid_in_one_image_only() -> None:
    blank = np.zeros((6, 7), np.uint8)
    blank[2] = 1
    invalid = blank.copy()
    invalid[4, 3] = 1
    values = np.arange(42, dtype=np.int32).reshape(6, 7)
    expected = filled(values, invalid)
    GapFiller(blank).fill(values, invalid)
    assert np.abs(values - expected).max() <= 0.5
    GapFiller(None).fill(values, np.zeros((6, 7), np.uint8))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.6, 1.0])
@pytest.mark.parametrize("with_gaps", [True, False])
def test_gaps_found_once_and_pixels_of_one_image_fill_as_all_at_once(share: float, with_gaps: bool) -> None:
    rng = np.random.default_rng(3)
    blank = random_mask((61, 73), 5) != 0 if with_gaps else np.zeros((61, 73), bool)
    filler = GapFiller(blank if with_gaps else None)
    for _ in range(5):
        values = rng.poisson(9, blank.shape).astype(np.uint16)
        invalid = blank | (rng.random(blank.shape) < share)
        values[invalid] = 0
        expected = values.copy()
        Filler(invalid).fill(expected)
        filler.fill(values, invalid if (invalid != blank).any() else None)
        np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("dtype", ["u2", "u4", "i4", "f2", "f4"])
@pytest.mark.parametrize(
    ("name", "level"),
    [("none", None), ("bslz4", None), ("bshuf", None), ("bszstd", 1), ("bszstd", 22), ("zstd", 0), ("zstd", 9)],
)
def test_chunks_read_back_through_hdf5(name: str, level: int | None, dtype: str) -> None:
    image = np.random.default_rng(1).poisson(3, (37, 45)).astype(dtype)
    final = Filter(name, level)
    encode = final.encoder()
    with h5py.File(io.BytesIO(), "w") as h5:
        d = h5.create_dataset("x", (2, 37, 45), dtype, chunks=(1, 37, 45), **final.dataset_options())
        for k in range(2):
            d.id.write_direct_chunk((k, 0, 0), encode(image + k))
        np.testing.assert_array_equal(d[()], [image, image + 1])


@pytest.mark.parametrize(("name", "level"), [("bszstd", 3), ("bshuf", None)])
def test_an_encoder_of_an_earlier_run_is_in_no_ones_way(name: str, level: int | None) -> None:
    """Its run may have failed, and the error hold it."""
    image = np.arange(600, dtype=np.uint16).reshape(20, 30)
    encoders = [Filter(name, level).encoder() for _ in range(2)]
    first, second = (bytes(encode(image)) for encode in encoders)
    assert first == second


@pytest.mark.parametrize("compression", ["zstd", "bslz4", "bszstd", "bshuf"])
def test_plugins_that_other_programs_need_do_no_harm(tmp_path: Path, compression: str) -> None:
    """HDF5_PLUGIN_PATH names hdf5plugin's folder wherever DIALS reads our sets."""
    master = write_set(tmp_path, random_frames(2, (20, 30)), mask=random_mask((20, 30)))
    environment = {"HDF5_PLUGIN_PATH": hdf5plugin.PLUGIN_PATH}
    bnl("-i", master, "-c", compression, "-o", "set", cwd=tmp_path, env=environment)
    bnl("check", "--data", "set_master.h5", cwd=tmp_path, env=environment)
