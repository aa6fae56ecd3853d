"""The new master: each rule, the copy in kind, the links; and that nothing of the input is lost."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from make_inputs import DETECTOR, PIXEL, SPECIFIC, InputSpec, MadeInput, make_input
from masters import SELECTIONS, TRANSFORMATIONS, brute, make_plan, nxmx, reduce_master, value
from small_sets import shared_data

from bnl_mpi.errors import InputError
from bnl_mpi.hdf5 import access
from bnl_mpi.input import experiment as metadata
from bnl_mpi.output import master

GONIOMETER = "/entry/sample/goniometer"
# Rules


@pytest.mark.parametrize("flavour", ["filewriter", "nxmx"])
@pytest.mark.parametrize("scalar_shape", [(), (1,)])
def test_pixels_and_counts(tmp_path: Path, flavour: str, scalar_shape: tuple[int, ...]) -> None:
    made = make_input(tmp_path, InputSpec(flavour=flavour, scalar_shape=scalar_shape, libver="v110"))
    path, warnings, _ = reduce_master(made, binning=3, sum=2, limit=20000, dtype_out="uint32")
    assert warnings == []
    with access.open_read(path) as h5, access.open_read(made.master) as source:
        expected = {
            f"{DETECTOR}/beam_center_x": 0.0004 / PIXEL / 3,
            f"{DETECTOR}/beam_center_y": 0.00035 / PIXEL / 3,
            f"{DETECTOR}/x_pixel_size": 3 * PIXEL,
            f"{DETECTOR}/y_pixel_size": 3 * PIXEL,
            f"{DETECTOR}/count_time": 2 * 0.0999,
            f"{DETECTOR}/frame_time": 0.2,
            f"{DETECTOR}/bit_depth_image": 32,
            f"{DETECTOR}/bit_depth_readout": 32,
            f"{DETECTOR}/detector_distance": 0.2,
            f"{SPECIFIC}/x_pixels_in_detector": 5,
            f"{SPECIFIC}/y_pixels_in_detector": 4,
            f"{SPECIFIC}/countrate_correction_count_cutoff": 20000,
            f"{SPECIFIC}/nframes_sum": 2,
            f"{SPECIFIC}/nimages": 6,
            f"{SPECIFIC}/ntrigger": 1,
            f"{SPECIFIC}/number_of_excluded_pixels": 11,
            "/entry/instrument/beam/incident_wavelength": 0.9795,
        }
        for where, number in expected.items():
            assert value(h5, where) == pytest.approx(number, rel=1e-6), where
            assert h5[where].dtype == source[where].dtype, where
            assert h5[where].shape == scalar_shape, where


@pytest.mark.parametrize("binning", [1, 2, 3, 4])
def test_mask_and_flat_field(tmp_path: Path, binning: int) -> None:
    made = make_input(tmp_path, InputSpec(filtered_mask=True))
    path, _, plan = reduce_master(made, binning=binning)
    with access.open_read(path) as h5, access.open_read(made.master) as source:
        expected = brute(made.mask, binning, lambda y, x: np.bitwise_or.reduce(made.mask[y, x].reshape(-1)))
        flat = source[f"{DETECTOR}/flatfield"][()].astype(np.float64)

        def mean(y: slice, x: slice) -> float:
            good = made.mask[y, x] == 0
            return float(flat[y, x][good].mean() if good.any() else flat[y, x].mean())

        for where in (DETECTOR, SPECIFIC):
            mask = h5[f"{where}/pixel_mask"]
            np.testing.assert_array_equal(mask[()], expected)
            assert mask.shape == plan.shape_out
            # XDS's reader maps the mask's bytes as they lie.
            assert (mask.dtype, mask.chunks, mask.id.get_create_plist().get_nfilters()) == (
                np.dtype("<u4"),
                None,
                0,
            )
            assert mask.id.get_offset() is not None
        np.testing.assert_allclose(h5[f"{DETECTOR}/flatfield"][()], brute(flat, binning, mean), rtol=1e-6)
        assert h5[f"{DETECTOR}/flatfield"].dtype == np.float32


@pytest.mark.parametrize("where", [DETECTOR, SPECIFIC])
def test_a_mask_in_one_place_is_put_in_both(tmp_path: Path, where: str) -> None:
    made = make_input(tmp_path)
    with h5py.File(made.master, "r+") as h5:
        del h5[f"{DETECTOR}/pixel_mask"], h5[f"{SPECIFIC}/pixel_mask"]
        h5[f"{where}/pixel_mask"] = made.mask.astype(np.int32)
    path, _, _ = reduce_master(made, binning=2)
    with access.open_read(path) as h5:
        a, b = (h5[f"{group}/pixel_mask"] for group in (DETECTOR, SPECIFIC))
        np.testing.assert_array_equal(a[()], b[()])
        assert a.dtype == np.uint32


def test_no_mask_is_invented(tmp_path: Path) -> None:
    path, _, _ = reduce_master(make_input(tmp_path, InputSpec(mask=False)), binning=2)
    with access.open_read(path) as h5:
        assert "pixel_mask" not in h5[DETECTOR]
        assert "pixel_mask" not in h5[SPECIFIC]
        assert value(h5, f"{SPECIFIC}/number_of_excluded_pixels") == 0


@pytest.mark.parametrize(
    ("nimages", "ntrigger", "expected"),
    [
        (12, 1, (6, 1)),
        (6, 2, (6, 1)),
        (1, 12, (1, 6)),
        (12, None, (6, None)),
        (1, None, (6, None)),
        (1, 1, (6, 1)),
    ],
)
def test_triggers(tmp_path: Path, nimages: int, ntrigger: int | None, expected: tuple[int, int | None]) -> None:
    made = make_input(tmp_path, InputSpec(nimages=nimages, ntrigger=ntrigger))
    path, _, plan = reduce_master(made, sum=2)
    with access.open_read(path) as h5:
        found = access.number(h5, f"{SPECIFIC}/nimages"), access.number(h5, f"{SPECIFIC}/ntrigger")
        assert list(found) == list(expected)
    assert expected[0] * (expected[1] or 1) == plan.n_images


@pytest.mark.parametrize("stored", [np.float64(12), np.array(12, ">u4"), np.int64(12)])
def test_counts_are_little_endian_integers(tmp_path: Path, stored: Any) -> None:
    made = make_input(tmp_path, InputSpec(extra={f"{SPECIFIC}/nimages": stored}))
    path, _, _ = reduce_master(made)
    with access.open_read(path) as h5:
        found = h5[f"{SPECIFIC}/nimages"]
        assert found.dtype.kind in "iu"
        assert found.dtype == found.dtype.newbyteorder("<")
        assert (found.chunks, found[()]) == (None, 12)


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("step", [0.5, -0.1])
def test_axes(tmp_path: Path, selection: dict[str, Any], step: float) -> None:
    spec = nxmx(omega_step=step, axis_dtype="f4")
    path, _, plan = reduce_master(make_input(tmp_path, spec), **selection)
    s, first, n = plan.sum, plan.first_frame, plan.n_frames
    images = [spec.starts[first : first + n][k : k + s] for k in range(0, n, s)]
    starts, ends = [one[0] for one in images], [one[-1] + step for one in images]
    with access.open_read(path) as h5:
        near: dict[str, Any] = {"atol": 1e-5, "rtol": 0}
        for place in (f"{GONIOMETER}/omega", f"{TRANSFORMATIONS}/omega", "/entry/data/omega"):
            np.testing.assert_allclose(h5[place][()], starts, **near)
            assert h5[place].dtype == np.float32
        for place in (GONIOMETER, TRANSFORMATIONS):
            np.testing.assert_allclose(h5[f"{place}/omega_end"][()], ends, **near)
        np.testing.assert_allclose(h5[f"{TRANSFORMATIONS}/omega_increment_set"][()], [step * s] * len(images), **near)
        assert h5[f"{GONIOMETER}/chi"].shape == (len(images),)
        assert h5[f"{TRANSFORMATIONS}/chi"][()].tolist() == [1.5]
        expected = {
            "omega_start": starts[0],
            "omega_increment": step * s,
            "omega_range_average": step * s,
            "omega_range_total": step * n,
            "chi_range_average": 0,
        }
        for name, number in expected.items():
            assert value(h5, f"{GONIOMETER}/{name}") == pytest.approx(number, abs=1e-5), name


@pytest.mark.parametrize("step", [0.5, -0.25])
def test_scalars_of_an_axis_without_its_array(tmp_path: Path, step: float) -> None:
    made = make_input(tmp_path, InputSpec(omega_step=step))
    with h5py.File(made.master, "r+") as h5:
        for name in ("omega", "omega_end"):
            del h5[f"{GONIOMETER}/{name}"]
        h5[f"{GONIOMETER}/omega_end"] = 10 + 12 * step
    path, _, _ = reduce_master(made, first_frame=3, n_frames=6, sum=2)
    with access.open_read(path) as h5:
        assert value(h5, f"{GONIOMETER}/omega_start") == pytest.approx(10 + 3 * step)
        assert value(h5, f"{GONIOMETER}/omega_end") == pytest.approx(10 + 9 * step)
        assert value(h5, f"{GONIOMETER}/omega_range_total") == pytest.approx(6 * step)


def test_surplus_of_an_axis_is_cut_with_a_warning(tmp_path: Path) -> None:
    made = make_input(tmp_path, InputSpec(extra_axis_values=5))
    path, warnings, _ = reduce_master(made, sum=2)
    assert f"{GONIOMETER}/omega has 17 values for 12 frames: the surplus is cut off" in warnings
    with access.open_read(path) as h5:
        np.testing.assert_allclose(h5[f"{GONIOMETER}/omega"][()], 10 + np.arange(6))


@pytest.mark.parametrize("length", [0, 2, 11])
def test_an_axis_that_fits_nothing_is_an_error(tmp_path: Path, length: int) -> None:
    made = make_input(tmp_path, InputSpec(extra={f"{GONIOMETER}/omega": np.zeros(length)}))
    with pytest.raises(InputError, match=rf"in_master\.h5: {GONIOMETER}/omega has {length} values for 12 frames"):
        reduce_master(made)


def test_values_for_each_frame_in_other_places(tmp_path: Path) -> None:
    extra = {
        "/entry/instrument/beam/total_flux": np.arange(12.0),
        "/entry/instrument/stage/value": np.arange(12.0),
        f"{DETECTOR}/count_time": np.arange(12.0),
        "/entry/data/image_time": np.arange(12.0),
        "/entry/sample/temperature_log": np.arange(12.0),
    }
    made = make_input(tmp_path, nxmx(extra=extra))
    with h5py.File(made.master, "r+") as h5:
        h5["/entry/instrument/stage"].attrs["NX_class"] = "NXpositioner"
    path, _, _ = reduce_master(made, sum=5)
    with access.open_read(path) as h5:
        for place in ("instrument/beam/total_flux", "instrument/stage/value", "data/image_time"):
            assert h5[f"/entry/{place}"][()].tolist() == [0, 5, 10], place
        assert h5[f"{DETECTOR}/count_time"][()].tolist() == [10, 35, 21]
        assert h5["/entry/sample/temperature_log"].shape == (12,)


@pytest.mark.parametrize("reversed_size", [False, True])
def test_module(tmp_path: Path, reversed_size: bool) -> None:
    made = make_input(tmp_path, nxmx(reversed_size=reversed_size))
    path, _, _ = reduce_master(made, binning=3)
    with access.open_read(path) as h5:
        module = h5[f"{DETECTOR}/module"]
        assert module["data_size"][()].tolist() == ([5, 4] if reversed_size else [4, 5])
        assert module["data_origin"][()].tolist() == [0, 0]
        for name in ("fast", "slow"):
            assert module[f"{name}_pixel_direction"][()] == pytest.approx(3 * PIXEL)
        assert module["module_offset"][()] == 1.0
        np.testing.assert_array_equal(module["module_offset"].attrs["vector"], [0.0004, 0.00035, 0])


def test_a_part_of_the_modules(tmp_path: Path) -> None:
    made = make_input(tmp_path, nxmx())
    with h5py.File(made.master, "r+") as h5:
        h5[f"{DETECTOR}/module/data_origin"][...] = [4, 3]
        h5[f"{DETECTOR}/module/data_size"][...] = [7, 11]
    path, warnings, _ = reduce_master(made, binning=2)
    with access.open_read(path) as h5:
        assert h5[f"{DETECTOR}/module/data_origin"][()].tolist() == [2, 1]
        assert h5[f"{DETECTOR}/module/data_size"][()].tolist() == [4, 6]
    assert any("data_origin: [4, 3] is no multiple of 2" in one for one in warnings)


def test_integers_that_become_fractions_or_grow(tmp_path: Path) -> None:
    extra = {
        f"{DETECTOR}/beam_center_x": np.int64(7),
        f"{SPECIFIC}/frame_period": np.int64(36400),
        f"{SPECIFIC}/nframes_sum": np.uint8(200),
    }
    path, _, _ = reduce_master(make_input(tmp_path, InputSpec(extra=extra)), binning=2, sum=2)
    with access.open_read(path) as h5:
        assert value(h5, f"{DETECTOR}/beam_center_x") == 3.5
        assert value(h5, f"{SPECIFIC}/frame_period") == 72800
        assert h5[f"{SPECIFIC}/frame_period"].dtype == np.int64
        assert value(h5, f"{SPECIFIC}/nframes_sum") == 400


# Links and data


@pytest.mark.parametrize("flavour", ["filewriter", "nxmx"])
@pytest.mark.parametrize("first_file", [0, 1])
def test_data_links(tmp_path: Path, flavour: str, first_file: int) -> None:
    made = make_input(tmp_path, InputSpec(flavour=flavour, first_file=first_file, virtual=False, libver="v110"))
    path, _, _ = reduce_master(made, sum=2)
    with access.open_read(path) as h5:
        group = h5["/entry/data"]
        links = {name: group.get(name, getlink=True) for name in group}
        external = {name: (one.filename, one.path) for name, one in links.items() if name != "omega"}
        assert external == {f"data_00000{k}": (f"out_00000{k}.h5", "/entry/data/data") for k in (1, 2)}
        assert ("omega" in links) is (flavour == "nxmx")


def test_virtual_dataset(tmp_path: Path) -> None:
    made = make_input(tmp_path, nxmx(extra={}))
    path, _, plan = reduce_master(made, sum=2, binning=2)
    first = np.arange(4 * 6 * 7, dtype=np.uint16).reshape(4, 6, 7)
    with access.open_write(tmp_path / "out_000001.h5") as h5:
        h5["/entry/data/data"] = first
    with access.open_read(path) as h5:
        data = h5["/entry/data/data"]
        assert access.attribute_text(h5["/entry/data"], "signal") == "data"
        assert data.is_virtual
        assert (data.shape, data.dtype, data.fillvalue) == ((6, *plan.shape_out), np.uint16, 65535)
        np.testing.assert_array_equal(data[:4], first)
        assert (data[4:] == 65535).all()
        assert {one.file_name for one in data.virtual_sources()} == {"out_000001.h5", "out_000002.h5"}


@pytest.mark.parametrize(("dtype", "mark"), [("uint32", 2**32 - 1), ("int16", -1), ("float32", np.nan)])
def test_missing_files_read_as_the_mark(tmp_path: Path, dtype: str, mark: float) -> None:
    path, _, _ = reduce_master(make_input(tmp_path, nxmx()), dtype_out=dtype)
    with access.open_read(path) as h5:
        np.testing.assert_array_equal(h5["/entry/data/data"][0, 0, 0], np.dtype(dtype).type(mark))


def test_the_data_themselves_are_never_copied(tmp_path: Path) -> None:
    made = make_input(tmp_path, nxmx())
    frames = np.zeros((12, 11, 14), dtype=np.uint16)
    with h5py.File(made.master, "r+") as h5:
        del h5["/entry/data/data"]
        h5["/entry/data/data"] = frames
        h5[f"{DETECTOR}/data"] = h5["/entry/data/data"]
        h5[f"{DETECTOR}/other"] = h5py.SoftLink("/entry/data/data")
    path, _, _ = reduce_master(made, sum=3)
    with access.open_read(path) as h5:
        assert h5["/entry/data/data"].is_virtual
        for name in ("data", "other"):
            assert h5[DETECTOR].get(name, getlink=True).path == "/entry/data/data"
            assert h5[f"{DETECTOR}/{name}"].shape == (4, 11, 14)


def test_frames_elsewhere_in_an_older_master_are_left_out(tmp_path: Path) -> None:
    extra = {
        f"{DETECTOR}/snapshot": np.zeros((3, 11, 14), dtype=np.uint16),
        "/entry/data/time": np.arange(3.0),
    }
    path, warnings, _ = reduce_master(make_input(tmp_path, InputSpec(extra=extra)))
    assert [one for one in warnings if one.startswith(f"{DETECTOR}/snapshot is left out")]
    with access.open_read(path) as h5:
        assert "snapshot" not in h5[DETECTOR]
        assert list(h5["/entry/data"]) == ["data_000001", "data_000002", "data_000003"]


def test_squash_links_lie_beside_the_data(tmp_path: Path) -> None:
    made = make_input(tmp_path)
    with access.open_read(made.master) as h5:
        experiment = metadata.read_experiment(h5, 12, np.dtype("u2"))
    target = tmp_path / "out_master.h5"
    common: dict[str, Any] = {"experiment": experiment, "provenance": {}, "data_dtype": np.dtype("u2")}
    files = [("sq_000001.h5", 8), ("sq_000002.h5", 4)]
    master.write_master(
        target, made.master, make_plan(12), data_files=[("o_000001.h5", 12)], squash_files=files, **common
    )
    with access.open_read(target) as h5:
        links = [h5["/entry/squash"].get(name, getlink=True) for name in h5["/entry/squash"]]
        assert [(one.filename, one.path) for one in links] == [(name, "/entry/data") for name, _ in files]


def test_provenance(tmp_path: Path) -> None:
    made = make_input(tmp_path)
    once, _, _ = reduce_master(made)
    again = MadeInput(once, made.frames, made.mask, made.spec)
    twice, _, _ = reduce_master(again, tmp_path / "again_master.h5")
    with access.open_read(twice) as h5:
        for name in ("process_bnl_mpi", "process_bnl_mpi_1"):
            group = h5[f"/entry/{name}"]
            assert access.attribute_text(group, "NX_class") == "NXprocess"
            assert access.scalar(group["program"]) == "bnl_mpi"
            assert json.loads(access.scalar(group["options"])) == {"bin": 2}


# The copy in kind


@pytest.mark.parametrize("kind", ["fixed", "vlen"])
@pytest.mark.parametrize("flavour", ["filewriter", "nxmx"])
def test_strings_keep_their_kind(tmp_path: Path, kind: str, flavour: str) -> None:
    made = make_input(tmp_path, InputSpec(flavour=flavour, string_kind=kind, libver="v110"))
    path, _, _ = reduce_master(made, binning=2)
    with access.open_read(path) as h5, access.open_read(made.master) as source:
        for where in (f"{DETECTOR}/description", "/entry/sample/name", f"{SPECIFIC}/eiger_fw_version"):
            assert h5[where][()] == source[where][()]
            assert h5[where].id.get_type() == source[where].id.get_type()
        for where in ("/entry", DETECTOR, "/entry/instrument/beam/incident_wavelength"):
            for name in source[where].attrs:
                kinds = [h5py.h5a.open(one[where].id, name.encode()).get_type() for one in (h5, source)]
                assert kinds[0] == kinds[1], (where, name)


def test_rare_kinds_are_kept(tmp_path: Path) -> None:
    made = make_input(tmp_path)
    color = h5py.enum_dtype({"red": 0, "green": 1}, basetype="i1")
    record = np.dtype([("a", "<i2"), ("b", "S3")])
    with h5py.File(made.master, "r+") as h5:
        group = h5.create_group("/entry/rare")
        group["named_type"] = np.dtype("<f4")
        group.create_dataset("of_named_type", data=1.5, dtype=group["named_type"])
        group["bool"] = True
        group["empty"] = h5py.Empty("f4")
        group.create_dataset("enum", data=1, dtype=color)
        group.create_dataset("record", data=np.array([(1, b"xyz")], dtype=record))
        group.create_dataset("ragged", shape=(2,), dtype=h5py.vlen_dtype("i4"))
        group["ragged"][1] = [1, 2, 3]
        group.create_dataset("chars", data=np.array(["häm", "b"], dtype=object), dtype=h5py.string_dtype())
        group["full"] = np.bytes_("ends with its last byte")
        group["big_endian"] = np.array([1, 2], dtype=">i4")
        group["grows"] = h5py.SoftLink("/entry/rare/chars")
        group["nowhere"] = h5py.SoftLink("/not/here")
        group["twin"] = group["big_endian"]
        group["self"] = group
        group.attrs["empty"] = h5py.Empty("S10")
        group.attrs["array"] = np.array([[1, 2], [3, 4]], dtype="<u2")
        group.attrs["words"] = np.array(["a", "bc"], dtype=object)
        group.attrs["reference"] = h5["/entry"].ref
        group.create_dataset("references", data=[h5["/entry"].ref], dtype=h5py.ref_dtype)
    path, warnings, _ = reduce_master(made)
    assert sorted(one.split(" is")[0] for one in warnings) == [
        "/entry/rare/references",
        "/entry/rare@reference",
    ]
    with access.open_read(path) as h5, access.open_read(made.master) as source:
        got, given = h5["/entry/rare"], source["/entry/rare"]
        assert isinstance(got["named_type"], h5py.Datatype)
        assert isinstance(got["empty"][()], h5py.Empty)
        assert isinstance(got.attrs["empty"], h5py.Empty)
        for name in ("of_named_type", "bool", "enum", "record", "chars", "full", "big_endian"):
            np.testing.assert_array_equal(got[name][()], given[name][()])
            assert got[name].dtype == given[name].dtype, name
        assert [list(one) for one in got["ragged"][()]] == [[], [1, 2, 3]]
        for name in ("array", "words"):
            np.testing.assert_array_equal(got.attrs[name], given.attrs[name])
        assert got.get("nowhere", getlink=True).path == "/not/here"
        assert got["twin"] == got["big_endian"]
        assert got["self"] == got


def test_external_metadata_is_brought_in(tmp_path: Path) -> None:
    made = make_input(tmp_path)
    with h5py.File(tmp_path / "meta.h5", "w") as meta:
        meta["mask"] = made.mask.astype(np.int32)
        meta["cutoff"] = np.array([777])
        meta.create_dataset("config/words", data=["a"], maxshape=(None,), chunks=(8,), dtype=h5py.string_dtype())
        meta["config/inner"] = h5py.SoftLink("/cutoff")
    with h5py.File(made.master, "r+") as h5:
        del h5[f"{DETECTOR}/pixel_mask"], h5[f"{SPECIFIC}/pixel_mask"]
        h5[f"{DETECTOR}/pixel_mask"] = h5py.ExternalLink("meta.h5", "/mask")
        h5[f"{SPECIFIC}/pixel_mask"] = h5py.ExternalLink("meta.h5", "mask")
        h5[f"{DETECTOR}/saturation_value"] = h5py.ExternalLink("meta.h5", "/cutoff")
        h5[f"{DETECTOR}/settings"] = h5py.ExternalLink("meta.h5", "/config")
        h5[f"{DETECTOR}/gone"] = h5py.ExternalLink("absent.h5", "/x")
        h5[f"{DETECTOR}/lost"] = h5py.ExternalLink("meta.h5", "/x")
    path, warnings, _ = reduce_master(made, binning=2, limit=777)
    assert [one.split(",")[0] for one in warnings] == [
        f"{DETECTOR}/gone is left out: it is a link to /x in absent.h5",
        f"{DETECTOR}/lost is left out: it is a link to /x in meta.h5",
    ]
    os.unlink(tmp_path / "meta.h5")
    with access.open_read(path) as h5:
        assert h5[f"{DETECTOR}/saturation_value"][()].tolist() == [777]
        assert h5[f"{DETECTOR}/settings/inner"][()].tolist() == [777]
        assert access.scalar(h5[f"{DETECTOR}/settings/words"]) == "a"
        assert h5[f"{DETECTOR}/settings/words"].chunks is None
        assert h5[f"{SPECIFIC}/pixel_mask"] == h5[f"{DETECTOR}/pixel_mask"]


def test_the_container_is_one_that_every_reader_parses(tmp_path: Path) -> None:
    path, _, _ = reduce_master(make_input(tmp_path), binning=2)
    assert path.read_bytes()[8] in (0, 2, 3)  # the superblock's version
    with access.open_read(path) as h5:
        assert h5.userblock_size == 0
        for where, dataset in access.walk(h5["/entry"]):
            assert dataset.chunks is None, where


# What viewers go by


def test_axes_that_are_not_there_are_told_as_none(tmp_path: Path) -> None:
    """A grid scan names axes that its FileWriter never wrote."""
    for spec in (InputSpec(), nxmx()):
        made = make_input(tmp_path, spec, spec.flavour)
        with h5py.File(made.master, "r+") as h5:
            group = h5["/entry/data"]
            group.attrs["axes"] = np.array([b"sam_x", b"omega", b"."])
            group.attrs["sam_x_indices"] = np.int32(0)
        path, _, _ = reduce_master(made)
        with access.open_read(path) as h5:
            attributes = h5["/entry/data"].attrs
            assert "sam_x_indices" not in attributes
            if spec.flavour == "nxmx":
                assert [access.text(one) for one in attributes["axes"]] == [".", "omega", "."]
            else:
                assert "axes" not in attributes


@pytest.mark.parametrize("spec", [InputSpec(), nxmx(), nxmx(virtual=False)], ids=str)
def test_default_leads_to_the_images(tmp_path: Path, spec: InputSpec) -> None:
    path, _, _ = reduce_master(make_input(tmp_path, spec))
    with access.open_read(path) as h5:
        assert access.attribute_text(h5, "default") == "entry"
        assert access.attribute_text(h5["entry"], "default") == "data"
        assert access.attribute_text(h5["entry/data"], "signal") == (
            "data" if spec.virtual and spec.flavour == "nxmx" else "data_000001"
        )


def test_what_the_input_offers_first_stays(tmp_path: Path) -> None:
    made = make_input(tmp_path, nxmx())
    with h5py.File(made.master, "r+") as h5:
        h5.create_group("entry/thumbnail")
        h5["entry"].attrs["default"] = "thumbnail"
        h5.attrs["default"] = "nowhere"
    path, _, _ = reduce_master(made)
    with access.open_read(path) as h5:
        assert access.attribute_text(h5["entry"], "default") == "thumbnail"
        assert access.attribute_text(h5, "default") == "entry"


# Nothing is lost


def test_every_item_of_a_made_master(tmp_path: Path) -> None:
    for spec in (InputSpec(), nxmx(string_kind="vlen", scalar_shape=(1,))):
        made = make_input(tmp_path, spec, spec.flavour)
        path, warnings, _ = reduce_master(made, binning=2, sum=2, limit=1234)
        assert warnings == []
        assert_nothing_is_lost(made.master, path, set())


def test_nothing_changes_where_nothing_is_reduced(tmp_path: Path) -> None:
    for spec in (InputSpec(), nxmx()):
        made = make_input(tmp_path, spec, spec.flavour)
        path, _, _ = reduce_master(made)
        with access.open_read(made.master) as source, access.open_read(path) as h5:
            for where, given in items(source["/entry"], "/entry"):
                if isinstance(given, h5py.Dataset) and not where.startswith("/entry/data/data"):
                    np.testing.assert_array_equal(h5[where][()], given[()], err_msg=where)


CHANGED = frozenset(
    {
        *("beam_center_x", "beam_center_y", "x_pixel_size", "y_pixel_size", "flatfield", "pixel_mask"),
        *("fast_pixel_direction", "slow_pixel_direction", "data_size", "number_of_excluded_pixels"),
        *("x_pixels_in_detector", "y_pixels_in_detector", "x_pixels", "y_pixels"),
        *("count_time", "frame_time", "frame_count_time", "nframes_sum", "nimages", "ntrigger"),
        *("omega", "omega_end", "omega_increment", "omega_increment_set", "omega_start", "chi"),
        *("omega_range_average", "omega_range_total", "sam_x", "sam_y", "sam_z", "data"),
        *("saturation_value", "countrate_correction_count_cutoff", "bit_depth_image", "bit_depth_readout"),
    }
)
"""All names that a rule may change in the masters here."""


def items(group: h5py.Group, path: str) -> Iterator[tuple[str, h5py.Group | h5py.Dataset | None]]:
    for name in group:
        where = f"{path}/{name}"
        if path == "/entry/data" and name.startswith("data_"):
            continue
        found = access.resolve(group, name)
        yield where, found
        if isinstance(found, h5py.Group):
            yield from items(found, where)


def assert_nothing_is_lost(infile: Path, outfile: Path, left_out: set[str]) -> None:
    """Each item of the input is in the output, with its attributes: equal, or of a name that has a rule."""
    with access.open_read(infile) as source, access.open_read(outfile) as target:
        for where, given in items(source["/entry"], "/entry"):
            if given is None:
                assert where in left_out
                continue
            got: Any = access.resolve(target, where)
            assert isinstance(got, h5py.Dataset) == isinstance(given, h5py.Dataset), where
            assert set(got.attrs) - set(given.attrs) <= {"default", "signal"}, where
            assert set(given.attrs) <= set(got.attrs), where
            for name, one in given.attrs.items():
                np.testing.assert_array_equal(got.attrs[name], one, err_msg=f"{where}@{name}")
            if isinstance(given, h5py.Dataset) and where.rsplit("/", 1)[1] not in CHANGED:
                np.testing.assert_array_equal(got[()], given[()], err_msg=where)
                assert (got.dtype, got.shape) == (given.dtype, given.shape), where


REAL = [
    ("ins_8_5.nxs", 3600, (4362, 4148), {"first_frame": 10, "n_frames": 3580, "sum": 3}),
    ("dls_4m_grid_xrc_209_master.h5", 240, (2162, 2068), {"sum": 1}),
    ("eiger2_nxmx_mx3_master.h5", 1, (3262, 3108), {"sum": 1}),
]


@pytest.mark.skipif(shared_data() is None, reason="no folder shared/data with real masters")
@pytest.mark.parametrize(("name", "n_frames", "shape", "changes"), REAL)
def test_every_item_of_a_real_master(
    tmp_path: Path, name: str, n_frames: int, shape: tuple[int, int], changes: dict[str, int]
) -> None:
    folder = shared_data()
    assert folder is not None
    spec = InputSpec(n_frames=n_frames, shape=shape)
    made = MadeInput(folder / name, np.zeros(0), np.zeros(shape, dtype=np.uint32), spec)
    path, warnings, plan = reduce_master(made, tmp_path / "out_master.h5", binning=2, **changes)
    left_out = {one.split(" is left out")[0] for one in warnings}
    assert len(left_out) == (11 if name.startswith("dls") else 0)
    assert_nothing_is_lost(folder / name, path, left_out)
    with access.open_read(path) as h5, access.open_read(folder / name) as source:
        assert value(h5, f"{DETECTOR}/beam_center_x") == value(source, f"{DETECTOR}/beam_center_x") / 2
        omega = h5[f"{TRANSFORMATIONS}/omega"]
        assert omega.shape == (plan.n_images,)
        assert omega[0] == source[f"{TRANSFORMATIONS}/omega"][plan.first_frame]
        assert value(h5, f"{SPECIFIC}/nimages") == plan.n_images
