"""DIALS sees the same experiment in a CBF series and in its reduction, number by number apart from b and s."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dials_python import PYTHON, run_script
from make_cbf import Array, Made, counts, kappa_tables, write_series
from small_sets import shared_data

import bnl_mpi
from bnl_mpi.pixels.maps import bin_mask
from bnl_mpi.run import driver
from bnl_mpi.tasks.export import ExportTask, options_for

pytestmark = [
    pytest.mark.dials,
    pytest.mark.skipif(PYTHON is None, reason="neither dials.python nor dxtbx.python is on PATH"),
]

SIZE_300K, SIZE_500K = (619, 487), (514, 1030)
"""DIALS knows a miniCBF's detector by its size."""

UNSATURATED = 1000
"""Eight of these stay below the saturation value, at which sums are cut, and pixels are no longer good ones."""

EIGER = Made(detector="Dectris EIGER X 500K, S/N E-01-0200", beam=(514.25, 260.5), pixel=75e-6, start=0.0)

CASES: dict[str, tuple[Made, tuple[int, int]]] = {
    "pilatus": (Made(), SIZE_300K),
    "pilatus, reversed spindle": (Made(detector="PILATUS 300K, S/N 60-0125"), SIZE_300K),
    "pilatus, one degree": (Made(start=-170.0, increment=1.0), SIZE_300K),
    "eiger": (EIGER, SIZE_500K),
    "imgCIF, phi": (Made(tables=kappa_tables()), SIZE_300K),
    "imgCIF, omega": (Made(tables=kappa_tables(scan="OMEGA")), SIZE_300K),
    "imgCIF, displaced": (Made(tables=kappa_tables(displacement=1.75)), SIZE_300K),
}
REAL = ("l-cyst_01_", "l-cyst_02_")

REDUCTIONS: dict[str, dict[str, Any]] = {
    "b1 s1": {"uint": 4},
    "b2 s2": {"uint": 4, "bin": 2, "sum": 2, "drop_partial": True},
}


@dataclass(frozen=True)
class Seen:
    """What DIALS tells of the CBF files, and of each reduction's OUT.nxs, master, and export to CBF files."""

    cbf: dict[str, Any]
    nxs: dict[str, dict[str, Any]]
    master: dict[str, dict[str, Any]]
    exported: dict[str, dict[str, Any]]


def run_dials(sets: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    return run_script("dials_series.py", sets)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seen]:
    """All cases, and the real series where they are there, reduced, and read by one DIALS process."""
    folder = tmp_path_factory.mktemp("cbf")
    series = {}
    for name, (made, shape) in CASES.items():
        place = folder / name.replace(", ", "_").replace(" ", "_")
        place.mkdir()
        series[name] = [
            str(p) for p in write_series(place, module_gaps(np.minimum(counts(4, shape), UNSATURATED)), made)
        ]
    real = shared_data()
    if real is not None and (real / "l_cysteine").is_dir():
        series |= {name: [str(p) for p in sorted((real / "l_cysteine").glob(f"{name}*"))] for name in REAL}
    sets: dict[str, list[str]] = {}
    for name, paths in series.items():
        sets[f"{name}|cbf|"] = paths
        for reduction, options in REDUCTIONS.items():
            out = f"{folder}/{len(sets)}"
            bnl_mpi.reduce(paths[1], out_file=out, compression="bslz4", **options)
            sets[f"{name}|nxs|{reduction}"] = [f"{out}.nxs"]
            sets[f"{name}|master|{reduction}"] = [f"{out}_master.h5"]
            sets[f"{name}|exported|{reduction}"] = export(f"{out}_master.h5", f"{out}_####.cbf")
    found = run_dials(sets)
    return {
        name: Seen(
            found[f"{name}|cbf|"],
            {r: found[f"{name}|nxs|{r}"] for r in REDUCTIONS},
            {r: found[f"{name}|master|{r}"] for r in REDUCTIONS},
            {r: found[f"{name}|exported|{r}"] for r in REDUCTIONS},
        )
        for name in series
    }


def export(master: str, template: str) -> list[str]:
    """Export a set; the paths of the images."""
    task = ExportTask(template)
    summary = driver.call(task, options_for(master, template, {}))
    assert summary is not None
    images = [str(p) for p in sorted(Path(template).parent.glob(Path(template).name.replace("#", "?")))]
    assert len(images) == summary.images
    return images


def module_gaps(frames: Array) -> Array:
    """The same with -1 where DIALS puts the gaps of a 300K detector, by size."""
    if frames.shape[1:] == SIZE_300K:
        for k in (1, 2):
            frames[:, k * 195 + (k - 1) * 17 : k * (195 + 17)] = -1
    return frames


def case(seen: dict[str, Seen], name: str) -> Seen:
    if name not in seen:
        pytest.skip("no shared/data/l_cysteine")
    assert "error" not in seen[name].cbf, seen[name].cbf
    return seen[name]


ALL = [*CASES, *REAL]


@pytest.mark.parametrize("kind", ["nxs", "master"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", ALL)
def test_the_same_experiment(seen: dict[str, Seen], name: str, reduction: str, kind: str) -> None:
    before, after = case(seen, name).cbf, getattr(case(seen, name), kind)[reduction]
    assert "error" not in after, after
    options = REDUCTIONS[reduction]
    b, s = options.get("bin", 1), options.get("sum", 1)
    for what in ("origin", "fast", "slow", "s0", "rotation_axis", "rotation_axis_datum", "fixed", "setting"):
        np.testing.assert_allclose(after[what], before[what], rtol=1e-9, atol=2e-9, err_msg=what)
    for what in ("thickness", "material"):
        assert after[what] == before[what]
    np.testing.assert_allclose(after["pixel_size"], np.multiply(before["pixel_size"], b), rtol=1e-12)
    assert after["image_size"] == [-(-n // b) for n in before["image_size"]]
    assert after["images"] == before["images"] // s
    np.testing.assert_allclose(after["beam_centre"], before["beam_centre"], atol=1e-9)
    np.testing.assert_allclose(after["oscillation"], np.multiply(before["oscillation"], (1, s)), atol=1e-9)
    low, high = before["trusted_range"]
    assert after["trusted_range"] == [low, high]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", ALL)
def test_the_same_mask(seen: dict[str, Seen], name: str, reduction: str) -> None:
    before, after = case(seen, name).cbf, case(seen, name).nxs[reduction]
    options, (ny, nx) = REDUCTIONS[reduction], before["mask_shape"]
    frames = [np.unpackbits(np.frombuffer(bytes.fromhex(one), np.uint8), count=ny * nx) for one in before["masks"]]
    good = np.bitwise_and.reduce(frames[: options.get("sum", 1)]).reshape(ny, nx)
    binned = bin_mask(1 - good.astype(np.uint32), options.get("bin", 1)) == 0
    assert after["mask_shape"] == list(binned.shape)
    assert after["masks"][0] == np.packbits(binned).tobytes().hex()


@pytest.mark.parametrize("name", ALL)
def test_the_same_pixels(seen: dict[str, Seen], name: str) -> None:
    before, after = case(seen, name).cbf, case(seen, name)
    assert after.nxs["b1 s1"]["pixels"] == before["pixels"]
    assert after.master["b1 s1"]["pixels"] == before["pixels"]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", ALL)
def test_an_export_is_the_set_again(seen: dict[str, Seen], name: str, reduction: str) -> None:
    """As OUT.nxs, number by number; but for a sensor that no imgCIF table tells, where DIALS goes by these alone."""
    nxs, cbf = case(seen, name).nxs[reduction], case(seen, name).exported[reduction]
    assert "error" not in cbf, cbf
    for what in ("origin", "fast", "slow", "s0", "rotation_axis", "rotation_axis_datum", "fixed", "setting"):
        np.testing.assert_allclose(cbf[what], nxs[what], rtol=1e-9, atol=2e-9, err_msg=what)
    for what in ("beam_centre", "oscillation", "pixel_size"):
        np.testing.assert_allclose(cbf[what], nxs[what], rtol=1e-12, atol=1e-9, err_msg=what)
    for what in ("images", "first_image", "image_size", "trusted_range", "mask_shape", "masks", "pixels"):
        assert cbf[what] == nxs[what], what
    if cbf["format"] != "FormatCBFFullByteOffset":
        assert (cbf["thickness"], cbf["material"]) == (nxs["thickness"], nxs["material"])
