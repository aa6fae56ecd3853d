"""DIALS from import to scaling on simulated data, unreduced and reduced, against the simulation's truth."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import pytest

import bnl_mpi
from bnl_mpi.estimate import names
from bnl_mpi.quality import chain, settings, study
from bnl_mpi.simulate import simulate

pytestmark = pytest.mark.dials

# Less far and with quicker algorithms than the benchmark: this is to tell whether a reduced set is
# understood rightly, not to rank settings.
SERIES = "--frames 450 --osc 0.1 --resolution 2.5 --brightness 150 --bad_pixels 0"
D_MIN = 2.5
REDUCED = "b2s2H12"
KEPT = "b2s2T20keep"


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The records of the unreduced set, of a reduced one, and of one that keeps the unreduced one's reflections."""
    if reason := chain.missing_dials():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}, and CI must run this test: install the package dials")
        pytest.skip(reason)
    folder: Path = tmp_path_factory.mktemp("chain")
    series = settings.Series(
        "chain",
        "chain",
        SERIES,
        folder / "input_master.h5",
        D_MIN,
        truth=folder / "input_truth.h5",
        quick=True,
    )
    tried = {"raw": None, "reduced": names.parse(REDUCED), "kept": names.parse(KEPT)}
    return {name: study.run_setting(series, setting, folder) for name, setting in tried.items()}


@pytest.mark.parametrize(
    ("name", "images", "shape"),
    [("raw", 450, [1065, 1030]), ("reduced", 225, [533, 515]), ("kept", 225, [533, 515])],
)
def test_every_image_is_seen(records: dict[str, dict[str, Any]], name: str, images: int, shape: list[int]) -> None:
    assert records[name]["images"] == images
    assert records[name]["image"] == shape


@pytest.mark.parametrize("name", ["raw", "reduced", "kept"])
def test_spots_index_in_the_true_cell(records: dict[str, dict[str, Any]], name: str) -> None:
    record = records[name]
    assert record["spots"] > 1000
    assert record["indexed_fraction"] > 0.9
    assert record["cell_error"] < 0.001


@pytest.mark.parametrize(("name", "overall", "outer"), [("raw", 0.98, 0.95), ("reduced", 0.97, 0.9)])
def test_merged_intensities_are_the_true_ones(
    records: dict[str, dict[str, Any]], name: str, overall: float, outer: float
) -> None:
    shells = records[name]["shells"]
    assert shells[0]["completeness"] > 0.85
    assert shells[0]["cc_half"] > 0.97
    assert shells[0]["cc_reference"] > overall
    assert shells[-1]["cc_reference"] > outer


def test_reduction_shrinks_the_files_and_is_no_better_than_the_data(
    records: dict[str, dict[str, Any]],
) -> None:
    raw, reduced = records["raw"], records["reduced"]
    assert reduced["ratio_stored"] > 3
    assert reduced["shells"][-1]["cc_reference"] < raw["shells"][-1]["cc_reference"] + 0.01


def test_a_set_of_kept_reflections_is_integrated_as_well_as_a_larger_one(records: dict[str, dict[str, Any]]) -> None:
    """DIALS reads it as it is, and finds as many reflections, and intensities that are no worse."""
    raw, reduced, kept = (records[name] for name in ("raw", "reduced", "kept"))
    assert kept["ratio"] > 3 * reduced["ratio"]
    assert kept["shells"][0]["observations"] > 0.97 * raw["shells"][0]["observations"]
    mean = {name: np.mean([s["cc_reference"] for s in found["shells"][1:]]) for name, found in records.items()}
    assert mean["kept"] > mean["raw"] - 0.02
    assert mean["kept"] > mean["reduced"] - 0.01


@pytest.fixture(scope="module")
def two_lattices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of 20 frames with the spots of two crystals, and a table of those of the first alone."""
    folder = tmp_path_factory.mktemp("two")
    for name, seed in (("in", 0), ("other", 7)):
        simulate(
            folder / name, frames=20, osc=0.5, resolution=3.2, brightness=1000, background=4, bad_pixels=0, seed=seed
        )
    with h5py.File(folder / "in_data_000001.h5", "r+") as first, h5py.File(folder / "other_data_000001.h5") as second:
        frames, others = first["entry/data/data"], second["entry/data/data"][()]
        whole = frames[()]
        frames[...] = np.where(whole < 60000, whole + np.minimum(others, 5000), whole)
    with h5py.File(folder / "in_truth.h5") as file:
        spots = file["predictions"]
        rows = np.stack([spots["fast"][()], spots["slow"][()], np.floor(spots["frame"][()]) + 1], 1)
    rows = rows[(rows[:, 2] >= 1) & (rows[:, 2] <= 20)]
    np.savetxt(folder / "first.txt", rows, "%.2f %.2f %d")
    return folder


def test_a_second_lattice_that_nobody_predicted_still_indexes(two_lattices: Path) -> None:
    """Its strong spots stand out of their surroundings, and so stay."""
    if reason := chain.missing_dials():
        pytest.skip(reason)
    folder = two_lattices
    bnl_mpi.reduce(
        str(folder / "in_master.h5"),
        out_file=str(folder / "o"),
        bin=2,
        compression="zstd",
        keep=(str(folder / "first.txt"),),
        keep_frames=1,
    )
    cell = "unit_cell=78.54,78.54,37.77,90,90,90"
    quick = ["indexing.method=fft1d", "n_macro_cycles=1", "reflections_per_degree=30", "detector.fix=all"]
    for words in (
        ["import", str(folder / "o.nxs")],
        ["find_spots", "imported.expt", "nproc=2", "spotfinder.threshold.algorithm=dispersion"],
        ["index", "imported.expt", "strong.refl", "max_lattices=2", "space_group=P43212", cell, *quick],
    ):
        done = subprocess.run(
            [f"dials.{words[0]}", *words[1:]],
            cwd=folder,
            env=chain.dials_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-2000:]
    experiments = json.loads((folder / "indexed.expt").read_text())
    first, second = (np.array([crystal[f"real_space_{axis}"] for axis in "abc"]) for crystal in experiments["crystal"])
    for axes in (first, second):
        np.testing.assert_allclose(np.linalg.norm(axes, axis=1), [78.54, 78.54, 37.77], rtol=0.003)
    between = np.degrees(np.arccos(abs(first[2] @ second[2]) / 37.77**2))
    assert between > 10  # their fourfold axes: another crystal, and not the same one again
