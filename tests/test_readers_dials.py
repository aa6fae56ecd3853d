"""DIALS sees in OUT.nxs the experiment of the input, transformed exactly: compared number by number."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dials_python import PYTHON, run_script
from make_inputs import InputSpec, MadeInput, make_input
from masters import reduce_master, reduce_nxs

from bnl_mpi.hdf5 import access
from bnl_mpi.input.experiment import bin_mask
from bnl_mpi.pixels.kernels import mark_value
from bnl_mpi.plan import Plan

pytestmark = [
    pytest.mark.dials,
    pytest.mark.skipif(PYTHON is None, reason="neither dials.python nor dxtbx.python is on PATH"),
]

SIZE_OF_500K = (514, 1030)
"""DIALS reads an older master only if its image is as large as some Eiger's."""

OLDER = InputSpec(shape=SIZE_OF_500K, compression="gzip", translation=(0.0386, 0.0193, -0.15), frames_per_file=7)
NXMX = InputSpec(flavour="nxmx", libver="v110", shape=(11, 14))

SMALL = replace(OLDER, shape=(11, 14), compression=None)
"""Of no Eiger's size: DIALS reads only what is made of it."""
FAR_ROUND: dict[str, Any] = {"omega_start": 300.0, "omega_step": 0.05, "n_frames": 3600, "frames_per_file": 3600}

TWO_STARTS = tuple(float(one) for one in [*(np.arange(6) * 0.5), *(90 + np.arange(6) * 0.5)])

CASES: dict[str, tuple[InputSpec, dict[str, Any]]] = {
    "older": (OLDER, {}),
    "older, b2 s2": (OLDER, {"binning": 2, "sum": 2}),
    "older, b3 s5, partial": (OLDER, {"binning": 3, "sum": 5, "limit": 29000}),
    "older, from 4": (OLDER, {"binning": 2, "sum": 2, "first_frame": 3, "n_frames": 8}),
    "older, one image": (OLDER, {"sum": 12}),
    "older, u1": (replace(OLDER, dtype="uint8", saturation=200), {"dtype_out": "uint16", "limit": 200}),
    "older, vertical": (replace(OLDER, detector_number="E-32-0105"), {"sum": 2}),
    "older, backwards": (replace(OLDER, omega_step=-0.1), {"binning": 2, "sum": 3}),
    "nxmx": (NXMX, {}),
    "nxmx, b2 s2": (NXMX, {"binning": 2, "sum": 2}),
    "nxmx, b3 s5, partial": (NXMX, {"binning": 3, "sum": 5, "limit": 29000}),
    "nxmx, from 4": (NXMX, {"binning": 2, "sum": 2, "first_frame": 3, "n_frames": 8}),
    "nxmx, backwards": (replace(NXMX, omega_step=-0.1), {"binning": 2, "sum": 3}),
    "nxmx, two starts": (replace(NXMX, omega=TWO_STARTS), {"sum": 3}),
    "nxmx, single precision": (replace(NXMX, axis_dtype="f4", end_arrays=False), {"sum": 2}),
    "nxmx, reversed size": (replace(NXMX, reversed_size=True), {"binning": 2}),
    "nxmx, no mask": (replace(NXMX, mask=False), {"binning": 2}),
    "nxmx, u1": (NXMX, {"dtype_out": "uint8", "limit": 200}),
    "nxmx, u4": (NXMX, {"dtype_out": "uint32", "limit": 30000}),
    "nxmx, i2": (NXMX, {"dtype_out": "int16", "limit": 30000}),
    "nxmx, i4": (NXMX, {"dtype_out": "int32", "limit": 30000}),
    "older, small, u1": (SMALL, {"dtype_out": "uint8", "limit": 200}),
    "older, small, u2": (SMALL, {}),
    "older, small, u4": (SMALL, {"dtype_out": "uint32", "limit": 30000}),
    "older, small, i2": (SMALL, {"dtype_out": "int16", "limit": 30000}),
    "older, small, i4": (SMALL, {"dtype_out": "int32", "limit": 30000}),
    "older, far round": (replace(SMALL, **FAR_ROUND), {"sum": 7}),
    "nxmx, far round": (replace(NXMX, axis_dtype="f4", **FAR_ROUND), {}),
}

BACKWARDS = ("nxmx, backwards", "older, backwards")

SAME_GEOMETRY = {
    "nxmx, backwards": "nxmx",
    "older, backwards": "older",
    "nxmx, single precision": "nxmx",
    "nxmx, reversed size": "nxmx",
    **{name: "older" for name in CASES if name.startswith("older, small") or name == "older, far round"},
    "nxmx, far round": "nxmx",
}
"""Inputs that DIALS can't read, or reads wrongly: another one with the same geometry to compare with."""

READABLE_MASTERS = [
    name
    for name, (spec, changes) in CASES.items()
    if name not in SAME_GEOMETRY and (spec.flavour == "nxmx" or "binning" not in changes)
]


def run_dials(paths: list[Path]) -> dict[str, dict[str, Any]]:
    return run_script("dials_models.py", [str(path) for path in paths])


def write_blocks(folder: Path, plan: Plan) -> None:
    """Blocks whose pixels tell image and place; the last pixel of each has the mark."""
    n = int(np.prod(plan.shape_out))
    for block in plan.blocks():
        with access.open_write(folder / f"out_{block.number:06d}.h5") as h5:
            shape = (block.n_images, *plan.shape_out)
            data = h5.create_dataset(
                "/entry/data/data",
                shape=shape,
                dtype=plan.dtype_out,
                chunks=(1, *plan.shape_out),
                compression="gzip",
            )
            for k in range(block.n_images):
                image = (np.arange(n) % 97 + block.first_image + k).astype(plan.dtype_out)
                image[-1] = mark_value(plan.dtype_out)
                data[k] = image.reshape(plan.shape_out)


@dataclass(frozen=True)
class Case:
    """An input, the plan of its reduction, and what DIALS makes of each file."""

    made: MadeInput
    plan: Plan
    source: dict[str, Any]
    nxs: dict[str, Any]
    master: dict[str, Any]


Seen = dict[str, Case]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Every case, read by one start of DIALS' Python."""
    made: dict[str, tuple[MadeInput, Plan, list[Path]]] = {}
    for number, (name, (spec, changes)) in enumerate(CASES.items()):
        folder = tmp_path_factory.mktemp(f"case{number}")
        source = make_input(folder, spec)
        nxs, lacking, plan = reduce_nxs(source, **changes)
        assert lacking == []
        master, _, _ = reduce_master(source, **changes)
        write_blocks(folder, plan)
        made[name] = (source, plan, [source.master, nxs, master])
    found = run_dials([path for _, _, paths in made.values() for path in paths])
    return {
        name: Case(source, plan, *(found[str(path)] for path in paths)) for name, (source, plan, paths) in made.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_the_same_experiment(seen: Seen, name: str) -> None:
    plan, after = seen[name].plan, seen[name].nxs
    before = seen[SAME_GEOMETRY.get(name, name)].source
    assert "error" not in before, before
    assert "error" not in after, after
    assert after["format"] == "FormatNXmx"
    for what in ("origin", "fast", "slow", "normal", "distance", "wavelength", "s0", "thickness"):
        np.testing.assert_allclose(after[what], before[what], rtol=2e-7, atol=1e-9, err_msg=what)
    sense = -1 if name in BACKWARDS else 1
    np.testing.assert_allclose(after["rotation_axis"], np.multiply(sense, before["rotation_axis"]))
    np.testing.assert_allclose(after["beam_centre"], before["beam_centre"], rtol=2e-7)
    assert after["material"] == before["material"]
    np.testing.assert_allclose(after["pixel_size"], np.multiply(before["pixel_size"], plan.binning), rtol=2e-7)
    assert after["image_size"] == list(plan.shape_out[::-1])
    np.testing.assert_allclose(after["exposure"], before["exposure"] * plan.sum, rtol=1e-6)
    assert after["images"] == plan.n_images
    # 0 is the least count, and this DIALS leaves out the ends of the range.
    assert after["trusted_range"] == [-1, plan.limit]
    if after["last_trusted"] is not None:
        assert after["last_trusted"] == [True] * (len(after["last_trusted"]) - 1) + [False]


@pytest.mark.parametrize("name", CASES)
def test_the_same_rotation(seen: Seen, name: str) -> None:
    plan, spec, before = seen[name].plan, seen[name].made.spec, seen[name].source
    sense = -1 if name in BACKWARDS else 1
    start, width = seen[name].nxs["oscillation"]
    assert sense * start == pytest.approx(spec.starts[plan.first_frame], abs=1e-5)
    assert sense * width == pytest.approx(spec.omega_step * min(plan.sum, plan.n_frames), abs=1e-5)
    # A single tells an angle of 300 degrees to 3e-5.
    assert sense * width * plan.n_images == pytest.approx(
        spec.omega_step * min(plan.sum, plan.n_frames) * plan.n_images, abs=1e-6
    )
    if name not in SAME_GEOMETRY:
        assert before["oscillation"][1] == pytest.approx(spec.omega_step, abs=1e-5)


@pytest.mark.parametrize("name", BACKWARDS)
def test_a_falling_angle_is_more_than_dials_takes(seen: Seen, name: str) -> None:
    """The reason for turning the axis round in OUT.nxs."""
    assert "oscillation" in seen[name].source["error"]


@pytest.mark.parametrize("name", CASES)
def test_the_mask_and_the_last_image(seen: Seen, name: str) -> None:
    made, plan, after = seen[name].made, seen[name].plan, seen[name].nxs
    if made.spec.mask:
        good = bin_mask(made.mask, plan.binning) == 0
        assert after["mask_shape"] == list(plan.shape_out)
        assert after["mask"] == np.packbits(good).tobytes().hex()
    else:
        assert after["mask"] is None
    if after["last_image"] is not None:
        expected = np.arange(len(after["last_image"])) % 97 + plan.n_images - 1
        expected[-1] = -1
        np.testing.assert_array_equal(after["last_image"], expected)


@pytest.mark.parametrize("name", READABLE_MASTERS)
def test_the_new_master_is_read_where_the_input_is(seen: Seen, name: str) -> None:
    made, plan, before, after = seen[name].made, seen[name].plan, seen[name].source, seen[name].master
    assert "error" not in after, after
    assert after["format"] == before["format"]
    for what in ("origin", "fast", "slow", "wavelength", "rotation_axis", "beam_centre"):
        np.testing.assert_allclose(after[what], before[what], rtol=2e-7, atol=1e-9, err_msg=what)
    assert after["images"] == plan.n_images
    np.testing.assert_allclose(after["pixel_size"], np.multiply(before["pixel_size"], plan.binning), rtol=2e-7)
    if plan.n_images > 1:
        assert after["oscillation"][1] == pytest.approx(made.spec.omega_step * plan.sum, abs=1e-5)


def test_a_binned_older_master_needs_the_file_beside_it(seen: Seen) -> None:
    """The reason for OUT.nxs; should this fail one day, the README can say so."""
    case = seen["older, b2 s2"]
    assert "error" in case.master
    assert "error" not in case.nxs
