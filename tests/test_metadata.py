"""Reading the experiment, HDF5's quirks, binned maps, and where sums must not go."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from make_inputs import DETECTOR, SPECIFIC, InputSpec, make_input, make_mask
from masters import brute, make_plan
from small_sets import read_images

import bnl_mpi
from bnl_mpi.errors import InputError, OutputError
from bnl_mpi.hdf5 import access, names
from bnl_mpi.input import experiment as metadata
from bnl_mpi.pixels import maps

U2 = np.dtype("uint16")


def read(folder: Path, spec: InputSpec, dtype: str = "uint16") -> metadata.Experiment:
    made = make_input(folder, spec)
    with access.open_read(made.master) as h5:
        return metadata.read_experiment(h5, spec.n_frames, np.dtype(dtype), spec.shape)


# HDF5's quirks


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_scalar_of_any_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with access.open_write(tmp_path / "a.h5") as h5:
        assert access.scalar(h5.create_dataset("n", data=np.full(shape, 7, dtype="u4"))) == 7
        assert access.scalar(h5.create_dataset("t", data=np.full(shape, b"Si"))) == "Si"
        assert access.scalar(h5.create_dataset("v", shape=shape, data="Si", dtype=h5py.string_dtype())) == "Si"


def test_scalar_refuses_arrays(tmp_path: Path) -> None:
    with access.open_write(tmp_path / "a.h5") as h5:
        h5["many"] = [1, 2]
        h5["none"] = np.zeros(0)
        for name, n in (("many", 2), ("none", 0)):
            with pytest.raises(InputError, match=rf"a\.h5: /{name} has {n} values"):
                access.scalar(h5[name])


@pytest.mark.parametrize("value", ["Si", b"Si", np.bytes_(b"Si"), np.array([b"Si"]), np.array("Si"), b"Si\0\0"])
def test_text(value: Any) -> None:
    assert access.text(value) == "Si"


def test_open_read_tells_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        access.open_read(tmp_path / "absent.h5")
    (tmp_path / "text.h5").write_text("not this")
    with pytest.raises(InputError, match="not an HDF5 file"):
        access.open_read(tmp_path / "text.h5")
    with pytest.raises(InputError, match="is a folder"):
        access.open_read(tmp_path)
    with access.open_write(tmp_path / "whole.h5") as h5:
        h5["a"] = np.arange(1000)
    (tmp_path / "cut.h5").write_bytes((tmp_path / "whole.h5").read_bytes()[:1000])
    with pytest.raises(InputError, match="damaged or still being written") as caught:
        access.open_read(tmp_path / "cut.h5")
    assert "\n" not in str(caught.value)


def test_open_write_tells_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="can't be created"):
        access.open_write(tmp_path / "no" / "folder.h5")


def test_files_are_not_locked(tmp_path: Path) -> None:
    with access.open_write(tmp_path / "a.h5") as h5:
        h5["a"] = 1
        h5.flush()
        with access.open_read(tmp_path / "a.h5"):
            pass


def test_walk_survives_cycles_and_dangling_links(tmp_path: Path) -> None:
    with access.open_write(tmp_path / "a.h5") as h5:
        h5["g/d"] = 1
        h5["g/self"] = h5["g"]
        h5["g/up"] = h5py.SoftLink("/")
        h5["g/nowhere"] = h5py.SoftLink("/not/here")
        h5["g/gone"] = h5py.ExternalLink("gone.h5", "/x")
        h5["g/data_000001"] = h5py.ExternalLink("a.h5", "/g/d")
        assert "/g/d" in [path for path, _ in access.walk(h5)]
        assert not [path for path, _ in access.walk(h5) if "gone" in path or "data_" in path]


# Saturation, mask, counts


def test_saturation_is_looked_up_in_order(tmp_path: Path) -> None:
    made = make_input(tmp_path, InputSpec(saturation=None))
    values = dict(zip(metadata.SATURATION_PATHS, (40001, 40002, 40003, 40004), strict=True))
    with h5py.File(made.master, "r+") as h5:
        for path, value in reversed(values.items()):
            h5[path] = np.array([value], dtype="u4")
            found = metadata.read_experiment(h5, 12, U2)
            assert (found.satval, found.satval_from) == (value, f"/{path}")
        first = next(iter(values))
        for nothing in (0, -1):
            del h5[first]
            h5[first] = np.int64(nothing)
            assert metadata.read_experiment(h5, 12, U2).satval == 40002


@pytest.mark.parametrize(
    ("dtype", "expected"), [("uint16", 32765), ("int16", 32765), ("uint32", 4294967290), ("uint8", 250)]
)
def test_default_saturation(tmp_path: Path, dtype: str, expected: int) -> None:
    found = read(tmp_path, InputSpec(saturation=None), dtype)
    assert found.satval == expected
    assert found.satval_from == f"default for {dtype}"


@pytest.mark.parametrize("flavour", ["filewriter", "nxmx"])
@pytest.mark.parametrize("kind", ["fixed", "vlen"])
@pytest.mark.parametrize("scalar_shape", [(), (1,)])
def test_flavour_and_counts(tmp_path: Path, flavour: str, kind: str, scalar_shape: tuple[int, ...]) -> None:
    spec = InputSpec(flavour=flavour, string_kind=kind, scalar_shape=scalar_shape, libver="v110")
    found = read(tmp_path, spec)
    assert found.flavour == flavour
    assert (found.nimages, found.ntrigger, found.frames_per_trigger) == (12, 1, None)
    assert found.is_rotation
    assert found.mask is not None
    assert found.mask.dtype == np.uint32
    np.testing.assert_array_equal(found.mask, make_mask(spec.shape))


def test_mask_behind_a_filter_plugin(tmp_path: Path) -> None:
    import hdf5plugin

    made = make_input(tmp_path, InputSpec(mask=False))
    with h5py.File(made.master, "r+") as h5:
        h5.create_dataset(f"{SPECIFIC}/pixel_mask", data=make_mask((11, 14)), **hdf5plugin.Bitshuffle())
        found = metadata.read_experiment(h5, 12, U2)
    assert found.mask_path == f"{SPECIFIC}/pixel_mask"
    np.testing.assert_array_equal(found.mask, make_mask((11, 14)))


def test_mask_of_another_shape_is_an_error(tmp_path: Path) -> None:
    made = make_input(tmp_path)
    with (
        access.open_read(made.master) as h5,
        pytest.raises(InputError, match=r"pixel_mask has the shape \(11, 14\), the frames have \(14, 11\)"),
    ):
        metadata.read_experiment(h5, 12, U2, (14, 11))


# Axes


@pytest.mark.parametrize(
    ("spec", "rotates"),
    [
        (InputSpec(), True),
        (InputSpec(omega_step=-0.1), True),
        (InputSpec(omega_step=0.0), False),
        (InputSpec(n_frames=1, omega_step=0.2), True),
        (InputSpec(flavour="nxmx", libver="v110"), True),
        (InputSpec(flavour="nxmx", libver="v110", omega_step=0.0), False),
        (InputSpec(omega_step=0.0, omega=[10 + 1e-4 * (-1) ** k for k in range(12)]), False),
    ],
)
def test_is_rotation(tmp_path: Path, spec: InputSpec, rotates: bool) -> None:
    assert read(tmp_path, spec).is_rotation is rotates


def test_rotation_told_by_scalars_alone(tmp_path: Path) -> None:
    made = make_input(tmp_path, InputSpec(omega_start=20.0, omega_step=-0.25))
    with h5py.File(made.master, "r+") as h5:
        for name in ("omega", "omega_end"):
            del h5[f"/entry/sample/goniometer/{name}"]
        found = metadata.read_experiment(h5, 12, U2)
    (axis,) = [axis for axis in found.axes if axis.moves]
    np.testing.assert_allclose(axis.start, 20 - 0.25 * np.arange(12), atol=1e-6)


def test_an_axis_that_is_not_a_number_is_an_error(tmp_path: Path) -> None:
    starts = np.arange(12.0)
    starts[4] = np.nan
    made = make_input(tmp_path, InputSpec(omega=list(starts)))
    with access.open_read(made.master) as h5, pytest.raises(InputError, match=r"omega is not.* at frame 5"):
        metadata.read_experiment(h5, 12, U2)


def breaks_of(folder: Path, spec: InputSpec, **changes: Any) -> list[int]:
    plan = make_plan(spec.n_frames, **changes)
    return [one.frame for one in metadata.sum_breaks(read(folder, spec), plan)]


TWO_SWEEPS = [*np.arange(6) * 0.5, *(90 + np.arange(6) * 0.5)]


@pytest.mark.parametrize(
    ("spec", "changes", "expected"),
    [
        (InputSpec(), {"sum": 5}, []),
        (InputSpec(omega_step=-0.1), {"sum": 5}, []),
        (InputSpec(omega=TWO_SWEEPS), {"sum": 1}, []),
        (InputSpec(omega=TWO_SWEEPS), {"sum": 3}, []),
        (InputSpec(omega=TWO_SWEEPS), {"sum": 4}, [6]),
        (InputSpec(omega=TWO_SWEEPS), {"sum": 3, "first_frame": 1, "n_frames": 11}, [6]),
        (InputSpec(omega=TWO_SWEEPS), {"sum": 4, "first_frame": 0, "n_frames": 6}, []),
        (InputSpec(omega=[0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12]), {"sum": 6}, [4]),  # a frame is missing
        (InputSpec(omega=[0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10]), {"sum": 6}, [4]),  # one is there twice
        (InputSpec(omega=[(355 + k) % 360 for k in range(12)]), {"sum": 12}, []),  # a full turn
        (InputSpec(omega=[170 + k if k < 10 else k - 190 for k in range(12)]), {"sum": 12}, []),
        (InputSpec(nimages=6, ntrigger=2), {"sum": 4}, [6]),
        (InputSpec(nimages=6, ntrigger=2), {"sum": 3}, []),
        (InputSpec(nimages=1, ntrigger=12), {"sum": 4}, []),
        (InputSpec(omega_step=0.0), {"sum": 4}, []),
        (InputSpec(omega_step=0.0, omega=[0] * 6 + [90] * 6), {"sum": 4}, [6]),  # stills at two angles
        (InputSpec(omega_step=0.0, omega=[7 + 3e-4 * (-1) ** k for k in range(12)]), {"sum": 4}, []),
    ],
)
def test_sum_breaks(tmp_path: Path, spec: InputSpec, changes: dict[str, Any], expected: list[int]) -> None:
    assert breaks_of(tmp_path, spec, **changes) == expected


@pytest.mark.parametrize("step", [0.01, 0.1, 1.0])
def test_single_precision_makes_no_breaks(tmp_path: Path, step: float) -> None:
    spec = InputSpec(n_frames=400, frames_per_file=400, shape=(2, 2), mask=False, omega_start=-179.9, omega_step=step)
    assert breaks_of(tmp_path, spec, sum=400) == []


def test_jitter_of_an_encoder_makes_no_breaks(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    starts = np.arange(12) * 0.1 + rng.normal(0, 0.005, 12)
    assert breaks_of(tmp_path, InputSpec(omega=list(starts), omega_step=0.1), sum=12) == []


def test_breaks_are_told_with_frames_from_one(tmp_path: Path) -> None:
    (found,) = metadata.sum_breaks(read(tmp_path, InputSpec(omega=TWO_SWEEPS)), make_plan(12, sum=4))
    assert str(found).startswith("between frames 6 and 7: ")
    assert "omega goes from 2.5 to 90" in str(found)


# Binned maps, against loops


@pytest.mark.parametrize("binning", [1, 2, 3, 5, 9, 20])
@pytest.mark.parametrize("shape", [(9, 12), (10, 7), (1, 1), (3, 20)])
def test_binned_maps(binning: int, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng([binning, *shape])
    mask = rng.choice(np.array([0, 1, 2, 1 << 31], dtype=np.uint32), shape)
    values = rng.random(shape)
    expected = brute(mask, binning, lambda y, x: np.bitwise_or.reduce(mask[y, x].reshape(-1)))
    got = metadata.bin_mask(mask, binning)
    assert got.dtype == np.uint32
    np.testing.assert_array_equal(got, expected)
    blank = metadata.mask_blank(mask, binning)
    assert blank.dtype == np.uint8
    np.testing.assert_array_equal(blank, brute(mask, binning, lambda y, x: (mask[y, x] != 0).all()))

    def mean(y: slice, x: slice) -> float:
        good = mask[y, x] == 0
        return float(values[y, x][good].mean() if good.any() else values[y, x].mean())

    np.testing.assert_allclose(metadata.bin_mean(values, mask, binning), brute(values, binning, mean))


def test_binned_mean_passes_over_what_is_not_finite() -> None:
    values = np.array([[1.0, np.nan, np.nan, np.nan], [3.0, np.inf, np.nan, np.nan]])
    np.testing.assert_array_equal(metadata.bin_mean(values, None, 2), [[2.0, 0.0]])


@pytest.mark.parametrize("binning", [1, 2, 3])
def test_masks_of_many_strips(monkeypatch: pytest.MonkeyPatch, binning: int) -> None:
    mask = np.random.default_rng(binning).choice(np.array([0, 0, 1, 8], dtype=np.uint32), (101, 37))
    whole = metadata.bin_mask(mask, binning), metadata.mask_blank(mask, binning), maps.packed(mask)
    monkeypatch.setattr(maps, "STRIP_BYTES", 512)
    np.testing.assert_array_equal(metadata.bin_mask(mask, binning), whole[0])
    np.testing.assert_array_equal(metadata.mask_blank(mask, binning), whole[1])
    assert maps.packed(mask) == whole[2]
    np.testing.assert_array_equal(maps.unpacked(whole[2], mask.shape), mask != 0)


def test_a_map_of_many_strips_is_averaged_alike() -> None:
    values = np.random.default_rng(2).random((700, 601))
    whole = values[:699].reshape(233, 3, 601)[:, :, :600].reshape(233, 3, 200, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(metadata.bin_mean(values, None, 3)[:233, :200], whole)


def test_signed_masks_keep_their_bits() -> None:
    mask = np.array([[-2147483648, 0], [0, 4]], dtype=np.int32)
    assert metadata.bin_mask(mask, 2).tolist() == [[0x80000004]]


def test_the_detector_is_where_the_paths_say() -> None:
    assert f"/{names.DETECTOR}" == DETECTOR


# ---- absurd numbers -------------------------------------------------------------------------------------


ABSURD = [
    (f"{DETECTOR}/x_pixel_size", np.float32("nan")),
    (f"{DETECTOR}/y_pixel_size", np.float32(0)),
    (f"{DETECTOR}/x_pixel_size", np.float64(-75e-6)),
    (f"{DETECTOR}/x_pixel_size", np.float64(1e30)),
    (f"{DETECTOR}/x_pixel_size", np.bytes_("75 um")),
    (f"{DETECTOR}/y_pixel_size", np.zeros(0, "f4")),
    (f"{DETECTOR}/beam_center_x", np.float32("inf")),
    (f"{DETECTOR}/frame_time", np.float32(-1)),
    (f"{DETECTOR}/count_time", np.bytes_("fast")),
    (f"{SPECIFIC}/nimages", np.uint32(10**9)),
    ("/entry/instrument/beam/incident_wavelength", np.float32(0)),
]


@pytest.mark.parametrize("flavour", ["filewriter", "nxmx"])
@pytest.mark.parametrize(("path", "value"), ABSURD)
def test_absurd_metadata_is_named_and_the_data_reduced(tmp_path: Path, flavour: str, path: str, value: Any) -> None:
    made = make_input(tmp_path, InputSpec(flavour=flavour, n_frames=4, extra={path: value}))
    summary = bnl_mpi.reduce(str(made.master), out_file=str(tmp_path / "out"), bin=2, compression="none")
    assert summary is not None
    assert summary.images == 4
    assert [text for text in summary.warnings if f"{path} is " in text and "no reader can use that" in text]


NO_SATURATION = [
    np.float32(np.finfo("f4").max),
    np.float64(2.0**64 - 1),
    np.float64("inf"),
    np.float64("nan"),
    np.float64(0.5),
    np.uint64(2**64 - 1),
    np.uint64(2**32),
]


@pytest.mark.parametrize("value", NO_SATURATION)
@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_an_absurd_saturation_value_is_replaced(tmp_path: Path, value: Any, dtype: str) -> None:
    spec = InputSpec(n_frames=2, dtype=dtype, saturation=None, mask=False)
    spec = replace(spec, extra={f"{SPECIFIC}/countrate_correction_count_cutoff": value})
    made = make_input(tmp_path, spec)
    out = tmp_path / "out"
    summary = bnl_mpi.reduce(str(made.master), out_file=str(out), compression="none", uint=4)
    assert summary is not None
    limit = {"uint16": 65530, "uint32": 4294967290}[dtype]
    assert any(f"no saturation value of {dtype} counts: {limit:g} is used" in text for text in summary.warnings)
    np.testing.assert_array_equal(read_images(f"{out}_master.h5"), made.frames)
    with h5py.File(f"{out}_master.h5") as h5:
        assert h5[f"{SPECIFIC}/countrate_correction_count_cutoff"][()] == limit


@pytest.mark.parametrize("flavour", ["filewriter", "nxmx"])
def test_usual_metadata_gives_no_warning(tmp_path: Path, flavour: str) -> None:
    assert read(tmp_path, InputSpec(flavour=flavour)).warnings == ()


@pytest.mark.parametrize("value", [np.float32(30000), np.int64(65535), np.float64(70000)])
def test_a_usable_saturation_value_stays(tmp_path: Path, value: Any) -> None:
    spec = InputSpec(saturation=None, extra={f"{SPECIFIC}/countrate_correction_count_cutoff": value})
    made = make_input(tmp_path, spec)
    with h5py.File(made.master) as h5:
        found = metadata.read_experiment(h5, spec.n_frames, np.dtype("uint16"))
    assert found.satval == int(value)
    assert found.warnings == ()
