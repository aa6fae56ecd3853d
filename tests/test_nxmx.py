"""OUT.nxs: a complete NXmx entry with the input's geometry, or a word on what is missing."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from make_inputs import DETECTOR, PIXEL, SPECIFIC, InputSpec, make_input
from masters import SELECTIONS, TRANSFORMATIONS, reduce_nxs, value

from bnl_mpi.hdf5 import access, treecopy
from bnl_mpi.input import experiment as metadata
from bnl_mpi.output import digest, nxmx, older

BEAM = "/entry/instrument/beam/incident_wavelength"


def nxmx_spec(**changes: Any) -> InputSpec:
    return InputSpec(flavour="nxmx", libver="v110", **changes)


FLAVOURS = [InputSpec(), nxmx_spec()]


@pytest.fixture
def package() -> Any:
    """The package nxmx, whose dependencies warn when they are loaded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("nxmx", reason="the package nxmx is not installed")


@pytest.mark.parametrize("spec", FLAVOURS, ids=lambda spec: spec.flavour)
@pytest.mark.parametrize("binning", [1, 2, 3])
def test_an_independent_reader_sees_the_experiment(tmp_path: Path, package: Any, spec: InputSpec, binning: int) -> None:
    made = make_input(tmp_path, spec)
    path, lacking, plan = reduce_nxs(made, sum=2, binning=binning, limit=20000)
    assert lacking == []
    with access.open_read(path) as h5:
        (entry,) = package.NXmx(h5).entries
        assert entry.definition == "NXmx"
        (data,), (instrument,), (sample,) = entry.data, entry.instruments, entry.samples
        assert data[access.text(data.signal)].shape == (6, *plan.shape_out)
        (detector,), (beam,) = instrument.detectors, instrument.beams
        assert beam.incident_wavelength.to("angstrom").magnitude == pytest.approx(0.9795)
        assert detector.saturation_value == 20000
        assert detector.sensor_material == "Si"
        assert detector.sensor_thickness.to("mm").magnitude == pytest.approx(0.45)
        assert detector.pixel_mask.shape == plan.shape_out
        (module,) = detector.modules
        assert tuple(module.data_size) == plan.shape_out
        assert tuple(module.data_origin) == (0, 0)
        for direction, vector in (
            (module.fast_pixel_direction, [-1, 0, 0]),
            (module.slow_pixel_direction, [0, -1, 0]),
        ):
            assert direction[()].to("m").magnitude == pytest.approx(PIXEL * binning)
            np.testing.assert_allclose(direction.vector, vector)
        chain = package.get_dependency_chain(module.fast_pixel_direction.depends_on)
        origin = package.get_cumulative_transformation(chain)[0, :3, 3]
        np.testing.assert_allclose(origin, [0.4, 0.35, 200], rtol=1e-6)
        axes = package.get_rotation_axes(package.get_dependency_chain(sample.depends_on))
        scan = int(np.flatnonzero(axes.is_scan_axis)[0])
        np.testing.assert_allclose(axes.axes[scan], [-1, 0, 0])
        assert axes.names[scan] == "omega"
        assert axes.angles[scan] == pytest.approx(10)


@pytest.mark.parametrize("spec", FLAVOURS, ids=lambda spec: spec.flavour)
@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("step", [0.5, -0.1])
def test_the_scan_axis(tmp_path: Path, spec: InputSpec, selection: dict[str, int], step: float) -> None:
    flavour: dict[str, Any] = {"flavour": spec.flavour, "libver": spec.libver, "omega_step": step, "end_arrays": False}
    made = make_input(tmp_path, InputSpec(axis_dtype="f4", **flavour))
    path, lacking, plan = reduce_nxs(made, **selection)
    assert lacking == []
    chosen = made.spec.starts[plan.first_frame : plan.first_frame + plan.n_frames]
    images = [chosen[k : k + plan.sum] for k in range(0, len(chosen), plan.sum)]
    near: dict[str, Any] = {"atol": 1e-5, "rtol": 0}
    sense = 1 if step > 0 else -1  # a falling angle is told as a rising one about the opposite vector
    with access.open_read(path) as h5:
        omega = h5[f"{TRANSFORMATIONS}/omega"]
        assert omega.dtype == np.float64
        np.testing.assert_allclose(sense * omega[()], [one[0] for one in images], **near)
        np.testing.assert_array_equal(omega.attrs["vector"], [-sense, 0, 0])
        np.testing.assert_allclose(
            sense * h5[f"{TRANSFORMATIONS}/omega_end"][()], [one[-1] + step for one in images], **near
        )
        for name in ("vector", "units", "transformation_type", "depends_on"):
            assert name in omega.attrs
        plotted = h5["/entry/data/omega"]
        np.testing.assert_allclose(np.outer(plotted[()], plotted.attrs["vector"]), np.outer(omega[()], [-sense, 0, 0]))
        assert access.text(h5["/entry/data"].attrs["axes"]) == "omega"


def test_every_axis_of_the_chains_is_in_double(tmp_path: Path) -> None:
    made = make_input(tmp_path, nxmx_spec(axis_dtype="f4"))
    path, _, _ = reduce_nxs(made, sum=3)
    with access.open_read(path) as h5:
        for start in (f"{DETECTOR}/module/fast_pixel_direction", f"{TRANSFORMATIONS}/chi"):
            chain = nxmx.chain(h5[start])
            assert len(chain) > 1
            assert {str(one.dtype) for one in chain} == {"float64"}
            assert access.attribute_text(chain[-1], "depends_on") == "."


@pytest.mark.parametrize("spec", FLAVOURS, ids=lambda spec: spec.flavour)
def test_it_does_not_pass_for_a_detector_s_own_file(tmp_path: Path, spec: InputSpec) -> None:
    path, _, _ = reduce_nxs(make_input(tmp_path, spec))
    names: list[str] = []
    with access.open_read(path) as h5:
        h5.visit_links(names.append)
        assert not [name for name in names if "detectorSpecific" in name or "eiger_fw" in name]
        for name in names:
            link = access.link(h5, name)
            assert isinstance(link, h5py.ExternalLink) or access.resolve(h5, name) is not None, name


@pytest.mark.parametrize("spec", FLAVOURS, ids=lambda spec: spec.flavour)
def test_the_virtual_dataset_reads_the_blocks(tmp_path: Path, spec: InputSpec) -> None:
    path, _, plan = reduce_nxs(make_input(tmp_path, spec), binning=2, sum=2)
    blocks = [np.random.default_rng(b.number).integers(0, 99, (b.n_images, 6, 7)) for b in plan.blocks()]
    for number, images in enumerate(blocks, 1):
        with access.open_write(tmp_path / f"out_{number:06d}.h5") as h5:
            h5["/entry/data/data"] = images.astype(np.uint16)
    with access.open_read(path) as h5:
        np.testing.assert_array_equal(h5["/entry/data/images"][()], np.concatenate(blocks))


def test_size_is_slow_then_fast_however_it_was(tmp_path: Path) -> None:
    for reversed_size in (False, True):
        made = make_input(tmp_path, nxmx_spec(reversed_size=reversed_size))
        for binning in (1, 3):
            path, _, plan = reduce_nxs(made, binning=binning)
            with access.open_read(path) as h5:
                assert tuple(h5[f"{DETECTOR}/module/data_size"][()]) == plan.shape_out


@pytest.mark.parametrize(
    ("translation", "centre", "expected"),
    [
        ((0.07, 0.08, -0.15), (1.0, 2.0), (0.07, 0.08, 0.15)),
        ((0.0, 0.0, 0.15), (5.0, 4.0), (5 * PIXEL, 4 * PIXEL, 0.15)),
        ((0.0, 0.0, -0.15), (5.0, 4.0), (5 * PIXEL, 4 * PIXEL, 0.15)),
    ],
)
def test_older_geometry(
    tmp_path: Path, translation: tuple[float, float, float], centre: tuple[float, float], expected: Any
) -> None:
    extra = {f"{DETECTOR}/beam_center_x": centre[0], f"{DETECTOR}/beam_center_y": centre[1]}
    made = make_input(tmp_path, InputSpec(translation=translation, extra=extra))
    with access.open_read(made.master) as h5:
        origin, fast, slow = older.older_geometry(h5)
    np.testing.assert_allclose(origin, expected, rtol=1e-6)
    np.testing.assert_allclose([fast, slow], [[-1, 0, 0], [0, -1, 0]])


def test_a_tilted_older_detector(tmp_path: Path) -> None:
    tilt = np.deg2rad(10)
    value6 = [-1, 0, 0, 0, -np.cos(tilt), -np.sin(tilt)]
    made = make_input(tmp_path, InputSpec(extra={f"{DETECTOR}/geometry/orientation/value": np.array(value6)}))
    path, lacking, _ = reduce_nxs(made)
    assert lacking == []
    with access.open_read(path) as h5:
        slow = h5[f"{DETECTOR}/module/slow_pixel_direction"].attrs["vector"]
    np.testing.assert_allclose(slow, [0, -np.cos(tilt), np.sin(tilt)], atol=1e-12)


@pytest.mark.parametrize(("number", "axis"), [("E-02-0100", [-1, 0, 0]), ("E-32-0105", [0, 1, 0])])
def test_older_rotation_axis(tmp_path: Path, number: str, axis: list[float]) -> None:
    path, _, _ = reduce_nxs(make_input(tmp_path, InputSpec(detector_number=number)))
    with access.open_read(path) as h5:
        np.testing.assert_array_equal(h5[f"{TRANSFORMATIONS}/omega"].attrs["vector"], axis)


def test_stills_of_the_older_flavour_depend_on_nothing(tmp_path: Path) -> None:
    made = make_input(tmp_path, InputSpec(omega_step=0.0))
    with h5py.File(made.master, "r+") as h5:
        for name in list(h5["/entry/sample/goniometer"]):
            if name.startswith("omega"):
                del h5["/entry/sample/goniometer"][name]
    path, lacking, _ = reduce_nxs(made)
    assert lacking == []
    with access.open_read(path) as h5:
        assert value(h5, "/entry/sample/depends_on") == "."


MISSING = [
    (InputSpec(), BEAM, "the wavelength"),
    (InputSpec(), f"{DETECTOR}/sensor_thickness", "the sensor thickness"),
    (
        InputSpec(),
        f"{DETECTOR}/geometry/orientation/value",
        "/entry/instrument/detector/geometry/orientation/value",
    ),
    (InputSpec(), f"{DETECTOR}/x_pixel_size", "/entry/instrument/detector/x_pixel_size"),
    (nxmx_spec(), BEAM, "the wavelength"),
    (nxmx_spec(), f"{DETECTOR}/module", "an NXdetector_module"),
    (nxmx_spec(), f"{DETECTOR}/transformations/det_z", "det_z, on which"),
    (nxmx_spec(), "/entry/sample/depends_on", "/entry/sample/depends_on"),
    (nxmx_spec(), f"{TRANSFORMATIONS}/omega", "omega, on which"),
]


@pytest.mark.parametrize(("spec", "taken_out", "told"), MISSING)
def test_what_is_missing_is_told_and_nothing_written(
    tmp_path: Path, spec: InputSpec, taken_out: str, told: str
) -> None:
    made = make_input(tmp_path, spec)
    with h5py.File(made.master, "r+") as h5:
        del h5[taken_out]
    path, lacking, _ = reduce_nxs(made)
    assert any(told in one for one in lacking), lacking
    assert not any("\n" in one for one in lacking)
    assert not path.exists()


def test_missing_attributes_of_an_axis_are_told(tmp_path: Path) -> None:
    made = make_input(tmp_path, nxmx_spec())
    with h5py.File(made.master, "r+") as h5:
        del h5[f"{TRANSFORMATIONS}/omega"].attrs["vector"]
    _, lacking, _ = reduce_nxs(made)
    assert lacking == [f"{TRANSFORMATIONS}/omega@vector"]


def test_a_moving_axis_of_unknown_direction_is_told(tmp_path: Path) -> None:
    extra = {"/entry/sample/goniometer/kappa": np.arange(12.0)}
    made = make_input(tmp_path, InputSpec(omega_step=0.0, extra=extra))
    _, lacking, _ = reduce_nxs(made)
    assert lacking == ["the directions of the axes that move (kappa)"]


@pytest.mark.parametrize("packed", [False, True])
def test_the_mask_comes_from_detector_specific_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    if packed:
        monkeypatch.setattr(treecopy, "COMPRESS_ABOVE", 0)
    made = make_input(tmp_path, nxmx_spec())
    with h5py.File(made.master, "r+") as h5:
        del h5[f"{DETECTOR}/pixel_mask"]
        assert f"{SPECIFIC}/pixel_mask" in h5
    path, _, _ = reduce_nxs(made, binning=2)
    with access.open_read(path) as h5:
        np.testing.assert_array_equal(h5[f"{DETECTOR}/pixel_mask"][()], metadata.bin_mask(made.mask, 2))
        assert (h5[f"{DETECTOR}/pixel_mask"].compression is not None) == packed
        # Which isn't read back for it.
        assert digest.told(h5, digest.OWN) == digest.of_master(h5)


@pytest.mark.parametrize("spec", [InputSpec(), InputSpec(omega_step=-0.05), nxmx_spec(axis_dtype="f4")], ids=str)
@pytest.mark.parametrize("total", [1, 7])
def test_angles_are_those_that_were_set(tmp_path: Path, spec: InputSpec, total: int) -> None:
    """0.05 degrees at 300, which singles tell to 3e-5, over 3,600 frames."""
    step = 0.05 * (1 if spec.omega_step > 0 else -1)
    spec = replace(spec, omega_start=300.0, omega_step=step, n_frames=3600, shape=(2, 3), frames_per_file=3600)
    path, lacking, _ = reduce_nxs(make_input(tmp_path, spec), sum=total)
    assert lacking == []
    sense = 1 if step > 0 else -1
    firsts = np.arange(0, 3600, total)
    lasts = np.minimum(firsts + total, 3600)
    with access.open_read(path) as h5:
        for group in (TRANSFORMATIONS, "/entry/data") if spec.flavour == "nxmx" else (TRANSFORMATIONS,):
            omega = h5[f"{group}/omega"]
            assert omega.dtype == np.float64
            np.testing.assert_allclose(sense * omega[()], 300 + step * firsts, rtol=0, atol=1e-6)
        ends = h5[f"{TRANSFORMATIONS}/omega_end"]
        assert ends.dtype == np.float64
        np.testing.assert_allclose(sense * ends[()], 300 + step * lasts, rtol=0, atol=1e-6)


def test_an_encoder_s_angles_stay(tmp_path: Path) -> None:
    angles = 300 + 0.1 * np.arange(12) + np.random.default_rng(3).normal(0, 0.002, 12)
    path, _, _ = reduce_nxs(make_input(tmp_path, nxmx_spec(omega=tuple(angles), omega_step=0.1, end_arrays=False)))
    with access.open_read(path) as h5:
        np.testing.assert_array_equal(h5[f"{TRANSFORMATIONS}/omega"][()], angles)


@pytest.mark.parametrize("spec", FLAVOURS, ids=lambda spec: spec.flavour)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int16", "int32"])
def test_marks_lie_below_the_least_count(tmp_path: Path, spec: InputSpec, dtype: str) -> None:
    limit = 200 if dtype == "uint8" else 30000
    told = {} if spec.flavour == "filewriter" else {f"{DETECTOR}/underload_value": np.int32(-5)}
    path, _, _ = reduce_nxs(make_input(tmp_path, replace(spec, extra=told)), dtype_out=dtype, limit=limit)
    with access.open_read(path) as h5:
        assert h5[f"{DETECTOR}/underload_value"][()] == 0
        assert h5[f"{DETECTOR}/saturation_value"][()] == limit


def test_floats_may_be_negative(tmp_path: Path) -> None:
    path, _, _ = reduce_nxs(make_input(tmp_path, nxmx_spec()), dtype_out="float32")
    with access.open_read(path) as h5:
        assert f"{DETECTOR}/underload_value" not in h5


def test_strings_are_of_fixed_length(tmp_path: Path) -> None:
    extra = {
        "/entry/title": "Å-ray",
        "/entry/empty": "",
        "/entry/names": np.array(["a", "βγ"], dtype=h5py.string_dtype()),
    }
    made = make_input(tmp_path, nxmx_spec(string_kind="vlen", extra=extra))
    path, lacking, _ = reduce_nxs(made, sum=2)
    assert lacking == []

    def is_variable(kind: Any) -> bool:
        return isinstance(kind, h5py.h5t.TypeStringID) and bool(kind.is_variable_str())

    seen = 0
    with access.open_read(path) as h5:
        items: list[Any] = [h5]
        h5.visititems(lambda name, item: items.append(item))
        for item in items:
            seen += isinstance(item, h5py.Dataset)
            assert not (isinstance(item, h5py.Dataset) and is_variable(item.id.get_type())), item
            for name in item.attrs:
                assert not is_variable(h5py.h5a.open(item.id, name.encode()).get_type()), (item, name)
        assert seen > 40
        assert access.text(h5["/entry/title"][()]) == "Å-ray"
        assert access.text(h5["/entry/empty"][()]) == ""
        assert [access.text(one) for one in h5["/entry/names"][()]] == ["a", "βγ"]
        assert access.text(h5["/entry"].attrs["NX_class"]) == "NXentry"
