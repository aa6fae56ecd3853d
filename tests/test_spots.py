"""Spots: the kernels against brute force and their NumPy twins, the finder against DIALS's."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections import deque
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  (registers the filters)
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnl_mpi.pixels import kernels, strong_numpy
from bnl_mpi.quality import chain
from bnl_mpi.simulate import simulate
from bnl_mpi.spots.finder import SpotFinder, Spots

Array = np.ndarray[Any, Any]
HOWS = [strong_numpy] + ([kernels._kernels] if kernels.COMPILED else [])  # type: ignore[attr-defined]


def brute_force(frame: Array, mask: Array | None, top: int, kernel: int, nsigma_b: float, nsigma_s: float) -> Array:
    """The published test, pixel by pixel in the words of its paper: variance, mean and their chance spread."""
    ny, nx = frame.shape
    found = np.zeros((ny, nx), np.uint8)
    for y in range(ny):
        for x in range(nx):
            rows = slice(max(0, y - kernel), y + kernel + 1)
            columns = slice(max(0, x - kernel), x + kernel + 1)
            good = frame[rows, columns] <= top
            here = frame[y, x] <= top
            if mask is not None:
                good &= mask[rows, columns] == 0
                here = here and mask[y, x] == 0
            values = frame[rows, columns][good].astype(float)
            if not here or frame[y, x] == 0 or len(values) < 2:
                continue
            mean, variance = values.mean(), values.var(ddof=1)
            wide = variance / mean > 1 + nsigma_b * math.sqrt(2 / (len(values) - 1))
            high = float(frame[y, x]) > mean + nsigma_s * math.sqrt(mean / len(values)) * math.sqrt(len(values))
            found[y, x] = wide and high
    return found


def some_frame(seed: int, shape: tuple[int, int], dtype: str) -> tuple[Array, Array]:
    """A frame with background, bright spots and marks, and a mask."""
    rng = np.random.default_rng(seed)
    frame = rng.poisson(rng.choice([0.2, 3.0]), shape).astype(np.int64)
    for _ in range(3):
        y, x = rng.integers(0, shape[0]), rng.integers(0, shape[1])
        frame[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] += rng.poisson(
            30, frame[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].shape
        )
    frame = np.minimum(frame, np.iinfo(dtype).max)
    frame[rng.random(shape) < 0.02] = np.iinfo(dtype).max
    return frame.astype(dtype), (rng.random(shape) < 0.05).astype(np.uint8)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
@given(seed=st.integers(0, 2**32), ny=st.integers(1, 24), nx=st.integers(1, 24), kernel=st.integers(1, 4))
@settings(max_examples=15, deadline=None)
def test_strong_pixels_are_those_of_the_definition(dtype: str, seed: int, ny: int, nx: int, kernel: int) -> None:
    frame, mask = some_frame(seed, (ny, nx), dtype)
    for flagged in (None, mask):
        wanted = brute_force(frame, flagged, kernels.top_value(dtype), kernel, 6.0, 3.0)
        for how in HOWS:
            found = np.full(frame.shape, 7, np.uint8)
            n = how.strong_pixels(frame, flagged, kernels.top_value(dtype), kernel, 2, 6.0, 3.0, 0.0, found)
            # A comparison that is a tie in exact arithmetic may go either way in the brute force's.
            assert np.count_nonzero(found != wanted) == 0
            assert n == np.count_nonzero(found)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_compiled_and_numpy_agree_up_to_the_greatest_counts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frame = (
        rng.integers(0, 2**32, (30, 41), dtype=np.uint64) >> rng.integers(0, 32, (30, 41), dtype=np.uint64)
    ).astype(np.uint32)
    kernel, nsigma = int(rng.integers(1, 7)), float(rng.choice([0.5, 3.0]))
    found = [np.empty(frame.shape, np.uint8) for _ in HOWS]
    for how, out in zip(HOWS, found, strict=True):
        how.strong_pixels(frame, None, 4294967290, kernel, 2, nsigma, 0.5, 1.0, out)
    assert all(np.array_equal(found[0], other) for other in found[1:])


def flooded(pixels: set[tuple[int, int, int]]) -> list[set[tuple[int, int, int]]]:
    """Components of (z, y, x) by flooding, in the order of their first pixels."""
    left, parts = set(pixels), []
    for seed in sorted(pixels):
        if seed not in left:
            continue
        part, queue = set(), deque([seed])
        left.discard(seed)
        while queue:
            z, y, x = queue.popleft()
            part.add((z, y, x))
            for other in ((z + 1, y, x), (z - 1, y, x), (z, y + 1, x), (z, y - 1, x), (z, y, x + 1), (z, y, x - 1)):
                if other in left:
                    left.discard(other)
                    queue.append(other)
        parts.append(part)
    return parts


@given(seed=st.integers(0, 2**32), nz=st.integers(1, 5), ny=st.integers(1, 9), nx=st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_components_are_those_of_a_flood(seed: int, nz: int, ny: int, nx: int) -> None:
    rng = np.random.default_rng(seed)
    volume = rng.random((nz, ny, nx)) < rng.choice([0.1, 0.3, 0.6])
    keys = np.flatnonzero(volume).astype(np.int64)
    wanted = flooded({tuple(int(i) for i in at) for at in np.argwhere(volume)})  # type: ignore[misc]
    for how in HOWS:
        labels = np.full(len(keys), -1, np.int32)
        n = how.components(keys, ny, nx, labels) if len(keys) else 0
        found: list[set[tuple[int, int, int]]] = [set() for _ in range(n)]
        for label, at in zip(labels, np.argwhere(volume), strict=True):
            found[label].add(tuple(int(i) for i in at))  # type: ignore[arg-type]
        assert found == wanted


def test_a_spot_over_three_frames_is_one_with_its_centre() -> None:
    frames = np.random.default_rng(1).poisson(2, (5, 40, 60)).astype(np.uint16)
    for z, height in ((1, 40), (2, 80), (3, 40)):
        frames[z, 10:13, 20:23] += np.uint16(height)
    frames[2, 30, 50] = 65535
    finder = SpotFinder((40, 60), None)
    for z, frame in enumerate(frames):
        finder.add(z, frame)
    spots = finder.spots()
    assert len(spots) == 1
    assert [spots.x[0], spots.y[0], spots.z[0]] == pytest.approx([21.5, 11.5, 2.5], abs=0.1)
    assert spots.box[0].tolist() == [20, 23, 10, 13, 1, 4]
    assert spots.counts[0] == frames[1:4, 10:13, 20:23].sum()
    assert spots.pixels[0] == 27


def test_no_spots_on_noise_and_none_without_frames() -> None:
    frame = np.random.default_rng(3).poisson(5, (200, 200)).astype(np.uint16)
    finder = SpotFinder((200, 200), np.zeros((200, 200), np.uint8))
    assert len(finder.spots()) == 0
    finder.add(0, frame)
    assert len(finder.spots()) == 0


def test_signed_and_float_frames_are_looked_at_as_counts() -> None:
    frame = np.random.default_rng(5).poisson(2, (40, 40)).astype(np.int32)
    frame[10:13, 10:13] += 50
    frame[30, 30] = -1
    as_float = frame.astype(np.float32)
    as_float[30, 30] = np.nan
    finder = SpotFinder((40, 40), None)
    for other in (frame, as_float, frame.astype(np.int16)):
        assert np.array_equal(finder.strong(other), finder.strong(np.where(frame < 0, 65535, frame).astype(np.uint16)))


def dials_spots(master: Path, folder: Path) -> list[list[float]]:
    """x, y, z in pixels and frames, intensity, of what dials.find_spots finds with the same published algorithm."""
    environment = chain.dials_environment()
    steps = (
        ["dials.import", str(master)],
        ["dials.find_spots", "imported.expt", "spotfinder.threshold.algorithm=dispersion", "nproc=2"],
        [PYTHON or "dials.python", "-c", READ_SPOTS],
    )
    for words in steps:
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    found: list[list[float]] = json.loads((folder / "spots.json").read_text())
    return found


PYTHON = next((found for name in ("dials.python", "dxtbx.python") if (found := shutil.which(name))), None)
READ_SPOTS = """
import json
from dials.array_family import flex
table = flex.reflection_table.from_file("strong.refl")
rows = [list(p) + [i] for p, i in zip(table["xyzobs.px.value"], table["intensity.sum.value"])]
json.dump(rows, open("spots.json", "w"))
"""


def find_in(master: Path) -> Spots:
    with h5py.File(master) as h5:
        mask = (h5["entry/instrument/detector/detectorSpecific/pixel_mask"][()] != 0).astype(np.uint8)
        frames = np.concatenate([h5["entry/data"][name][()] for name in sorted(h5["entry/data"])])
    finder = SpotFinder(mask.shape, mask)
    for number, frame in enumerate(frames):
        finder.add(number, frame)
    return finder.spots()


@pytest.mark.dials
def test_nine_of_ten_strong_spots_are_those_of_dials(tmp_path: Path) -> None:
    if reason := chain.missing_dials():
        pytest.skip(reason)
    master = simulate(tmp_path / "in", frames=20, osc=0.2, resolution=2.2)
    theirs = np.array(dials_spots(master, tmp_path))
    ours = find_in(master)
    assert len(theirs) > 200
    strong_ones = theirs[theirs[:, 3] >= np.median(theirs[:, 3])]
    mine = np.stack([ours.x, ours.y, ours.z], axis=1)
    near = [np.any(np.abs(mine - at[:3]).max(axis=1) < 1.0) for at in strong_ones]
    assert np.mean(near) >= 0.9
    assert abs(len(ours) / len(theirs) - 1) < 0.1
    back = [np.any(np.abs(theirs[:, :3] - at).max(axis=1) < 1.0) for at in mine]
    assert np.mean(back) >= 0.9
